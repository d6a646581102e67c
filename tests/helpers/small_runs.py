"""Small runs of both stages, to be killed, resumed and compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tests.helpers.ranks import start

SHARDED = ("-c", "conf/overlay/fsdp.yaml", "--trainer.precision", "32-true")
EVERY_STEP = ("--trainer.callbacks+=callbacks.last_checkpoint.LastCheckpoint", "--trainer.callbacks.every_n_steps=1")
TINY = {
    1: ("--model.max_thought_tokens", "8", "--trainer.max_epochs", "3", "--trainer.val_check_interval", "3"),
    2: (
        *("--model.sampling.num_thoughts", "2", "--model.sampling.temperature", "4"),
        *("--model.sampling.max_tokens", "8", "--model.batching.mini_batch_pairs", "1"),
        *("--trainer.max_steps", "36", "--trainer.val_check_interval", "4"),
    ),
}
"""Three epochs of six batches; stage 2 takes two optimizer steps for each, on thoughts of high temperature."""


@dataclass(frozen=True)
class Run:
    """A small run of a stage.

    Attributes:
        stage: 1 or 2.
        folder: Folder that it writes to.
        data: Folder of the rendered pairs, and of the export `start` that stage 2 begins with.
        options: Arguments beyond those of every run.
        ranks: Number of ranks; two of them share the model.
        prepare: Function that every rank calls before it trains.
    """

    stage: int
    folder: Path
    data: Path
    options: tuple[str, ...] = ()
    ranks: int = 1
    prepare: Callable[[], None] | None = None

    @property
    def log(self) -> Path:
        """What the ranks print."""
        return self.folder / "log"

    @property
    def version(self) -> Path:
        """The folder that the last process wrote to."""
        versions = (self.folder / f"stage{self.stage}").glob("version_*")
        return max(versions, key=lambda path: int(path.name.removeprefix("version_")))

    def start(self, *more: str) -> list[ForkServerProcess]:
        """Start the ranks."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return start([*self._arguments(), *more], self.ranks, self.log, self.prepare)

    def finish(self, *more: str) -> None:
        """Start the ranks and wait until they have ended well."""
        ranks = self.start(*more)
        for rank in ranks:
            rank.join()
        assert not any(rank.exitcode for rank in ranks), self.log.read_text()[-3000:]

    def _arguments(self) -> list[str]:
        return [
            *("fit", "-c", f"conf/stage{self.stage}.yaml", *(SHARDED if self.ranks > 1 else ())),
            *("--trainer.accelerator", "cpu", "--trainer.enable_model_summary", "false"),
            *("--trainer.logger.save_dir", str(self.folder), "--trainer.log_every_n_steps", "1"),
            *("--data.root", str(self.data / "rendered"), "--data.num_train", "12", "--data.num_val", "2"),
            *("--data.batch_size", str(2 // self.ranks), "--data.num_workers", "0"),
            *("--model.own_thought_pairs", "1", *TINY[self.stage]),
            *(("--model.pretrained", str(self.data / "start")) if self.stage == 2 else ()),
            *self.options,
        ]
