"""Train either stage: `python -m descore.train fit -c conf/stage1.yaml`."""

from __future__ import annotations

import warnings

from jsonargparse import set_parsing_settings
from lightning.pytorch.cli import ArgsType, LightningCLI
from transformers.utils.logging import disable_progress_bar


def main(args: ArgsType = None, *, run: bool = True) -> LightningCLI:
    """Run LightningCLI; `fit --help` tells what can be set. With `run=False` everything is built and nothing runs."""
    disable_progress_bar()  # transformers draws one for every export, across the progress bar of the run
    warnings.filterwarnings("ignore", message=".*LeafSpec")  # Lightning's own use of torch; nothing a user can change
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    return LightningCLI(
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        save_config_kwargs={"overwrite": True},
        parser_kwargs={"parser_mode": "omegaconf+", "allow_abbrev": False},
        args=args,
        run=run,
    )


if __name__ == "__main__":
    main()
