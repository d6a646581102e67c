"""Train either stage: `python -m descore.train fit -c conf/stage1.yaml`."""

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
    """LightningCLI, and `--resume`."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add `--resume`."""
        parser.add_argument(
            "--resume",
            type=str | None,
            help="auto: go on from the newest whole checkpoint of the last run of this name, in its folder, or start "
            "where there is none; else a checkpoint to go on from",
        )

    def before_instantiate_classes(self) -> None:
        """Find the checkpoint, and go on where the run that wrote it logged and saved.

        Raises:
            OSError: If the folder of the run cannot be written to.
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
            rank_zero_info(f"{run} has no checkpoint to go on from: the run starts at its beginning")
            return
        rank_zero_only(sweep)(run / f"version_{found.version}")
        rank_zero_info(f"Going on from {found.path} at step {found.global_step}")
        config.ckpt_path = str(found.path)
        logger.version = found.version
        logger.purge_step = found.logged_step  # TensorBoard then forgets what the run had logged beyond its checkpoint


def main(args: ArgsType = None, *, run: bool = True) -> LightningCLI:
    """Run LightningCLI; `fit --help` tells what can be set. With `run=False` everything is built and nothing runs."""
    disable_progress_bar()  # transformers draws one for every export, across the progress bar of the run
    warnings.filterwarnings("ignore", message=".*LeafSpec")  # Lightning's own use of torch; nothing a user can change
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
