"""Train either stage: `python -m descore.train fit -c conf/stage1.yaml`."""

from __future__ import annotations

from jsonargparse import set_parsing_settings
from lightning.pytorch.cli import ArgsType, LightningCLI


def main(args: ArgsType = None) -> None:
    """Run LightningCLI; `fit --help` tells what can be set."""
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    LightningCLI(
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        save_config_kwargs={"overwrite": True},
        parser_kwargs={"parser_mode": "omegaconf+"},
        args=args,
    )


if __name__ == "__main__":
    main()
