"""What a family of backbones is to the rest of the library: pixels, text of a video, positions, features, names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from descore.types import Frames, VideoFeatures


class Medium(NamedTuple):
    """How a chat shows frames: as a video, or each as a picture.

    Attributes:
        text: Text that the chat template writes in place of one video, or of one picture.
        placeholder: Token that stands for one token of it.
        key: Name of the placeholder's id in the configuration.
    """

    text: str
    placeholder: str
    key: str


class Family(ABC):
    """One family of transformers models, bound to the configuration of one backbone.

    Attributes:
        video: How a chat shows a video.
        picture: How a chat shows a picture.
        control_tokens: Tokens that the tokenizer must have.
        end_of_turn: Token that closes a thought.
        language: Name of the language model in the transformers model.
        tower: Name of the vision tower in the transformers model.
        tower_layers: Name of the list of layers in the vision tower.
        tower_depth: Name of the number of these layers in the vision configuration.
        merger: Part of the names of what maps vision features to the language model.
        packed_vision: Whether the vision tower reads all frames in one row with cumulative lengths.
        position_rows: 4 where the language model counts in M-RoPE, and 1 where it counts tokens only.
        layer_kinds: Kinds of layers, as the configuration of the language model names them, that a packed row is right
            for.
        graphed: Whether a decoding step can be captured as a CUDA graph: it never waits for the device, and changes the
            thought cache in place.
        modules: Classes of the language model, of its layers, and of what the layers consist of, that a packed row is
            right for.

    Args:
        config: Configuration of the backbone.
        loose: Whether each frame of a video is shown as a picture of its own, instead of all as a video.
    """

    video: ClassVar[Medium]
    picture: ClassVar[Medium]
    control_tokens: ClassVar[tuple[str, ...]]
    end_of_turn: ClassVar[str] = "<|im_end|>"
    language: ClassVar[str] = "language_model"
    tower: ClassVar[str]
    tower_layers: ClassVar[str]
    tower_depth: ClassVar[str]
    merger: ClassVar[str]
    packed_vision: ClassVar[bool]
    position_rows: ClassVar[int]
    layer_kinds: ClassVar[frozenset[str]] = frozenset({"full_attention"})
    graphed: ClassVar[bool] = True
    modules: ClassVar[frozenset[str]]

    def __init__(self, config: Any, *, loose: bool = False) -> None:
        self.config = config
        self.loose = loose

    @property
    def medium(self) -> Medium:
        """How a chat shows the frames of a video."""
        return self.picture if self.loose else self.video

    @property
    def placeholder(self) -> str:
        """Token that stands for one token of a video."""
        return self.medium.placeholder

    @property
    def placeholder_id(self) -> int:
        """Token id of the placeholder."""
        return int(getattr(self.config, self.medium.key))

    @property
    def chat_template(self) -> str | None:
        """Chat template of the family; None takes the tokenizer's own."""
        return None

    @property
    @abstractmethod
    def reading(self) -> dict[str, Any]:
        """How frames are read: the arguments of `VideoReader` beside its settings."""

    @abstractmethod
    def patches(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Cut frames into what the vision tower reads.

        Args:
            pixels: [T, 3, H, W] uint8 frames.

        Returns:
            Patches [N, patch_dim] uint8, each with its values ordered by colour channel, and the grid [3]: their number
            in time, height and width.
        """

    def texts(self, frames: Frames, grid: Tensor) -> list[str]:
        """Return what takes the places of `medium.text` for one video: one text, or one for each loose picture."""
        if self.loose:
            return [self.picture_text(grid)] * len(frames.pixels)
        return [self.video_text(frames, grid)]

    @abstractmethod
    def video_text(self, frames: Frames, grid: Tensor) -> str:
        """Return the text that takes the place of a video, with one placeholder for each video token."""

    @abstractmethod
    def picture_text(self, grid: Tensor) -> str:
        """Return the text that takes the place of one frame as a picture, with one placeholder for each token."""

    @abstractmethod
    def positions(self, input_ids: Tensor, videos: Sequence[Frames], grids: Tensor) -> Tensor:
        """Return the positions beside the text positions, [3, P] for M-RoPE and [0, P] for a family without it.

        Args:
            input_ids: [P] tokens of the prefix.
            videos: Frames of each of its V videos.
            grids: Grid of each of them, [V, 3].
        """

    @abstractmethod
    def see(self, backbone: Any, patches: Tensor, grids: Tensor) -> tuple[VideoFeatures, ...]:
        """Run the vision tower over the videos of a batch.

        Args:
            backbone: The transformers model without its output layer.
            patches: Patches of all videos, normalised, [N, patch_dim] float.
            grids: Grid of each video, [V, 3].
        """

    @abstractmethod
    def outputs(self, seen: Sequence[VideoFeatures]) -> Mapping[str, Any]:
        """Return the features of the videos of a batch in the form that transformers takes as `mm_encoder_outputs`."""

    @abstractmethod
    def token_shape(self, grid: Tensor) -> tuple[int, int, int]:
        """Return the number of video tokens in time, height and width."""

    def prepare(self, backbone: Any) -> None:  # noqa: B027
        """Give layers that mix tokens otherwise than by attention a forward over packed rows."""

    def layers(self, backbone: Any) -> list[nn.ModuleList]:
        """Return the lists of layers of a transformers model: those of its language model and of its vision tower."""
        names = (f"{self.language}.layers", f"{self.tower}.{self.tower_layers}")
        return [backbone.get_submodule(name) for name in names]
