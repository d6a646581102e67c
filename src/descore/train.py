"""Training of either stage: `python -m descore.train fit -c conf/stage1.yaml`."""

from __future__ import annotations

import logging
import signal
import sys
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jsonargparse import set_parsing_settings
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from transformers.utils.logging import disable_progress_bar

from descore import __version__
from descore.atomic import check_writable, sweep
from descore.runtime.parsing import TrainParser, import_class
from descore.runtime.ranks import AllRanksOrNone, follow_launcher
from descore.runtime.resume import find_checkpoint
from descore.runtime.starts import NothingBeforeTheFirstStep, check_backbone, find_start
from descore.runtime.trainer import RunTrainer
from descore.runtime.wrong_use import WRONG_USE, find_wrong_use

_NOISE = (
    ".*LeafSpec",
    ".*`is_gradient_checkpointing` is deprecated",
    ".*Total length of `list` across ranks is zero",  # a run without validation, which the data module tells of
    ".*could not find the monitored key",
    ".*tie_word_embeddings=True` and a tied layer is part of the adapter",
    ".*is smaller than the logging interval",
    ".*does not have many workers",
)
"""Warnings of libraries that a user cannot act on."""

INTERRUPTED = 128 + signal.SIGINT
"""Exit code of a run that was ended by Ctrl-C."""


class TrainCLI(LightningCLI):
    """LightningCLI with an option `--resume` that finds the newest checkpoint of a run."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return what can be run, and which arguments of Lightning's method are not options."""
        return {"fit": LightningCLI.subcommands()["fit"]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the option `--resume`."""
        parser.add_argument(
            "--resume",
            type=str | None,
            help="checkpoint to resume from, or auto: resume the last run of this name from its newest complete "
            "checkpoint, into the same folder, or start a new run if there is none",
        )

    def before_instantiate_classes(self) -> None:
        """Find the checkpoint to resume from and the model to start from, before any data is rendered or read.

        Raises:
            OSError: If the folder of the run cannot be written to.
            ValueError: If the run has checkpoints, and none of them can be loaded; or if there is no such model.
        """
        if self.config.get("subcommand") != "fit":
            return
        config = self.config.fit
        if config.trainer.fast_dev_run:
            self._scratch = TemporaryDirectory(prefix="descore-")  # is removed together with this object
            config.trainer.default_root_dir = self._scratch.name
        elif save_dir := config.get("trainer.logger.init_args.save_dir"):
            check_writable(Path(save_dir))
        if resume := config.pop("resume", None):
            config.ckpt_path = self._resume(config.trainer) if resume == "auto" else resume
        self._find_start(config)

    def before_fit(self) -> None:
        """Let a start that fails leave nothing."""
        logger = self.trainer.logger
        folder = Path(str(getattr(logger, "log_dir", None) or "."))
        if not folder.exists():
            self.trainer.callbacks.insert(0, NothingBeforeTheFirstStep(folder))  # type: ignore[attr-defined]

    def _resume(self, trainer: Any) -> str | None:
        """Find the newest checkpoint of the run, and log and save into the folder of the run that wrote it."""
        logger = trainer.logger.init_args if trainer.logger else None
        if logger is None or not logger.get("save_dir"):
            raise ValueError(
                "--resume auto looks where the logger saves, and this run has none; give --resume CHECKPOINT"
            )
        run = Path(logger.save_dir) / (logger.name or "")
        if (found := find_checkpoint(run)) is None:
            rank_zero_info(f"{run} has no checkpoint to resume from; starting a new run")
            return None
        rank_zero_only(sweep)(run / f"version_{found.version}")
        rank_zero_info(f"Resuming from {found.path} at step {found.global_step}")
        logger.version = found.version
        if issubclass(import_class(trainer.logger.class_path), TensorBoardLogger):
            logger.purge_step = found.logged_step  # TensorBoard drops what was logged after the checkpoint
        return str(found.path)

    def _find_start(self, config: Any) -> None:
        """Replace a run of stage 1 by its export, which config.yaml then names; check that a backbone is there."""
        options = config.model.init_args
        if pretrained := options.get("pretrained"):
            checkpoint = Path(config.ckpt_path) if config.ckpt_path else None
            found = find_start(pretrained, checkpoint, options.get("backbone"))
            rank_zero_info(f"Starting from {found}")
            options.pretrained = str(found)
        elif backbone := options.get("backbone"):
            check_backbone(backbone)


def _earns_its_place(record: logging.LogRecord) -> bool:
    """Leave out Lightning's advertisements, and hardware that nobody asked for."""
    return not record.getMessage().startswith(("💡", "TPU available: False"))


def main(args: ArgsType = None, *, run: bool = True) -> LightningCLI:
    """Run LightningCLI; `python -m descore.train fit --help` lists its options.

    Args:
        args: Command-line arguments; those of the process if not given.
        run: Whether to run the subcommand. If False, everything is built and nothing runs.
    """
    disable_progress_bar()  # transformers would draw one for every export, across the progress bar of the run
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=message)
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).addFilter(_earns_its_place)
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    follow_launcher()
    return TrainCLI(
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        save_config_kwargs={"overwrite": True},
        trainer_defaults={"callbacks": [AllRanksOrNone()]},
        trainer_class=RunTrainer,
        parser_class=TrainParser,
        parser_kwargs={
            "prog": "python -m descore.train",
            "version": __version__,
            "parser_mode": "omegaconf+",
            "allow_abbrev": False,
        },
        args=args,
        run=run,
    )


def command(args: ArgsType = None) -> int:
    """Run a command line, and say in one line what is wrong with it.

    Args:
        args: Command-line arguments; those of the process if not given.

    Returns:
        Exit code: 0 done, 2 wrong use, 130 interrupted. A fault of the program is raised.
    """
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    try:
        main(args)
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit as end:  # Lightning's own after Ctrl-C has code 1
        if isinstance(end.__context__, KeyboardInterrupt):
            return INTERRUPTED
        raise
    except Exception as error:
        if (wrong := find_wrong_use(error)) is None:
            raise
        sys.stderr.write(f"descore.train: {wrong}\n")
        return WRONG_USE
    return 0


if __name__ == "__main__":
    sys.exit(command())
