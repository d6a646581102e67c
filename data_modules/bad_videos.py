"""Videos that cannot be read: what happens to their pairs, and the count and list of them that a run keeps."""

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
"""Replacements that are tried for one pair before the run fails."""


class Collate(Protocol):
    """Interface of a collator that reads pairs and builds batches of them, such as `PairCollator`."""

    def frames(self, pair: Pair) -> PairFrames:
        """Read both videos of a pair.

        Raises:
            VideoError: If one of them cannot be read.
        """

    def __call__(self, epoch: int, pairs: Sequence[Pair], pair_frames: Sequence[PairFrames] | None = None) -> PairBatch:
        """Build a batch of pairs; the frames are read if not given, and the epoch keys random draws about a pair."""


@dataclass(frozen=True, slots=True)
class BadVideo:
    """A video that could not be read.

    Attributes:
        video: Path of the video.
        reason: Reason why it could not be read.
        pair: Id of the pair that was left out because of it.
    """

    video: str
    reason: str
    pair: str


@dataclass(frozen=True, slots=True)
class TolerantReader:
    """Builds batches without the pairs whose videos cannot be read; it runs in the loader's workers.

    Attributes:
        pairs: All pairs of the table.
        collate: Collator that reads pairs and builds batches.
        replaces: Whether another pair, drawn by (seed, epoch, id), replaces each pair that cannot be read.
        may_be_empty: Whether a batch may end up without pairs. In training it may not, since all ranks step together:
            then one pair is replaced even if `replaces` is False.
        seed: Seed of the replacements.
    """

    pairs: Sequence[Pair]
    collate: Collate
    replaces: bool
    may_be_empty: bool
    seed: int = 0

    def __call__(self, epoch: int, indices: Sequence[int]) -> tuple[PairBatch | None, tuple[BadVideo, ...]]:
        """Build the batch of some pairs in an epoch.

        Args:
            epoch: Number of the epoch.
            indices: Indices of the pairs.

        Returns:
            The batch, None if it has no pairs, and the videos that could not be read.

        Raises:
            VideoError: If no replacement for a pair can be read either.
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
        raise VideoError(bad[0].video, f"{bad[0].reason}; and no other pair could replace {pair.id!r}")


class BadVideos:
    """Counts the videos that could not be read, warns of each once, and ends a run that has too many of them.

    Every rank counts on its own from the start of its process, so nothing is exchanged between ranks or saved.

    Args:
        budget: Largest share of the videos read that may be bad, 0 to 1. Until the rank has read a whole epoch, it is
            the share of `num_videos`.
        num_videos: Number of videos that this rank reads in an epoch.
        file: JSONL file that lists the bad videos. Videos that it lists already are not warned of again.
    """

    def __init__(self, budget: float, num_videos: int, file: Path) -> None:
        self.budget = budget
        self.num_videos = num_videos
        self.file = file
        self.num_read = 0
        self.num_bad = 0
        self.reasons = {line["video"]: line["reason"] for line in _lines(file)}

    def count(self, num_videos: int, bad: Sequence[BadVideo]) -> None:
        """Count videos that were read, and list the bad ones among them.

        Args:
            num_videos: Number of videos read, good and bad.
            bad: The bad ones.

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
                f"{self.num_bad} of {self.num_read} videos read could not be used, but --data.on_bad.video_budget "
                f"{self.budget:g} allows {int(allowed)}; {self.file} lists them. The last one is {bad[-1].video}: "
                f"{bad[-1].reason}. Repair these videos, remove their pairs from the table, or raise the budget"
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
