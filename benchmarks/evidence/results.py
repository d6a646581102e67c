"""Compute the numbers of the page from all that was trained and measured."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.evidence.arms import ARMS, LONGER_ARMS, OURS, SYSTEM_ARMS, Arm
from benchmarks.evidence.data import CORRUPTED, GIVEN_SPLITS, SPLITS
from benchmarks.evidence.finished_runs import logged_points
from benchmarks.evidence.measure import GIVEN, HEADS, SEVERAL, WRITERS, evaluation_of
from benchmarks.evidence.plan import LONGER, PARADIGMS, SYSTEMS, Paradigm, Scale, run_name
from descore.evaluation.folder import Evaluation, load_evaluation, number
from descore.evaluation.query_attention import SOURCES
from descore.metrics import bootstrap_interval, calibration, calls, preference_accuracy
from descore.model.finished import find_export
from descore.scoring.folder import plain

Json = dict[str, Any]


def gather(root: Path, scale: Scale) -> Json:
    """Compute all numbers and keep them in results.json; the same files give the same bytes."""
    results = {
        "scale": asdict(scale),
        "accuracy": {split: _accuracies(root, scale, split, ARMS) for split in SPLITS},
        "longer": _longer(root, scale),
        "systems": _systems(root, scale),
        "noise": {name: _noise(root, scale, name) for name in PARADIGMS},
        "curves": {name: _curves(root, scale, name) for name in PARADIGMS},
        "sizes": {split: _sizes(root, scale, split) for split in GIVEN_SPLITS},
        "given": {split: _given(root, scale, split, list(PARADIGMS)) for split in GIVEN_SPLITS},
        "attention": _attention(root, scale),
        "swapped": {split: _swapped(root, scale, split) for split in GIVEN_SPLITS},
        "thoughts": _several(root, scale),
    }
    (root / "results.json").write_text(json.dumps(plain(results), indent=1, allow_nan=False))
    return results


def margins_of(evaluation: Evaluation, field: str) -> Tensor:
    """Margins `[N]` by a field of the score records, or by the comparisons of a model that compares; nan for none."""
    if evaluation.is_pairwise:
        return evaluation.margins("overall")
    return _margins(evaluation, [number(score[field]) for score in evaluation.scores])


def summarise(found: Tensor) -> Json:
    """Mean of calls `[seeds, N]`, its interval over pairs, and the mean of each seed.

    A call is 1 where a pair is right, 0 where it is wrong, and nan where it does not count.

    >>> found = summarise(torch.tensor([[1.0, 1.0, 0.0, torch.nan], [1.0, 0.0, 0.0, torch.nan]]))
    >>> [round(value, 3) for value in (found["mean"], *found["seeds"])]
    [0.5, 0.667, 0.333]
    """
    low, high = bootstrap_interval(found.nanmean(0))
    return {"mean": float(found.nanmean(1).mean()), "low": low, "high": high, "seeds": found.nanmean(1).tolist()}


def spread_of_steps(loss: Tensor) -> float:
    """Spread of a loss `[seeds, steps]` from step to step, as a share of its mean; the mean over seeds.

    It is the root mean square of the differences between neighbours over the square root of 2.

    >>> round(spread_of_steps(torch.tensor([[1.0, 3.0, 1.0, 3.0]])), 4)  # 2 / sqrt(2) / 2
    0.7071
    """
    return float(((loss.diff(dim=1) ** 2).mean(dim=1).sqrt() / 2**0.5 / loss.mean(dim=1).abs()).mean())


def _evaluations(root: Path, scale: Scale, paradigm: str, split: str, size: int | None = None) -> list[Evaluation]:
    """Evaluations of a paradigm, one a seed."""
    return [load_evaluation(evaluation_of(root, run_name(paradigm, seed, size), split)) for seed in scale.seeds]


def _longer(root: Path, scale: Scale) -> Json:
    """Accuracies after three times the epochs, with own and with given thoughts; empty if they were not measured."""
    if not _is_measured(root, scale, LONGER):
        return {}
    return {
        "accuracy": {split: _accuracies(root, scale, split, LONGER_ARMS) for split in SPLITS},
        "given": {split: _given(root, scale, split, list(LONGER)) for split in GIVEN_SPLITS},
    }


def _systems(root: Path, scale: Scale) -> Json:
    """Accuracies of the ways of published systems; empty if they were not measured."""
    if not _is_measured(root, scale, SYSTEMS):
        return {}
    measured = {name: arm for name, arm in SYSTEM_ARMS.items() if _is_measured(root, scale, {name: SYSTEMS[name]})}
    arms = {OURS: ARMS[OURS]} | measured
    return {split: _accuracies(root, scale, split, arms) for split in SPLITS}


def _is_measured(root: Path, scale: Scale, paradigms: Mapping[str, Paradigm]) -> bool:
    last = evaluation_of(root, run_name(list(paradigms)[-1], scale.seeds[-1]), list(SPLITS)[-1])
    return (last / "summary.json").is_file()


def _accuracies(root: Path, scale: Scale, split: str, arms: Mapping[str, Arm]) -> Json:
    found: Json = {}
    right: dict[str, Tensor] = {}
    for name, arm in arms.items():
        evaluations = _evaluations(root, scale, arm.paradigm, split)
        margins = [margins_of(evaluation, arm.field) for evaluation in evaluations]
        preference = evaluations[0].preferences("overall")
        right[name] = torch.stack([calls(margin, preference) for margin in margins])
        agreements = [preference_accuracy(margin, preference) for margin in margins]
        found[name] = summarise(right[name]) | {
            "with_ties": statistics.mean(agreement.with_ties for agreement in agreements),
            "num_failed": sum(agreement.num_failed for agreement in agreements),
            "calibration_error": statistics.mean(calibration(m, preference).expected_error for m in margins),
            "quality": _of_thoughts(evaluations, "quality"),
            "tokens": _of_thoughts(evaluations, "mean_tokens"),
            "truncated": _of_thoughts(evaluations, "truncated"),
            "order": _order(evaluations),
        }
    for name, values in right.items():
        if name != OURS:
            difference = (right[OURS] - values).nanmean(0)
            low, high = bootstrap_interval(difference)
            found[name]["ours_minus"] = {"mean": float(difference.nanmean()), "low": low, "high": high}
    return found


def _order(evaluations: Sequence[Evaluation]) -> Json | None:
    """How far a model that compares two videos depends on their order; None for one that scores videos."""
    if not evaluations[0].is_pairwise:
        return None
    choices = [evaluation.summary["dimensions"]["overall"]["choices"] for evaluation in evaluations]
    return {name: _mean([one[name] for one in choices]) for name in ("verdict_changes", "order_disagreement")}


def _of_thoughts(evaluations: Sequence[Evaluation], name: str) -> float | None:
    """Mean of a number that evaluations give of their thoughts; None without thoughts."""
    thoughts = [evaluation.summary["thoughts"] for evaluation in evaluations]
    return _mean([one[name] for one in thoughts if one])


def _mean(values: Sequence[float | None]) -> float | None:
    """Mean of the values that exist; None if none does."""
    found = [value for value in values if value is not None]
    return statistics.mean(found) if found else None


def _curves(root: Path, scale: Scale, paradigm: str) -> Json:
    """Logged values that figures show: by tag, the steps and `[seeds, steps]`."""
    exports = [find_export(root / "training" / run_name(paradigm, seed)) for seed in scale.seeds]
    runs = [logged_points(export.parents[1]) for export in exports]
    found: Json = {}
    for tag in sorted(tag for tag in runs[0] if tag.startswith(("train/loss", "rollout/", "val/"))):
        steps = [step + 1 for step, _ in runs[0][tag]]
        found[tag] = {"steps": steps, "seeds": [[value for _, value in run[tag]] for run in runs]}
    return found


def _noise(root: Path, scale: Scale, paradigm: str) -> Json:
    """Noise of the training over the second half of its steps.

    `loss_steps` is the spread of the loss from step to step, `accuracy_steps` the standard deviation of validation
    accuracy over the validations of a run, and `accuracy_seeds` the same over seeds at one validation.
    """
    curves = _curves(root, scale, paradigm)
    values = (torch.tensor(curves[tag]["seeds"]) for tag in ("train/loss", "val/preference_accuracy"))
    loss, accuracy = (value[:, value.shape[1] // 2 :] for value in values)
    return {
        "loss_steps": spread_of_steps(loss) if PARADIGMS[paradigm].stage == 1 else None,
        "accuracy_steps": _std(accuracy, 1),
        "accuracy_seeds": _std(accuracy, 0),
    }


def _std(values: Tensor, dim: int) -> float | None:
    return float(values.std(dim=dim).mean()) if values.shape[dim] > 1 else None


def _sizes(root: Path, scale: Scale, split: str) -> Json:
    """Accuracy by the number of training pairs."""
    found: Json = {}
    for name, arm in ARMS.items():
        if not PARADIGMS[arm.paradigm].sizes:
            continue
        found[name] = {}
        for size in (*scale.smaller, scale.num_train):
            evaluations = _evaluations(root, scale, arm.paradigm, split, None if size == scale.num_train else size)
            preference = evaluations[0].preferences("overall")
            right = [calls(margins_of(evaluation, arm.field), preference) for evaluation in evaluations]
            found[name][str(size)] = summarise(torch.stack(right))
    return found


def _given(root: Path, scale: Scale, split: str, paradigms: Sequence[str]) -> Json:
    """Accuracy of paradigms with thoughts of each share of errors, with the teacher's, and without any."""
    found: Json = {}
    for name in (name for name in GIVEN if name in paradigms):
        measured = [_measured(root, run_name(name, seed))[split]["given"] for seed in scale.seeds]
        preference = torch.tensor(measured[0]["preference"])
        right = {
            case: torch.stack([calls(torch.tensor(one["margins"][case]), preference) for one in measured])
            for case in measured[0]["margins"]
        }
        best, worst = f"{CORRUPTED[0]:.1f}", f"{CORRUPTED[-1]:.1f}"
        found[name] = {case: summarise(values) for case, values in right.items()}
        found[name]["right_minus_wrong"] = summarise(right[best] - right[worst])
        found[name]["right_minus_none"] = summarise(right[best] - right["none"])
    return found


