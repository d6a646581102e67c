"""`descore doctor`: what is installed, where it would score, and whether it can."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING, Any, get_args

from descore.commands.usage import UsageError
from descore.inputs.settings import Dtype

if TYPE_CHECKING:
    from packaging.requirements import Requirement

EXAMPLES = """examples:
  descore doctor
  descore doctor --device cpu --json
  descore doctor --model models/videoreward

The self-test writes a short video, and a tiny model that ships with the package scores it, with a thought and without;
it takes some seconds. The exit code is 0 if all is well, and 1 if not; the lines that begin with "problem" say why.
"""

GIB = 2**30


def add(commands: Any) -> None:
    """Add the command to the subparsers."""
    command = commands.add_parser(
        "doctor",
        help="show what is installed, and test that it can score",
        description="Show what is installed, the device and its memory, and test that a tiny model can score a video.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = command.add_argument
    option("--device", help="device to test, such as cpu or cuda:0 (default: the GPU if there is one)")
    option(
        "--dtype",
        choices=get_args(Dtype),
        help="precision of the backbone (default: bfloat16 on a GPU, float32 on a CPU)",
    )
    option(
        "--model", help="exported folder, run or hub id to describe too: its rewards, and where it was imported from"
    )
    option("--json", action="store_true", help="print one JSON object")
    command.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    from descore.scoring.folder import ScoringError

    try:
        found = {"descore": options.version} | _examine(options.device, options.dtype)
        if options.model is not None:
            found["model"] = _describe(options.model)
    except ScoringError as error:
        raise UsageError(error) from error
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        _print(found)
    return 1 if found["problems"] else 0


def _examine(device: str | None, dtype: Dtype | None) -> dict[str, Any]:
    """Return all that is known of the installation, as plain values for JSON.

    Raises:
        ScoringError: If there is no such device.
    """
    from transformers.utils import logging

    from descore.scoring.placing import choose_device, choose_dtype
    from descore.scoring.self_test import run_self_test

    packages, extras, problems = _packages()
    place = choose_device(device)
    logging.disable_progress_bar()
    test = run_self_test(device, dtype)
    if test.error is not None:
        problems.append(f"the self-test failed at {test.error}")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages,
        "extras": extras,
        "decoders": _decoders(),
        "device": {"name": str(place), "dtype": choose_dtype(dtype, place)} | _memory(place),
        "self_test": {"ok": test.error is None, "seconds": round(test.seconds, 2), "error": test.error},
        "problems": problems,
    }


def _describe(model: str) -> dict[str, Any]:
    """Return what an exported folder says of itself, without loading its weights.

    Raises:
        ExportError: If there is no such folder, or it is damaged.
    """
    from descore.model.description import describe, find

    described = describe(model)
    origin = described.origin
    return {
        "folder": str(find(model)),
        "backbone": described.settings.backbone,
        "rewards": list(described.settings.reward_names),
        "reward_from": described.settings.reward_from,
        "origin": origin and asdict(origin),
    }


def _packages() -> tuple[dict[str, str | None], dict[str, bool], list[str]]:
    """Return the version of each package that is required, which extras are complete, and what is wrong."""
    packages: dict[str, str | None] = {}
    extras: dict[str, bool] = {}
    problems = []
    for requirement, extra in _requirements():
        installed = _version(requirement.name)
        fits = installed is not None and requirement.specifier.contains(installed, prereleases=True)
        packages[requirement.name] = installed
        if extra is not None:
            extras[extra] = extras.get(extra, True) and fits
        elif not fits:
            problems.append(
                f"descore requires {requirement.name}{requirement.specifier}, found {installed or 'none'}: "
                f"pip install '{requirement.name}{requirement.specifier}'"
            )
    return packages, extras, problems


def _requirements() -> Iterator[tuple[Requirement, str | None]]:
    """Yield what the package requires, and for what an extra requires its name; those for development are left out."""
    from packaging.requirements import Requirement

    try:
        listed = [Requirement(line) for line in requires("descore") or []]
    except PackageNotFoundError:  # a folder of the source on the path
        return
    for one in listed:
        marker = str(one.marker or "")
        extra = marker.partition("extra == ")[2].strip("\"'") or None
        if extra != "dev" and one.name != "descore":
            yield one, extra


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _decoders() -> dict[str, str | None]:
    import av

    ffmpeg = ".".join(map(str, av.library_versions["libavcodec"]))
    return {"decord": _version("decord"), "PyAV": _version("av"), "libavcodec of PyAV": ffmpeg}


def _memory(place: Any) -> dict[str, int]:
    """Return the bytes of memory of a device, free and in all."""
    import torch

    if place.type == "cuda":
        free, total = torch.cuda.mem_get_info(place)
        return {"free_bytes": free, "total_bytes": total}
    page, names = os.sysconf("SC_PAGE_SIZE"), ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES")
    free, total = (page * os.sysconf(name) if name in os.sysconf_names else 0 for name in names)
    return {"free_bytes": free, "total_bytes": total}


def _print(found: dict[str, Any]) -> None:
    device, test = found["device"], found["self_test"]
    installed = [f"{name} {number}" for name, number in found["packages"].items() if number]
    extras = [f"{name} {'yes' if complete else 'no'}" for name, complete in found["extras"].items()]
    lines = {
        "descore": f"{found['descore']}, Python {found['python']}, {found['platform']}",
        "packages": ", ".join(installed) or "not known: descore is not installed, only on the path",
        "extras": ", ".join(extras),
        "decoders": ", ".join(f"{name} {number or 'none'}" for name, number in found["decoders"].items()),
        "device": f"{device['name']}, {device['dtype']}, {device['free_bytes'] / GIB:.1f} of "
        f"{device['total_bytes'] / GIB:.1f} GiB free",
        "self-test": f"{'OK' if test['ok'] else 'failed'}, {test['seconds']:.1f} s",
    }
    for name, line in lines.items():
        if line:
            print(f"{name:<10} {line}")
    if "model" in found:
        _print_model(found["model"])
    for problem in found["problems"]:
        print(f"problem    {problem}")


def _print_model(model: Mapping[str, Any]) -> None:
    print(f"model      {model['folder']}: {', '.join(model['rewards'])} from {model['reward_from']}")
    if (origin := model["origin"]) is None:
        return
    print(f"origin     {origin['layout']} from {origin['source']}, revision {origin['revision'] or 'not known'}")
    print(f"license    {origin['license'] or 'not known'}")
    print(f"protocol   {origin['protocol']}")
    for name, total in origin["files"].items():
        print(f"sha256     {total} {name}")
