"""Comparison of several evaluations of one benchmark, pair by pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from descore.evaluation.folder import Evaluation
from descore.metrics import bootstrap_interval, calls, paired_test, rank_correlation
from descore.scoring.folder import Record


def compare(evaluations: Sequence[Evaluation]) -> Record:
    """Compare evaluations of one benchmark with the first of them, on the pairs that all of them share.

    Args:
        evaluations: At least two finished evaluations; the first one is the baseline.

    Returns:
        {"benchmark", "num_pairs", "num_videos", "dimensions": {name: [one record per evaluation]}}. A record has the
        "accuracy" without ties over the shared pairs, its 95 % "interval", and "num_pairs", the number of pairs that
        count for it. "spearman" is the rank correlation with the opinion scores. All records but the first have
        "difference", "difference_interval" and "p_value" of the paired test against the first. A number that does not
        exist is nan.

    Raises:
        ValueError: If there are fewer than two evaluations, one is not finished, they are of different benchmarks, or
            they share no pair and no video.
    """
    _check_comparable(evaluations)
    first = evaluations[0]
    pairs, videos = _shared([_by_pair(one) for one in evaluations]), _shared([_by_video(one) for one in evaluations])
    if not pairs and (first.pairs or not videos):
        raise ValueError("these evaluations have no pair in common; compare evaluations of the same table and --limit")
    names = [name for name in first.info["dimensions"] if all(name in one.info["dimensions"] for one in evaluations)]
    return {
        "benchmark": first.info["benchmark"],
        "num_pairs": len(pairs),
        "num_videos": len(videos),
        "dimensions": {name: _side_by_side(evaluations, name, pairs, videos) for name in names},
    }


def name_runs(folders: Sequence[Path], names: Sequence[str] = ()) -> list[str]:
    """Name evaluations: as asked for, or by the last parts of their paths, as few of them as tell all folders apart.

    A folder that is given twice gets its position in the list as a suffix.

    Args:
        folders: Output folders of the evaluations.
        names: A name for each folder, all different; none to name them by their paths.

    Raises:
        ValueError: If there are names, and they are not as above.

    >>> name_runs([Path("/runs/a/val"), Path("/runs/b/val"), Path("/runs/c")])
    ['a/val', 'b/val', 'runs/c']
    >>> name_runs([Path("/runs/a"), Path("/runs/b"), Path("/runs/b")])
    ['a', 'b', 'b (3)']
    """
    if names:
        if len(set(names)) != len(folders) or len(names) != len(folders):
            raise ValueError(
                f"expected a different --name for each of the {len(folders)} runs, in their order, got {list(names)}"
            )
        return list(names)
    parts = [folder.absolute().parts for folder in folders]
    different = len(set(parts))
    lengths = range(1, max(map(len, parts)) + 1)
    length = next(length for length in lengths if len({part[-length:] for part in parts}) == different)
    found = ["/".join(part[-length:]) for part in parts]
    return [name if found.index(name) == index else f"{name} ({index + 1})" for index, name in enumerate(found)]


def _check_comparable(evaluations: Sequence[Evaluation]) -> None:
    if len(evaluations) < 2:
        raise ValueError(f"expected at least two evaluations to compare, got {len(evaluations)}")
    for one in evaluations:
        if not one.summary:
            raise ValueError(
                f"{one.folder} is not finished: {one.num_scored} of {one.num_to_score} videos are scored; "
                "repeat its `descore evaluate` command to finish it, then compare"
            )
    kinds = {(one.info["benchmark"], one.info["preset"]): one.folder for one in evaluations}
    if len(kinds) > 1:
        found = ", ".join(f"{folder} is of {name} ({preset})" for (name, preset), folder in kinds.items())
        raise ValueError(f"expected evaluations of one benchmark, but {found}")


def _by_pair(evaluation: Evaluation) -> dict[Any, int]:
    """Return the index of each pair, by its id, prompt and videos."""
    names = [video["video"] for video in evaluation.videos]
    return {
        (pair["id"], pair["prompt"], names[pair["a"]], names[pair["b"]]): index
        for index, pair in enumerate(evaluation.pairs)
    }


def _by_video(evaluation: Evaluation) -> dict[Any, int]:
    return {(video["video"], video["prompt"]): index for index, video in enumerate(evaluation.videos)}


def _shared(indices: Sequence[Mapping[Any, int]]) -> list[Any]:
    return [key for key in indices[0] if all(key in other for other in indices)]


def _side_by_side(
    evaluations: Sequence[Evaluation], name: str, pairs: Sequence[Any], videos: Sequence[Any]
) -> list[Record]:
    prompts = [prompt for _, prompt, _, _ in pairs]
    columns = []
    for one in evaluations:
        index_of = _by_pair(one)
        order = [index_of[key] for key in pairs]
        columns.append(calls(one.margins(name)[order], one.preferences(name)[order]))
    records: list[Record] = []
    for one, column in zip(evaluations, columns, strict=True):
        counted = column[~column.isnan()]
        record = {"run": str(one.folder), "model": one.info["model"], "protocol": one.info["protocol"]}
        record |= {"num_pairs": len(counted), "accuracy": float(counted.mean())}
        record |= {"interval": bootstrap_interval(column, prompts), "spearman": _spearman(one, name, videos)}
        if records:
            test = paired_test(column, columns[0], prompts)
            record |= {"difference": test.difference, "difference_interval": (test.low, test.high)}
            record |= {"p_value": test.p_value}
        records.append(record)
    return records


def _spearman(evaluation: Evaluation, name: str, videos: Sequence[Any]) -> float:
    index_of = _by_video(evaluation)
    order = [index_of[key] for key in videos]
    return rank_correlation(evaluation.rewards(name)[order], evaluation.opinions(name)[order]).spearman
