"""Runs whose rollouts and accuracies are written down beforehand."""

from types import SimpleNamespace

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from descore.thinking.rollouts import Rollouts
from descore.types import Group, Pair, Side, Thought

NAN = float("nan")


def rollouts(rewards, *, texts=None, parts=None, prompt="A red ball", preference=(1.0,)):
    """Rollouts [V, n] of V / 2 pairs; the last thought of each group is cut.

    Thought i of video v, both counted from 1, has i tokens, the advantage v.i, and the rewards -v.i, -1v.i, -2v.i, ...
    """
    rewards = torch.tensor(rewards, dtype=torch.float64)
    num_videos, n = rewards.shape
    count = torch.arange(1, num_videos + 1)[:, None] + torch.arange(1, n + 1) / 10
    heads = torch.stack([-count - 10 * k for k in range(len(preference))], 2)
    texts = texts or [[f"thought {i} of video {v}" for i in range(1, n + 1)] for v in range(1, num_videos + 1)]
    thoughts = tuple(Thought((7,) * i, closed=i < n) for i in range(1, n + 1))
    pairs = tuple(Pair(f"pair *{m}*", prompt, Side("a"), Side("b"), preference) for m in range(num_videos // 2))
    return Rollouts(
        pairs=pairs,
        preference=torch.tensor([pair.preference for pair in pairs]),
        groups=tuple(Group(thoughts, tuple(said), (), head) for said, head in zip(texts, heads, strict=True)),
        rewards=rewards,
        parts=parts or {"quality": rewards},
        advantages=count.double(),
        old_logprobs=torch.zeros(num_videos, n, 1),
        mask=torch.ones(num_videos, n, 1).bool(),
        prefixes=(),
        seen=None,
    )


class Scripted(LightningModule):
    """Batch i of the run gives `script[i]`, validation the next accuracy; a batch takes two optimizer steps."""

    def __init__(self, script, accuracies=(), *, names=("reward",), metric="val/preference_accuracy", batches=None):
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.model = SimpleNamespace(settings=SimpleNamespace(reward_names=names, is_pairwise=False))
        self.script, self.accuracies, self.metric = script, iter(accuracies), metric
        self.batches = batches or len(script)

    def training_step(self, batch, batch_idx):
        for _ in range(2):
            self.optimizers().step()
        return {"rollouts": self.script[self.trainer.fit_loop.total_batch_idx]}

    def validation_step(self, batch, batch_idx):
        pass

    def on_validation_epoch_end(self):
        self.log(self.metric, next(self.accuracies))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters())

    def train_dataloader(self):
        return DataLoader(range(self.batches))

    def val_dataloader(self):
        return DataLoader(range(1))


def trainer(folder, *callbacks, **options):
    options = {"max_epochs": 1, "num_sanity_val_steps": 0, "check_val_every_n_epoch": None} | options
    options.setdefault("logger", TensorBoardLogger(folder, name="run", version=0))
    switches = ("enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    return Trainer(accelerator="cpu", callbacks=list(callbacks), **dict.fromkeys(switches, False), **options)


def events(folder):
    return EventAccumulator(str(folder / "run" / "version_0"), size_guidance={"tensors": 0, "scalars": 0}).Reload()
