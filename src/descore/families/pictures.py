"""Families that read each frame as a square picture of one size, and whose language model counts in one row."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from descore.families.family import Family
from descore.types import Frames, VideoFeatures


class PictureFamily(Family):
    """A family whose frames are pictures of one size, each with the same number of tokens."""

    tower_depth = "num_hidden_layers"
    packed_vision = False
    position_rows = 1

    @property
    @abstractmethod
    def merge(self) -> int:
        """Number of patches along one side that become one token."""

    @property
    def side(self) -> int:
        """Side of a picture in pixels."""
        return _side(self.config.vision_config.image_size)

    @property
    def tokens_per_side(self) -> int:
        """Number of tokens along one side of a picture."""
        return self.side // _side(self.config.vision_config.patch_size) // self.merge

    @property
    def reading(self) -> dict[str, Any]:
        """Every frame has one size, whatever its aspect ratio."""
        return {"factor": self.side // self.tokens_per_side, "even": 1, "size": (self.side, self.side)}

    def patches(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return each frame as one patch, [T, 3 * H * W], and the grid.

        Raises:
            ValueError: If the frames have another size.
        """
        if tuple(pixels.shape[2:]) != (self.side, self.side):
            raise ValueError(f"expected frames of {self.side}x{self.side} pixels, got {list(pixels.shape[2:])}")
        return pixels.flatten(1), torch.tensor([len(pixels), 1, 1])

    def positions(self, input_ids: Tensor, videos: Sequence[Frames], grids: Tensor) -> Tensor:
        """Return no positions beside those of the text, [0, P]."""
        return input_ids.new_empty(0, len(input_ids))

    def see(self, backbone: Any, patches: Tensor, grids: Tensor) -> tuple[VideoFeatures, ...]:
        """Run the vision tower over the frames of all videos."""
        frames = patches.view(len(patches), 3, self.side, self.side).to(backbone.dtype)
        features = self.features(backbone, frames)
        videos = torch.split(features, grids[:, 0].tolist())
        return tuple(VideoFeatures(video.flatten(0, 1), ()) for video in videos)

    @abstractmethod
    def features(self, backbone: Any, frames: Tensor) -> Tensor:
        """Return the features of frames [N, 3, H, W], [N, tokens, hidden]."""

    def token_shape(self, grid: Tensor) -> tuple[int, int, int]:
        """Return the number of frames, and the number of tokens along the sides of one."""
        return int(grid[0]), self.tokens_per_side, self.tokens_per_side


def _side(value: Any) -> int:
    """Return the side of a square that a configuration gives as one number or as two equal ones.

    Raises:
        ValueError: If the two numbers differ.
    """
    sides = {value} if isinstance(value, int) else set(value)
    if len(sides) > 1:
        raise ValueError(f"expected square pictures and patches, got {list(value)}")
    return int(sides.pop())
