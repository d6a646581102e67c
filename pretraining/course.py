"""What all courses share: steps that are functions of their number, the optimizer and its rates."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, IterableDataset

from descore.model.reward_model import RewardModel
from pretraining.muon import Muon
from pretraining.recipe import Course, settings_of

VECTOR_SHARE = 0.6


class Steps(IterableDataset[Any]):
    """Batches of a course from some step on; the batch of a step is a function of its number."""

    def __init__(self, first: int, make: Callable[[int], Any]) -> None:
        self.first, self.make = first, make

    def __iter__(self) -> Iterator[Any]:
        """Yield batch after batch, without end."""
        step = self.first
        while True:
            yield self.make(step)
            step += 1


class CourseModule(LightningModule):
    """A course; those that derive from it say what a batch holds, and what its loss is.

    Args:
        backbone: Folder of the backbone.
        course: Numbers of the course.
        seed: Seed of all that is drawn.
    """

    def __init__(self, backbone: str, course: Course, seed: int) -> None:
        super().__init__()
        self.course, self.seed = course, seed
        self.model = RewardModel.create(settings_of(backbone)).train()

    def maker(self, rank: int) -> Callable[[int], Any]:
        """Return what makes the batch of a step, on one rank."""
        raise NotImplementedError

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the batches from the step on where the course stands."""
        steps = Steps(self.trainer.global_step, self.maker(self.global_rank))
        return DataLoader(steps, batch_size=None, num_workers=1, prefetch_factor=4)

    def configure_optimizers(self) -> Any:
        """Matrices by Muon, the rest by AdamW; rates that rise, stay, and fall to 2 %."""
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            if not parameter.requires_grad:
                continue
            matrix = parameter.ndim == 2 and not any(part in name for part in ("embed", "heads"))
            groups.setdefault((matrix, "visual" in name and "merger" not in name), []).append(parameter)
        rate, course = self.course.learning_rate, self.course
        optimizer = Muon([
            {
                "params": parameters,
                "matrices": matrix,
                "lr": rate * (1.0 if matrix else VECTOR_SHARE) * (course.tower_share if tower else 1.0),
            }
            for (matrix, tower), parameters in groups.items()
        ])
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, self._rate), "interval": "step"},
        }

    def _rate(self, step: int) -> float:
        left = 1 - step / self.course.steps
        return min(1.0, (step + 1) / self.course.warmup) * min(1.0, max(0.02, left / self.course.decay))

    def log_loss(self, name: str, loss: Tensor) -> Tensor:
        """Log a loss, and return it."""
        self.log(f"train/{name}", loss.detach(), prog_bar=True)
        return loss


def as_labels(rows: list[list[int]]) -> Tensor:
    """Return rows of whole numbers as a tensor, int64."""
    return torch.tensor(rows, dtype=torch.int64)
