"""`descore import`: turn the files of a published model into an exported folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, get_args

from descore.commands.usage import UsageError
from descore.importing.request import ImportRequest, LayoutName, ProtocolName

EXAMPLES = """examples:
  descore import videoreward KlingTeam/VideoReward --template videoreward.txt --output models/videoreward
  descore import hpsv3 MizzenAI/HPSv3 --template hpsv3.txt --output models/hpsv3
  descore import descore-stage1 output/checkpoint-1000 --output models/stage1
  descore import descore-stage2 results/run/global_step_100 --output models/stage2
  descore import plain TIGER-Lab/VideoScore2 --protocol videoscore2 --template vs2.txt --output models/vs2
  descore import plain owner/judge --protocol judge.yaml --output models/judge

Every tensor is used once and every weight of the model is filled once, or the import fails and names the tensors. No
code of the files is run. descore.json of the output says where it comes from: SHA-256 of each file, commit, license,
and how the published code reads a video. `descore doctor --model FOLDER` shows it.
"""


def add(commands: Any) -> None:
    """Add the command to the subparsers."""
    command = commands.add_parser(
        "import",
        help="turn the files of a published model into an exported folder",
        description="Turn the files of a published model into an exported folder, checked tensor by tensor.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = command.add_argument
    option("layout", choices=get_args(LayoutName), help="layout of the published files")
    option("source", help="hub id or folder of the published files")
    option("--output", type=Path, required=True, metavar="FOLDER", help="exported folder to write")
    option(
        "--template",
        metavar="FILE",
        help="instruction of the published code as a text file, to the letter, with {text_prompt} and its query "
        "tokens; for DeScore's own layouts a template of this project (default: descore)",
    )
    option(
        "--backbone",
        help="hub id or folder of the backbone, for its configuration and tokenizer (default: the one that the layout "
        "names)",
    )
    option(
        "--protocol",
        metavar="NAME",
        help=f"for the layout plain: {', '.join(get_args(ProtocolName))}, or a settings file (.yaml) that says how the "
        "model is asked and read",
    )
    option("--revision", help="commit, branch or tag on the hub; for a folder, the commit to record")
    option("--license", help="license of the weights (default: that of the source's model card)")
    command.set_defaults(run=_import)


def _import(options: argparse.Namespace) -> int:
    from descore.importing.run import import_model

    names = ("layout", "source", "output", "backbone", "template", "revision", "license", "protocol")
    try:
        origin = import_model(ImportRequest(**{name: getattr(options, name) for name in names}))
    except (ValueError, OSError) as error:
        raise UsageError(error) from error
    license = origin.license or "not known: name it with --license"
    print(f"{options.output}: {origin.layout} from {origin.source}, revision {origin.revision or 'not known'}")
    print(f"license: {license}")
    print(f"protocol: {origin.protocol}")
    return 0