def _attention(root: Path, scale: Scale) -> Json:
    """Attention of the query token, `[layers]` by paradigm, case and source; the mean over seeds."""
    found: Json = {}
    for name in ("decoupled", "unmasked", "decoupled_rl"):
        measured = [_measured(root, run_name(name, seed))["ood"]["attention"] for seed in scale.seeds]
        found[name] = {
            case: dict(zip(SOURCES, torch.tensor([one[case] for one in measured]).mean(0).T.tolist(), strict=True))
            for case in ("thought", "none")
        }
    return found


def _swapped(root: Path, scale: Scale, split: str) -> Json:
    """Accuracy of each head with the thoughts of each writer, and the quality of those thoughts."""
    measured = [_measured(root, f"swap-{seed}") for seed in scale.seeds]
    evaluations = {writer: _evaluations(root, scale, writer, split) for writer in WRITERS}
    preference = evaluations[WRITERS[0]][0].preferences("overall")
    found: Json = {"quality": {writer: _of_thoughts(found, "quality") for writer, found in evaluations.items()}}
    for head in HEADS:
        found[head] = {
            writer: summarise(torch.stack([calls(torch.tensor(m[head][split][writer]), preference) for m in measured]))
            for writer in WRITERS
        }
    return found


def _several(root: Path, scale: Scale) -> Json:
    """Accuracy by the number of thoughts, and by the spread of rewards over the thoughts of a pair."""
    found: Json = {}
    for name in HEADS:
        evaluations = _evaluations(root, scale, name, SEVERAL)
        preference = evaluations[0].preferences("overall")
        right = [
            torch.stack([calls(_margins_of_first(evaluation, count), preference) for evaluation in evaluations])
            for count in range(1, scale.num_thoughts + 1)
        ]
        found[name] = {
            "by_number": {str(count): summarise(values) for count, values in enumerate(right, start=1)},
            "all_minus_first": summarise(right[-1] - right[0]),
            "by_spread": _by_spread(evaluations, preference),
        }
    return found


