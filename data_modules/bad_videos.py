"""What becomes of a pair whose video cannot be read, and the account of such videos that a run keeps."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Protocol

from descore.seeding import fold
from descore.types import Pair, PairBatch, PairFrames
from descore.video.checks import VideoError

OnBadVideo = Literal["error", "skip", "replace"]
MAX_TRIES = 100
"""Pairs that are tried in the place of one before the run is given up."""


class Collate(Protocol):
    """Reads pairs and builds batches of them, as `PairCollator` does."""

    def frames(self, pair: Pair) -> PairFrames:
        """Read both videos of a pair, or raise `VideoError`."""

    def __call__(self, epoch: int, pairs: Sequence[Pair], pair_frames: Sequence[PairFrames] | None = None) -> PairBatch:
        """Build the batch of some pairs in an epoch."""


@dataclass(frozen=True, slots=True)
class BadVideo:
    """A video that could not be read, and the pair that it took with it."""

    video: str
    reason: str
    pair: str


@dataclass(frozen=True, slots=True)
class TolerantReader:
    """Builds the batch of some pairs, without those whose videos cannot be read; runs in the loader's workers.

    Attributes:
        pairs: All pairs of the table.
        collate: Reads pairs and builds batches.
        replaces: Whether another pair takes the place of each that cannot be read, drawn by seed, epoch and id.
        may_be_empty: Whether a batch may end up without pairs. In training it may not, since ranks step together:
            another pair takes the place of the first one.
        seed: Of the draws.
    """

    pairs: Sequence[Pair]
    collate: Collate
    replaces: bool
    may_be_empty: bool
    seed: int = 0

    def __call__(self, epoch: int, indices: Sequence[int]) -> tuple[PairBatch | None, tuple[BadVideo, ...]]:
        """Return the batch, and the videos that could not be read.

        Raises:
            VideoError: If no other pair can be read either.
        """
        found: dict[str, tuple[Pair, PairFrames]] = {}
        bad: list[BadVideo] = []
        failed = [pair for index in indices if not self._read(pair := self.pairs[index], found, bad)]
        if not self.replaces:
            failed = [] if found or self.may_be_empty else failed[:1]
        for pair in failed:
            self._replace(epoch, pair, found, bad)
        if not found:
            return None, tuple(bad)
        pairs, frames = zip(*found.values(), strict=True)
        return self.collate(epoch, pairs, frames), tuple(bad)

    def _read(self, pair: Pair, found: dict[str, tuple[Pair, PairFrames]], bad: list[BadVideo]) -> bool:
        try:
            found[pair.id] = pair, self.collate.frames(pair)
        except VideoError as error:
            bad.append(BadVideo(error.path, error.reason, pair.id))
            return False
        return True

    def _replace(self, epoch: int, pair: Pair, found: dict[str, tuple[Pair, PairFrames]], bad: list[BadVideo]) -> None:
        for attempt in range(MAX_TRIES):
            other = self.pairs[fold(self.seed, "replace", epoch, pair.id, attempt) % len(self.pairs)]
            if other.id not in found and self._read(other, found, bad):
                return
        raise VideoError(bad[0].video, f"{bad[0].reason}; and no other pair could take the place of {pair.id!r}")


class BadVideos:
    """Counts videos that could not be read, says each once with its reason, and fails a run that has too many of them.

    Every process counts for itself, from its own start: nothing has to be exchanged or kept.

    Args:
        budget: Share of what was read that may fail; of an epoch's share of videos at least.
        num_videos: Videos that this process reads in an epoch.
        file: Where they are listed, one JSON object a line; what an earlier run has left there is known already.
    """

    def __init__(self, budget: float, num_videos: int, file: Path) -> None:
        self.budget = budget
        self.num_videos = num_videos
        self.file = file
        self.num_read = 0
        self.num_bad = 0
        self.reasons = {line["video"]: line["reason"] for line in _lines(file)}

    def count(self, num_videos: int, bad: Sequence[BadVideo]) -> None:
        """Count what was read, and what of it was bad.

        Raises:
            ValueError: If more videos are bad than the budget allows.
        """
        self.num_read += num_videos
        self.num_bad += len(bad)
        for one in bad:
            if one.video not in self.reasons:
                self._list(one)
        allowed = self.budget * max(self.num_read, self.num_videos)
        if bad and self.num_bad > allowed:
            raise ValueError(
                f"{self.num_bad} of {self.num_read} videos read could not be used, and data.on_bad.video_budget "
                f"{self.budget:g} allows {int(allowed)}; they are listed in {self.file}. The last one is "
                f"{bad[-1].video}: {bad[-1].reason}. Mend them or take them out of the table, or allow more"
            )

    def _list(self, bad: BadVideo) -> None:
        self.reasons[bad.video] = bad.reason
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a") as file:
            file.write(json.dumps(asdict(bad)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        warnings.warn(f"pair {bad.pair!r} is left out: {bad.video}: {bad.reason}", stacklevel=2)


def _lines(file: Path) -> list[dict[str, str]]:
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines() if line.endswith("}")]
