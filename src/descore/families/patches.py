"""Families whose vision tower reads patches of any number and whose language model counts in M-RoPE."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from descore.families.family import Family
from descore.types import Frames, VideoFeatures


class PatchFamily(Family):
    """A family with patches of a few frames and pixels, merged by blocks, and positions in time, height and width.

    A loose picture is a temporal patch of its own, which holds its frame several times. To the vision tower, whose
    attention stays within a temporal patch, the pictures of a video are such patches of one grid.
    """

    tower = "visual"
    tower_layers = "blocks"
    tower_depth = "depth"
    merger = "merger"
    packed_vision = True
    position_rows = 4

    @property
    def reading(self) -> dict[str, Any]:
        """Sides are multiples of a merged block, and the number of frames of a video is one of a patch's."""
        vision = self.config.vision_config
        even = 1 if self.loose else vision.temporal_patch_size
        return {"factor": vision.patch_size * vision.spatial_merge_size, "even": even}

    def patches(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Cut frames [T, 3, H, W] into patches [N, 3 * t * p * p], ordered by merge block; return them and the grid."""
        vision = self.config.vision_config
        patch, merge, depth = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
        pixels = pixels.repeat_interleave(depth, dim=0) if self.loose else pixels
        time, rows, columns = len(pixels) // depth, pixels.shape[2] // patch, pixels.shape[3] // patch
        blocks = pixels.view(time, depth, 3, rows // merge, merge, patch, columns // merge, merge, patch)
        patches = blocks.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(time * rows * columns, -1)
        return patches, torch.tensor([time, rows, columns])

    def video_text(self, frames: Frames, grid: Tensor) -> str:
        """Return the text of a video from the placeholders of its temporal patches."""
        time, rows, columns = self.token_shape(grid)
        return self.text_of_patches(self.placeholder * (rows * columns), self.seconds(frames)[:time])

    def picture_text(self, grid: Tensor) -> str:
        """Return the block of a picture with its placeholders."""
        _, rows, columns = self.token_shape(grid)
        return self.picture.text.replace(self.placeholder, self.placeholder * (rows * columns))

    @abstractmethod
    def text_of_patches(self, placeholders: str, seconds: Sequence[float]) -> str:
        """Return the text of a video.

        Args:
            placeholders: Placeholders of one temporal patch.
            seconds: Time of each temporal patch.
        """

    def seconds(self, frames: Frames) -> list[float]:
        """Return the middle of each temporal patch in seconds, computed from the times of its frames."""
        depth = self.config.vision_config.temporal_patch_size
        firsts, lasts = frames.seconds[::depth], frames.seconds[depth - 1 :: depth]
        # Qwen3-VL's processor computes in this order. Another order would round one label in a hundred differently.
        return [(first + last) / 2 for first, last in zip(firsts, lasts, strict=True)]

    def positions(self, input_ids: Tensor, videos: Sequence[Frames], grids: Tensor) -> Tensor:
        """Return the M-RoPE positions, [3, P], of transformers' own `get_rope_index`, called without a model."""
        model_class: Any = MODEL_MAPPING[type(self.config)]
        stand_in = SimpleNamespace(
            config=self.config, get_vision_position_ids=partial(model_class.get_vision_position_ids, None)
        )
        kinds = (input_ids == self.placeholder_id).int() * (1 if self.loose else 2)
        if self.loose:
            media = {"image_grid_thw": grids_of_pictures(grids)}
        else:
            media = {"video_grid_thw": grids, **self.spacing(videos)}
        positions, _ = model_class.get_rope_index(stand_in, input_ids[None], mm_token_type_ids=kinds[None], **media)
        return positions[:, 0]  # type: ignore[no-any-return]

    def spacing(self, videos: Sequence[Frames]) -> dict[str, Tensor]:
        """Return what `get_rope_index` needs to space the temporal patches of each video."""
        return {}

    def see(self, backbone: Any, patches: Tensor, grids: Tensor) -> tuple[VideoFeatures, ...]:
        """Run the vision tower over the patches of all videos."""
        output = backbone.get_video_features(patches, grids, return_dict=True)
        layers = getattr(output, "deepstack_features", None) or ()
        deepstack = zip(*layers, strict=True) if layers else [()] * len(output.pooler_output)
        return tuple(VideoFeatures(*features) for features in zip(output.pooler_output, deepstack, strict=True))

    def outputs(self, seen: Sequence[VideoFeatures]) -> Mapping[str, Any]:
        """Return the features as those of videos, or of pictures."""
        media = SimpleNamespace(
            pooler_output=[video.main for video in seen],
            deepstack_features=list(zip(*(video.deepstack for video in seen), strict=True)),
        )
        return {"image" if self.loose else "video": media}

    def token_shape(self, grid: Tensor) -> tuple[int, int, int]:
        """Return the number of merged blocks in time, height and width."""
        time, rows, columns = grid.tolist()
        merge = self.config.vision_config.spatial_merge_size
        return time, rows // merge, columns // merge


def grids_of_pictures(grids: Tensor) -> Tensor:
    """Return the grid of each loose picture of some videos.

    >>> grids_of_pictures(torch.tensor([[2, 4, 6], [1, 8, 8]])).tolist()
    [[1, 4, 6], [1, 4, 6], [1, 8, 8]]
    """
    return torch.cat([torch.ones_like(grids[:, :1]), grids[:, 1:]], dim=1).repeat_interleave(grids[:, 0], dim=0)
