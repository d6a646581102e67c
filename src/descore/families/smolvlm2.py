"""SmolVLM2: each frame is a square picture after its minute and second, between an introduction and two line ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from descore.families.family import Medium
from descore.families.pictures import PictureFamily
from descore.types import Frames, ModelError, VideoFeatures


class SmolVLM2(PictureFamily):
    """SmolVLM2, small enough for a laptop."""

    video = Medium("<video>", "<image>", "image_token_id")
    picture = Medium("<image>", "<image>", "image_token_id")
    control_tokens = ("<fake_token_around_image>", "<global-img>", "<image>", "<end_of_utterance>")
    end_of_turn = "<end_of_utterance>"
    language = "text_model"
    tower = "vision_model"
    tower_layers = "encoder.layers"
    merger = "connector"
    modules = frozenset({"LlamaModel", "LlamaDecoderLayer", "LlamaAttention", "LlamaMLP", "LlamaRMSNorm"})

    @property
    def chat_template(self) -> str:
        """Chat template of transformers' own processor for videos; the tokenizer's own has pictures only."""
        return str(_own().DEFAULT_CHAT_TEMPLATE)

    @property
    def merge(self) -> int:
        """Number of patches along one side that become one token."""
        return int(self.config.scale_factor)

    def video_text(self, frames: Frames, grid: Tensor) -> str:
        """Return an introduction in words, and each frame after its minute and second."""
        picture = self.picture_text(grid)
        duration = timedelta(seconds=int(frames.num_source_frames / frames.source_fps))
        labels = (f"{int(second // 60):02d}:{int(second % 60):02d}" for second in frames.seconds)
        own = _own()
        intro = own.DEFAULT_VIDEO_INTRO.format(frame_count=_in_words(int(grid[0])), video_duration=str(duration))
        lines = (own.FRAME_TIMESTAMP_MESSAGE.format(timestamp=label) + picture for label in labels)
        return f"{intro}{''.join(lines)}{own.DEFAULT_MEDIA_OUTTRO}"

    def picture_text(self, grid: Tensor) -> str:
        """Return the block of a picture that is not split into tiles."""
        _, rows, columns = self.token_shape(grid)
        around = "<fake_token_around_image>"
        return f"{around}<global-img>{self.placeholder * (rows * columns)}{around}"

    def features(self, backbone: Any, frames: Tensor) -> Tensor:
        """Return the features of frames, [N, tokens, hidden].

        transformers' own `get_image_features` takes a frame of zeros for padding and leaves it out.
        """
        patches = self.tokens_per_side * self.merge
        everywhere = frames.new_ones(len(frames), patches, patches).bool()
        states = backbone.vision_model(pixel_values=frames, patch_attention_mask=everywhere, return_dict=True)
        return backbone.connector(states.last_hidden_state)  # type: ignore[no-any-return]

    def outputs(self, seen: Sequence[VideoFeatures]) -> Mapping[str, Any]:
        """Return the features as those of pictures, one tensor a video."""
        return {"image": SimpleNamespace(pooler_output=[video.main for video in seen])}


def _own() -> Any:
    """Return transformers' own module with the texts around a video; it is slow to import, so only where it is used."""
    from transformers.models.smolvlm import processing_smolvlm

    return processing_smolvlm


def _in_words(number: int) -> str:
    """Write a number in English words, as SmolVLM2's own processor does.

    Raises:
        ModelError: If num2words is not installed.
    """
    try:
        from num2words import num2words  # type: ignore[import-untyped]
    except ImportError as error:
        raise ModelError("SmolVLM2 needs num2words to write numbers: pip install 'descore[smolvlm]'") from error
    return str(num2words(number))