def _margins_of_first(evaluation: Evaluation, count: int) -> Tensor:
    """Margins `[N]` of the mean reward of the first thoughts of each video."""
    each = [[number(one["reward"]) for one in score["each"] or ()][:count] for score in evaluation.scores]
    return _margins(evaluation, [statistics.fmean(rewards) if rewards else torch.nan for rewards in each])


def _margins(evaluation: Evaluation, rewards: Sequence[float]) -> Tensor:
    return torch.tensor([rewards[pair["a"]] - rewards[pair["b"]] for pair in evaluation.pairs], dtype=torch.float64)


def _by_spread(evaluations: Sequence[Evaluation], preference: Tensor) -> list[Json]:
    """Accuracy in thirds of the pairs, from those whose thoughts agree most to those whose thoughts agree least."""
    spread, right = [], []
    for evaluation in evaluations:
        stds = [number(score["reward_std"]) for score in evaluation.scores]
        spread.append(torch.tensor([(stds[p["a"]] ** 2 + stds[p["b"]] ** 2) ** 0.5 for p in evaluation.pairs]))
        right.append(calls(margins_of(evaluation, "reward"), preference))
    return in_thirds(torch.cat(right), torch.cat(spread))


def in_thirds(right: Tensor, spread: Tensor) -> list[Json]:
    """Accuracy in thirds of the calls `[N]` by spread `[N]`, from low to high; nan does not count.

    >>> thirds = in_thirds(torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0, torch.nan]), torch.tensor([5.0, 4, 1, 2, 3, 0]))
    >>> [(third["mean"], third["num"], third["spread"]) for third in thirds]
    [(1.0, 2, 1.5), (0.5, 2, 3.5), (0.0, 1, 5.0)]
    """
    counted = ~right.isnan() & ~spread.isnan()
    right, spread = right[counted], spread[counted]
    found = []
    for third in spread.argsort().tensor_split(3):
        low, high = bootstrap_interval(right[third])
        mean, distance = float(right[third].mean()), float(spread[third].mean())
        found.append({"mean": mean, "low": low, "high": high, "num": len(third), "spread": distance})
    return found


def _measured(root: Path, name: str) -> Json:
    found: Json = json.loads((root / "measured" / f"{name}.json").read_text())
    return found
