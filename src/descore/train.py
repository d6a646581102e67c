"""Training of either stage: `python -m descore.train fit -c conf/stage1.yaml`."""

from __future__ import annotations

import warnings
from pathlib import Path

from jsonargparse import set_parsing_settings
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from transformers.utils.logging import disable_progress_bar

from descore.atomic import check_writable, sweep
from descore.runtime.ranks import AllRanksOrNone, follow_launcher
from descore.runtime.resume import find_checkpoint


class TrainCLI(LightningCLI):
    """LightningCLI with an option `--resume` that finds the newest checkpoint of a run."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the option `--resume`."""
        parser.add_argument(
            "--resume",
            type=str | None,
            help="checkpoint to resume from, or auto: resume the last run of this name from its newest complete "
            "checkpoint, into the same folder, or start a new run if there is none",
        )

    def before_instantiate_classes(self) -> None:
        """Find the checkpoint to resume from, and log and save into the folder of the run that wrote it.

        Raises:
            OSError: If the folder of the run cannot be written to.
            ValueError: If the run has checkpoints, and none of them can be loaded.
        """
        subcommand = self.config.get("subcommand")
        config = self.config.get(subcommand or "", self.config)
        if subcommand == "fit" and (save_dir := config.get("trainer.logger.init_args.save_dir")):
            check_writable(Path(save_dir))
        if not (resume := config.pop("resume", None)):
            return
        if resume != "auto":
            config.ckpt_path = resume
            return
        logger = config.trainer.logger.init_args
        run = Path(logger.save_dir) / (logger.name or "")
        if (found := find_checkpoint(run)) is None:
            rank_zero_info(f"{run} has no checkpoint to resume from; starting a new run")
            return
        rank_zero_only(sweep)(run / f"version_{found.version}")
        rank_zero_info(f"Resuming from {found.path} at step {found.global_step}")
        config.ckpt_path = str(found.path)
        logger.version = found.version
        logger.purge_step = found.logged_step  # TensorBoard drops what was logged after the checkpoint


def main(args: ArgsType = None, *, run: bool = True) -> LightningCLI:
    """Run LightningCLI; `python -m descore.train fit --help` lists its options.

    Args:
        args: Command-line arguments; those of the process if not given.
        run: Whether to run the subcommand. If False, everything is built and nothing runs.
    """
    disable_progress_bar()  # transformers would draw one for every export, across the progress bar of the run
    warnings.filterwarnings("ignore", message=".*LeafSpec")  # raised by Lightning's own code; users cannot act on it
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    follow_launcher()
    return TrainCLI(
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        save_config_kwargs={"overwrite": True},
        trainer_defaults={"callbacks": [AllRanksOrNone()]},
        parser_kwargs={"parser_mode": "omegaconf+", "allow_abbrev": False},
        args=args,
        run=run,
    )


if __name__ == "__main__":
    main()
