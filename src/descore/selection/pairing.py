"""Pairs for DPO: of the videos of each prompt, which to prefer to which, by their rewards."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from descore.scoring.table import FIELDS, suffix_of
from descore.tables.faults import BadCell, MissingColumn, did_you_mean, listed
from descore.tables.locations import is_url, relative_to
from descore.tables.pairs import Rejected
from descore.tables.row import Row
from descore.tables.unscored import UnscoredRow, UnscoredTable


@dataclass(frozen=True, slots=True)
class Candidate:
    """A video of a prompt, with what a table knows of it.

    Attributes:
        prompt: Text that the video was generated from.
        video: Path of the video.
        reward: Its reward; nan if it failed.
        cells: Further cells of its row, such as its seed and its noise, by column.
        error: Reason why it has no reward; None if it has one.
    """

    prompt: str
    video: str
    reward: float
    cells: Mapping[str, Any]
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Chosen:
    """Result of `choose_pairs`.

    Attributes:
        pairs: The chosen and the rejected video of each pair, in the order of the prompts.
        num_prompts: Number of prompts.
        num_close: Number of possible pairs that were left out as ties or for their margin.
        failed: Reason of each video that failed.
    """

    pairs: list[tuple[Candidate, Candidate]]
    num_prompts: int
    num_close: int
    failed: list[str]


def read_candidates(
    name: str | Path, table: UnscoredTable, scored: Iterable[Mapping[str, Any]], reward: str = "reward"
) -> list[Candidate]:
    """Return the videos of a scored table, in its order.

    Args:
        name: Path of the scored table, for messages.
        table: Prompts and videos of the table. Of two videos in a row each is one, with the columns that end as its own
            does, such as seed_a with video_a, and those that belong to both.
        scored: Cells of each row of the scored table.
        reward: Column of the rewards; with two videos in a row it ends as theirs do, as in reward_a.

    Raises:
        MissingColumn: If the table has no such column.
    """
    rows = list(scored)
    known = list(dict.fromkeys(column for cells in rows for column in cells))
    columns = {video: f"{reward}{suffix_of(video)}" for video in table.video_columns}
    if missing := [column for column in columns.values() if column not in known]:
        meant = did_you_mean(missing[0], known)
        advice = "name it with --reward, or score the videos first with --model"
        raise MissingColumn(f"{name}: expected a column {listed(missing)}, found {listed(known)}{meant}; {advice}")
    return [
        _candidate(str(name), row, Row(str(name), row.number, known, cells), video, column, table.video_columns)
        for row, cells in zip(table.rows, rows, strict=True)
        for video, column in columns.items()
    ]


def choose_pairs(candidates: Iterable[Candidate], *, min_margin: float = 0.0, max_per_prompt: int = 1) -> Chosen:
    """Pair the videos of each prompt: the best with the worst, the second best with the second worst, and so on.

    So every video is in one pair at most, and the first pair of a prompt has the widest margin. The pairs depend on the
    candidates and their order alone. Equal rewards are no pair. A video that occurs again with its prompt counts once.

    Args:
        candidates: Videos of any number of prompts.
        min_margin: Smallest difference of the two rewards of a pair.
        max_per_prompt: Largest number of pairs of one prompt.

    >>> videos = [Candidate("a cat", f"{reward}.mp4", reward, {}) for reward in (0.5, 3.0, 1.0, 2.0)]
    >>> [(a.video, b.video) for a, b in choose_pairs(videos, max_per_prompt=2).pairs]
    [('3.0.mp4', '0.5.mp4'), ('2.0.mp4', '1.0.mp4')]
    """
    prompts: dict[str, dict[str, Candidate]] = {}
    failed = []
    for one in candidates:
        if one.error is not None:
            failed.append(one.error)
        else:
            prompts.setdefault(one.prompt, {}).setdefault(one.video, one)
    pairs, num_close = [], 0
    for videos in prompts.values():
        ranked = sorted(videos.values(), key=lambda one: -one.reward)
        opposite = list(zip(ranked, reversed(ranked), strict=True))[: len(ranked) // 2][:max_per_prompt]
        apart = [(a, b) for a, b in opposite if a.reward > b.reward and a.reward - b.reward >= min_margin]
        num_close += len(opposite) - len(apart)
        pairs += apart
    return Chosen(pairs, len(prompts), num_close, failed)


def pair_rows(pairs: Iterable[tuple[Candidate, Candidate]], folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a table of pairs.

    Args:
        pairs: The chosen and the rejected video of each pair.
        folder: Folder of the table, which the cells name the videos relative to.

    Returns:
        Cells by column: prompt, video_chosen, video_rejected, reward_chosen, reward_rejected, margin, and every further
        column of the videos with either ending, such as seed_chosen and seed_rejected.
    """
    rows = []
    for a, b in pairs:
        row: dict[str, Any] = {"prompt": a.prompt}
        sides = (("chosen", a), ("rejected", b))
        row |= {
            f"video_{end}": one.video if is_url(one.video) else relative_to(one.video, folder) for end, one in sides
        }
        row |= {f"reward_{end}": one.reward for end, one in sides} | {"margin": a.reward - b.reward}
        row |= {f"{name}_{end}": one.cells.get(name) for name in {**a.cells, **b.cells} for end, one in sides}
        rows.append(row)
    return rows


def _candidate(
    name: str, row: UnscoredRow, cells: Row, video: str, column: str, video_columns: Sequence[str]
) -> Candidate:
    further = _further(cells.cells, column, video, video_columns)
    reason, reward = row.errors.get(video), math.nan
    try:
        reason = reason or cells.name(f"error{suffix_of(video)}") or None
        if reason is None:
            (reward,) = cells.ratings([column])
    except BadCell as bad:
        reason = str(Rejected.from_cell(name, row.number, row.line, bad))
    return Candidate(row.prompt, row.videos.get(video, ""), reward, further, reason)


def _further(cells: Mapping[str, Any], reward: str, video: str, video_columns: Sequence[str]) -> dict[str, Any]:
    """Return the cells of one video: without its path and its record, and without what belongs to the other video."""
    own = suffix_of(video)
    others = tuple(suffix_of(column) for column in video_columns if column != video)
    taken = {"prompt", reward, *video_columns, *(f"{field}{own}" for field in FIELDS)}
    found = {name: cell for name, cell in cells.items() if name not in taken and not (others and name.endswith(others))}
    return {name.removesuffix(own): cell for name, cell in found.items()}
