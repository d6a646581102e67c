"""Rendering of pairs to disk: prompts, mp4 files and a pair table, the same bytes for the same seed."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from data_modules.world import drawing
from data_modules.world.labels import Labels
from data_modules.world.scene import Request, Scene, Split, count_scores, draw_request, draw_shown, wrong_attributes
from data_modules.world.teacher import Teacher
from data_modules.world.wording import write_prompt
from descore.answer import overall_score
from descore.seeding import fold, uniform
from descore.tables.writer import write_pairs
from descore.types import Pair, Side
from descore.video.writer import write_video

WORLD_VERSION = 2
"""Version of the videos and prompts. Raise it when they change; data of another version is rendered again."""

TABLE_VERSION = 3
"""Version of the table. Raise it when only the table changes; it is then written again, and its videos are kept."""

SIDES = ("a", "b")
TABLE, MARKER = "pairs.jsonl", "rendered.json"
TABLE_ONLY = ("label_noise", "teacher")  # settings that affect the table and no video


@dataclass(frozen=True)
class RenderSettings:
    """Options of the rendered videos, labels and thoughts.

    Attributes:
        size: Width and height of a video in pixels; an even number.
        num_frames: Number of frames per video.
        fps: Frame rate of the videos, in frames per second.
        corruption: Probability that a video shows an attribute of its prompt wrongly, 0 to 1.
        omission: Probability that a prompt leaves out camera, environment or style, for each of them, 0 to 1.
        label_noise: Probability that a training preference is replaced by a wrong one, 0 to 1.
        teacher: Errors in the thoughts of the teacher.
        labels: What the pairs are labelled with, and how thoughts end. It changes what is read, and neither the videos
            nor the table.
    """

    size: int = 96
    num_frames: int = 16
    fps: int = 8
    corruption: float = 0.3
    omission: float = 0.25
    label_noise: float = 0.0
    teacher: Teacher = field(default_factory=Teacher)
    labels: Labels = field(default_factory=Labels)

    def __post_init__(self) -> None:
        for name in ("corruption", "omission", "label_noise"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise ValueError(f"expected a probability from 0 to 1 for {name}, got {value}")


def render_split(
    root: Path,
    split: Split,
    num_pairs: int,
    settings: RenderSettings | None = None,
    seed: int = 0,
    *,
    num_workers: int = 2,
) -> Path:
    """Render the videos and the table `<root>/<split>/pairs.jsonl` of a split, or return at once if they exist.

    Videos are kept when only the labels or the teacher change, and an interrupted rendering resumes where it stopped.
    Pair i depends on the seed, the split and the settings, not on `num_pairs`.

    Args:
        root: Folder of all splits.
        split: "train", "val" from the same distribution, "ood" with what those never show, or "far" with what not even
            the tiny backbone has seen.
        num_pairs: Number of pairs.
        settings: Options of what is rendered; the defaults if not given.
        seed: Seed of all random draws.
        num_workers: Number of threads that draw and encode.

    Returns:
        Path of the pair table.

    Raises:
        FileExistsError: If the folder of the split holds something else.
    """
    return render_job(root / split, _Job(split, num_pairs, settings or RenderSettings(), seed), num_workers)


class Job(Protocol):
    """Pairs to render: each is a function of its number."""

    @property
    def num_pairs(self) -> int:
        """Number of pairs."""

    def fingerprints(self) -> dict[str, str]:
        """Return a hash of everything that the videos depend on, and one of all that videos and table depend on."""

    def pair(self, folder: Path, index: int) -> Pair:
        """Return a pair, whose videos are in a folder."""

    def render(self, folder: Path, index: int) -> None:
        """Draw and encode both videos of a pair; each file appears complete or not at all."""


def render_job(folder: Path, job: Job, num_workers: int = 2) -> Path:
    """Render the videos and the table of a job into a folder, or return at once if they exist.

    Args:
        folder: Folder of the videos and the table.
        job: Pairs to render.
        num_workers: Number of threads that draw and encode.

    Returns:
        Path of the pair table.

    Raises:
        FileExistsError: If the folder holds something else.
    """
    wanted, found = job.fingerprints(), _read_marker(folder)
    if found == wanted:
        return folder / TABLE
    if found is None or found["videos"] != wanted["videos"]:
        _render_videos(job, folder, num_workers)
    # Until the table is written, the marker covers only the videos.
    _write_marker(folder, {"videos": wanted["videos"]})
    write_pairs(folder / TABLE, map(partial(job.pair, folder), range(job.num_pairs)))
    _write_marker(folder, wanted)
    return folder / TABLE


@dataclass(frozen=True, slots=True)
class _Job:
    """One split to render; every draw is keyed by the seed, its purpose, and the names of the pair and the side."""

    split: Split
    num_pairs: int
    settings: RenderSettings
    seed: int

    def fingerprints(self) -> dict[str, str]:
        """Return a hash of everything that the videos depend on, and one of all that videos and table depend on."""
        everything = asdict(self) | {"version": WORLD_VERSION}
        del everything["settings"]["labels"]
        drawn = {name: value for name, value in everything["settings"].items() if name not in TABLE_ONLY}
        table = everything | {"table_version": TABLE_VERSION}
        return {"videos": fingerprint(everything | {"settings": drawn}), "table": fingerprint(table)}

    def pair(self, folder: Path, index: int) -> Pair:
        name, request = self._request(index)
        prompt = write_prompt(request, self.split, self._rng("wording", name))
        a, b = (self._side(folder, name, side, request) for side in SIDES)
        noise = self.settings.label_noise if self.split == "train" else 0.0
        return Pair(name, prompt, a, b, (_preference(a, b, noise, fold(self.seed, "label", name)),))

    def render(self, folder: Path, index: int) -> None:
        """Draw and encode both videos of a pair; each file appears complete or not at all."""
        domain = drawing.DOMAINS[self.split]
        size, num_frames = self.settings.size, self.settings.num_frames
        name, request = self._request(index)
        for side in SIDES:
            shown, rng = self._shown(name, side, request), self._rng("draw", name, side)
            draw = partial(drawing.draw, shown, rng, domain, size=size, num_frames=num_frames)
            write_once(folder / video_name(name, side), draw, self.settings.fps)

    def _request(self, index: int) -> tuple[str, Request]:
        name = f"{self.split}-{index:05d}"
        return name, draw_request(self._rng("request", name), self.split, self.settings.omission)

    def _shown(self, name: str, side: str, request: Request) -> Scene:
        return draw_shown(self._rng("shown", name, side), request, self.split, self.settings.corruption)

    def _side(self, folder: Path, name: str, side: str, request: Request) -> Side:
        shown = self._shown(name, side, request)
        thought = self.settings.teacher.thought(request, shown, seed=self.seed, video=f"{name}-{side}")
        scores = count_scores(wrong_attributes(request, shown))
        return Side(str(folder / video_name(name, side)), thought, scores, mos=(overall_score(scores),))

    def _rng(self, purpose: str, *names: str) -> np.random.Generator:
        return np.random.default_rng(fold(self.seed, purpose, *names))


def write_once(path: Path, draw: Callable[[], NDArray[np.uint8]], fps: float, **options: Any) -> None:
    """Draw and encode a video unless its file exists; the file appears complete or not at all.

    Args:
        path: File of the video.
        draw: Draws its frames.
        fps: Frame rate, in frames per second.
        **options: Options of `write_video`.
    """
    if not path.exists():
        unfinished = path.with_suffix(".partial")
        write_video(unfinished, draw(), fps, **options)
        unfinished.replace(path)


def _render_videos(job: Job, folder: Path, num_workers: int) -> None:
    """Render into a folder named after the job, so that a killed job resumes, and rename it once it is complete."""
    videos = job.fingerprints()["videos"]
    unfinished = folder.with_name(f".{folder.name}-{videos}")
    (unfinished / "videos").mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(num_workers) as pool:
        done = pool.map(partial(job.render, unfinished), range(job.num_pairs))
        _show(done, job.num_pairs, folder)
    _write_marker(unfinished, {"videos": videos})
    if folder.exists():
        shutil.rmtree(folder)
    unfinished.rename(folder)


def _show(done: Iterable[None], total: int, folder: Path) -> None:
    """Show the progress of a rendering: a bar in a terminal, a line for each tenth elsewhere."""
    console = Console(stderr=True)
    if console.is_terminal:
        for _ in track(done, f"Rendering {folder}", total=total, console=console):
            pass
        return
    for number, _ in enumerate(done, 1):
        if number == total or number % max(total // 10, 50) == 0:
            print(f"Rendering {folder}: {number} of {total} pairs", file=sys.stderr, flush=True)


def _read_marker(folder: Path) -> dict[str, str] | None:
    if not folder.exists():
        return None
    if not (folder / MARKER).is_file():
        raise FileExistsError(
            f"expected {folder} to be new or a rendered split, got a folder without {MARKER}; choose another root, or "
            "remove the folder"
        )
    marker: dict[str, str] = json.loads((folder / MARKER).read_text())
    return marker


def _write_marker(folder: Path, fingerprints: Mapping[str, str]) -> None:
    unfinished = folder / f"{MARKER}.partial"
    unfinished.write_text(json.dumps(fingerprints))
    unfinished.replace(folder / MARKER)


def _preference(a: Side, b: Side, noise: float, draws: int) -> float:
    """Return the label: the higher overall score is preferred; noise swaps A and B, and turns a tie into A or B."""
    assert a.scores is not None
    assert b.scores is not None
    difference = overall_score(a.scores) - overall_score(b.scores)
    preference = float((difference > 0) - (difference < 0))
    if uniform(draws, "noise") >= noise:
        return preference
    return -preference or (1.0 if uniform(draws, "side") < 0.5 else -1.0)


def video_name(name: str, side: str) -> str:
    """Return the name of the file of a side of a pair, relative to its table."""
    return f"videos/{name}-{side}.mp4"


def fingerprint(values: Mapping[str, Any]) -> str:
    """Return a hash of plain values."""
    return hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=8).hexdigest()
