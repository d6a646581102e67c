"""Video files that a command is given: files, folders and patterns."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import TYPE_CHECKING

from descore.commands.usage import UsageError

if TYPE_CHECKING:
    from descore.scoring.score import Score

MAX_SHOWN = 10
"""Failed videos that are listed."""


def find_videos(names: Sequence[str]) -> list[str]:
    """Return the paths of the videos that names stand for, in the order of the names.

    Args:
        names: Video files as they are, whether they exist or not; folders, which stand for the video files in them and
            in their subfolders; and patterns such as "clips/*.mp4" or "clips/**/a*", which stand for the video files
            that match. The files of a folder or a pattern are in the order of the numbers and words in their paths.

    Raises:
        UsageError: If there is no video file in a folder, or none that matches a pattern.
    """
    return [path for name in names for path in _find(name)]


def print_record(video: str, score: Score, **more: object) -> None:
    """Print the score record of a video as one line of JSON, after `more` that is known of it."""
    from descore.scoring.folder import plain

    record = plain({"video": video} | more | score.to_json())
    print(json.dumps(record, allow_nan=False), flush=True)


def print_failures(scores: Sequence[tuple[str, Score]]) -> int:
    """Print the reason of each video that failed to stderr, and return the exit code: 1 if there is one, or else 0."""
    failed = [f"{error}" if video in error else f"{video}: {error}" for video, one in scores if (error := one.error)]
    if failed:
        print(f"{len(failed)} of {len(scores)} videos failed:", file=sys.stderr)
    print_reasons(failed)
    return 1 if failed else 0


def print_reasons(reasons: Sequence[str], where: str = "") -> None:
    """Print why videos failed to stderr, the first ten of them.

    Args:
        reasons: Reason of each failure.
        where: Where the others are to be found.
    """
    for reason in reasons[:MAX_SHOWN]:
        print(f"  {reason}", file=sys.stderr)
    if left := len(reasons[MAX_SHOWN:]):
        print(f"  and {left} more{where and ': '}{where}", file=sys.stderr)


def check_prompt_given(options: argparse.Namespace) -> None:
    """Check that `--prompt` is given.

    Raises:
        UsageError: If it is not.
    """
    if options.prompt is None:
        raise UsageError("--prompt is needed for video files: the text that they were generated from")


def _find(name: str) -> list[str]:
    if os.path.isdir(name):
        files = [os.path.join(folder, file) for folder, _, files in os.walk(name) for file in files]
        return _videos(files, f"{name} is a folder without video files")
    if has_magic(name) and not os.path.exists(name):
        return _videos(glob(name, recursive=True), f"no video file matches {name}")
    return [name]


def _videos(files: Sequence[str], otherwise: str) -> list[str]:
    from descore.video.files import PICTURES, VIDEOS

    found = [file for file in files if Path(file).suffix.lower() in VIDEOS and os.path.isfile(file)]
    if not found:
        pictures = any(Path(file).suffix.lower() in PICTURES for file in files)
        advice = "; frames as pictures are scored from Python: Scorer(...).score(folder, prompt, fps=8)"
        raise UsageError(f"{otherwise}: expected names that end in {', '.join(VIDEOS)}{advice if pictures else ''}")
    return sorted(found, key=_words)


def _words(path: str) -> list[tuple[int, str]]:
    """Return what a path is ordered by: its numbers as numbers, so that clip 10 comes after clip 9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path)]
