"""The course in perception: the vision tower learns to see, from probes that read the ten attributes off its tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from data_modules.world.scene import VALUES, Scene, Split
from descore.types import Branches, Frames
from pretraining.course import CourseModule, as_labels
from pretraining.recipe import VIDEO, Course
from pretraining.videos import Videos, numbers_of

CHECKED: tuple[Split, ...] = ("train", "ood", "far")
BATCH = 64


class Seen(NamedTuple):
    """Videos of one step, and what they show: the index of the word of each attribute, `[V, 10]`."""

    branches: Branches
    labels: Tensor


class Probe(nn.Module):
    """Reads the ten attributes of a video off the tokens of the tower.

    Args:
        width: Size of a token.
        depth: Number of temporal patches of a video.
    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.depth = depth
        self.local = nn.Sequential(nn.Linear(width, 128), nn.GELU())
        self.mix = nn.Sequential(nn.Linear(2 * 128 * depth, 192), nn.GELU())
        self.heads = nn.ModuleList(nn.Linear(192, len(words)) for words in VALUES.values())

    def forward(self, tokens: Tensor) -> list[Tensor]:
        """Map tokens `[V, N, width]` to the logits of the words of each attribute, `[V, words]` each."""
        local = self.local(tokens.view(len(tokens), self.depth, -1, tokens.shape[-1]))
        pooled = torch.cat([local.mean(2), local.amax(2)], -1).flatten(1)
        mixed = self.mix(pooled)
        return [head(mixed) for head in self.heads]


class PerceptionModule(CourseModule):
    """Trains the vision tower of a backbone, and probes that are thrown away.

    Args:
        backbone: Folder of the backbone.
        course: Numbers of the course.
        seed: Seed of all that is drawn.
    """

    def __init__(self, backbone: str, course: Course, seed: int) -> None:
        super().__init__(backbone, course, seed)
        vision = self.model.base.config.vision_config
        depth = VIDEO.max_frames // vision.temporal_patch_size
        self.probe = Probe(self.model.base.config.get_text_config().hidden_size, depth)
        self.model.requires_grad_(False)
        self.model.base.model.visual.requires_grad_(True)

    def maker(self, rank: int) -> Callable[[int], Seen]:
        """Return what draws the videos of a step."""
        seed = self.seed + 1000 * rank
        videos = Videos(self.model.processor.video_reader, seed=seed, kept=self.course.kept)
        return lambda step: self._pack([videos[number] for number in numbers_of(step, self.course, seed)])

    def _pack(self, videos: Sequence[tuple[Scene, Frames]]) -> Seen:
        processor = self.model.processor
        prefixes = [processor.prefix("a", frames) for _, frames in videos]
        labels = [[words.index(getattr(scene, name)) for name, words in VALUES.items()] for scene, _ in videos]
        return Seen(processor.pack(prefixes, [()] * len(prefixes)), as_labels(labels))

    def transfer_batch_to_device(self, batch: Seen, device: torch.device, dataloader_idx: int) -> Seen:
        """Move what is a tensor."""
        return Seen(batch.branches.to(device), batch.labels.to(device))

    def logits(self, branches: Branches) -> list[Tensor]:
        """Return the logits of the words of each attribute."""
        return list(self.probe(torch.stack([video.main for video in self.model.see(branches)])))

    def training_step(self, batch: Seen, batch_idx: int) -> Tensor:
        """Sum the cross entropies of the ten attributes."""
        logits = self.logits(batch.branches)
        losses = [cross_entropy(one, labels) for one, labels in zip(logits, batch.labels.T, strict=True)]
        return self.log_loss("loss", torch.stack(losses).sum())

    def val_dataloader(self) -> list[DataLoader[Seen]]:
        """Return videos of each split that is checked."""
        loaders: list[DataLoader[Seen]] = []
        for split in CHECKED:
            videos = Videos(self.model.processor.video_reader, split, seed=self.seed - 1, kept=self.course.checked)
            numbers = [
                range(first, min(first + BATCH, self.course.checked)) for first in range(0, self.course.checked, BATCH)
            ]
            batches = [self._pack([videos[number] for number in some]) for some in numbers]
            loaders.append(DataLoader(batches, batch_size=None))  # type: ignore[arg-type]
        return loaders

    def validation_step(self, batch: Seen, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Count the attributes that are seen right."""
        found = [one.argmax(1) for one in self.logits(batch.branches)]
        right = (torch.stack(found, 1) == batch.labels).float()
        for name, share in zip(VALUES, right.mean(0), strict=True):
            self.log(f"val/{CHECKED[dataloader_idx]}/{name}", share, add_dataloader_idx=False, batch_size=len(right))
        self.log(f"val/{CHECKED[dataloader_idx]}", right.mean(), add_dataloader_idx=False, batch_size=len(right))


def tower_of(checkpoint: Path) -> dict[str, Tensor]:
    """Return the weights of the vision tower in a checkpoint of this course."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    within = "model.network.model.visual."
    return {name.removeprefix(within): value for name, value in state.items() if name.startswith(within)}
