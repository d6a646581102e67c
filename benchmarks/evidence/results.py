"""From all that was trained and measured to the numbers that are shown."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.evidence.data import CORRUPTED, SPLITS
from benchmarks.evidence.finished_runs import logged_points
from benchmarks.evidence.measure import HEADS, SEVERAL, WRITERS, evaluation_of
from benchmarks.evidence.plan import PARADIGMS, Scale, run_name
from descore.evaluation.folder import Evaluation, load_evaluation, plain
from descore.evaluation.query_attention import SOURCES
from descore.metrics import bootstrap_interval, calibration, calls, preference_accuracy

Json = dict[str, Any]


@dataclass(frozen=True)
class Arm:
    """One line of the comparison: a paradigm, and where its reward is read.

    Attributes:
        label: What figures call it.
        paradigm: Its runs.
        reading: The field of a score record.
    """

    label: str
    paradigm: str
    reading: str = "reward"


ARMS = {
    "discriminative": Arm("discriminative", "discriminative"),
    "discriminative_mse": Arm("discriminative, MSE", "discriminative_mse"),
    "checklist": Arm("yes/no probes", "checklist"),
    "coupled": Arm("coupled: written score", "coupled", "overall_score"),
    "coupled_expected": Arm("coupled: expected score", "coupled"),
    "coupled_grpo": Arm("coupled, GRPO: written score", "coupled_grpo", "overall_score"),
    "coupled_grpo_expected": Arm("coupled, GRPO: expected score", "coupled_grpo"),
    "decoupled": Arm("decoupled, stage 1", "decoupled"),
    "decoupled_rl": Arm("decoupled, stages 1+2", "decoupled_rl"),
    "unmasked": Arm("decoupled, stage 1, no masking", "unmasked"),
    "uncalibrated": Arm("decoupled, stages 1+2, no calibration loss", "uncalibrated"),
}
"""By name; the first nine are the comparison, the last two what is left out of ours."""

OURS = "decoupled_rl"


def gather(root: Path, scale: Scale) -> Json:
    """Read everything, compute what is shown, and keep it in results.json; the same bytes for the same files."""
    results = {
        "scale": asdict(scale),
        "accuracy": {split: _accuracies(root, scale, split) for split in SPLITS},
        "noise": {name: _noise(root, scale, name) for name in PARADIGMS},
        "curves": {name: _curves(root, scale, name) for name in PARADIGMS},
        "sizes": {split: _sizes(root, scale, split) for split in SPLITS},
        "given": {split: _given(root, scale, split) for split in SPLITS},
        "attention": _attention(root, scale),
        "swapped": {split: _swapped(root, scale, split) for split in SPLITS},
        "thoughts": _several(root, scale),
    }
    (root / "results.json").write_text(json.dumps(plain(results), indent=1, allow_nan=False))
    return results


def margins_of(evaluation: Evaluation, reading: str) -> Tensor:
    """Margins `[N]` by a field of the score records; nan where a video has none."""
    values = [_number(score[reading]) for score in evaluation.scores]
    return torch.tensor([values[pair["a"]] - values[pair["b"]] for pair in evaluation.pairs], dtype=torch.float64)


def summarise(found: Tensor) -> Json:
    """Sum up calls `[seeds, N]`, 1 right, 0 wrong, nan not counted: the mean, its interval over pairs, each seed."""
    low, high = bootstrap_interval(found.nanmean(0))
    return {"mean": float(found.nanmean(1).mean()), "low": low, "high": high, "seeds": found.nanmean(1).tolist()}


def _accuracies(root: Path, scale: Scale, split: str) -> Json:
    found: Json = {}
    right: dict[str, Tensor] = {}
    for name, arm in ARMS.items():
        evaluations = [load_evaluation(evaluation_of(root, run_name(arm.paradigm, s), split)) for s in scale.seeds]
        margins = torch.stack([margins_of(evaluation, arm.reading) for evaluation in evaluations])
        preference = evaluations[0].preferences("overall")
        right[name] = torch.stack([calls(margin, preference) for margin in margins])
        agreements = [preference_accuracy(margin, preference) for margin in margins]
        found[name] = summarise(right[name]) | {
            "with_ties": statistics.mean(agreement.with_ties for agreement in agreements),
            "num_failed": sum(agreement.num_failed for agreement in agreements),
            "calibration_error": statistics.mean(calibration(m, preference).expected_error for m in margins),
            "quality": _mean_quality(evaluations),
            "tokens": statistics.mean(s["num_thought_tokens"] for e in evaluations for s in e.scores),
            "truncated": statistics.mean(s["truncated"] for e in evaluations for s in e.scores),
        }
    for name, values in right.items():
        if name != OURS:
            difference = (right[OURS] - values).nanmean(0)
            low, high = bootstrap_interval(difference)
            found[name]["ours_minus"] = {"mean": float(difference.nanmean()), "low": low, "high": high}
    return found


def _mean_quality(evaluations: Sequence[Evaluation]) -> float | None:
    shares = [evaluation.summary["thoughts"] for evaluation in evaluations]
    found = [share["quality"] for share in shares if share and share["quality"] is not None]
    return statistics.mean(found) if found else None


def _curves(root: Path, scale: Scale, paradigm: str) -> Json:
    """Every logged value that figures show: by tag, the steps and `[seeds, steps]`."""
    runs = [logged_points(root / "training" / run_name(paradigm, seed) / "version_0") for seed in scale.seeds]
    wanted = {
        "train/loss",
        "train/preference_loss",
        "train/language_model_loss",
        "train/preference_accuracy",
        "rollout/quality",
        "rollout/reward",
        "rollout/thought_tokens",
    }
    found: Json = {}
    for tag in sorted(tag for tag in runs[0] if tag in wanted or tag.startswith("val/")):
        steps = [step + 1 for step, _ in runs[0][tag]]
        found[tag] = {"steps": steps, "seeds": [[value for _, value in run[tag]] for run in runs]}
    return found


def _noise(root: Path, scale: Scale, paradigm: str) -> Json:
    """How noisily a paradigm trains, over the second half of its steps.

    `loss_steps`: spread of the loss from step to step, as a share of its mean: the root mean square of differences
    of neighbours over the square root of 2. `accuracy_steps`: standard deviation of validation accuracy over the
    validations of a run. `accuracy_seeds`: the same over seeds at one validation. Means over seeds, and validations.
    """
    curves = _curves(root, scale, paradigm)
    loss = torch.tensor(curves["train/loss"]["seeds"])
    loss = loss[:, loss.shape[1] // 2 :]
    changes = loss.diff(dim=1)
    steps = (changes**2).mean(dim=1).sqrt() / 2**0.5 / loss.mean(dim=1).abs()
    accuracy = torch.tensor(curves["val/preference_accuracy"]["seeds"])
    accuracy = accuracy[:, accuracy.shape[1] // 2 :]
    return {
        "loss_steps": float(steps.mean()) if PARADIGMS[paradigm].stage == 1 else None,
        "accuracy_steps": _std(accuracy, 1),
        "accuracy_seeds": _std(accuracy, 0),
    }


def _std(values: Tensor, dim: int) -> float | None:
    return float(values.std(dim=dim).mean()) if values.shape[dim] > 1 else None


def _sizes(root: Path, scale: Scale, split: str) -> Json:
    """Accuracy against the number of training pairs."""
    found: Json = {}
    for name, arm in ARMS.items():
        if not PARADIGMS[arm.paradigm].sizes:
            continue
        found[name] = {}
        for size in (*scale.smaller, scale.num_train):
            number = None if size == scale.num_train else size
            runs = [run_name(arm.paradigm, seed, number) for seed in scale.seeds]
            evaluations = [load_evaluation(evaluation_of(root, run, split)) for run in runs]
            preference = evaluations[0].preferences("overall")
            right = [calls(margins_of(evaluation, arm.reading), preference) for evaluation in evaluations]
            found[name][str(size)] = summarise(torch.stack(right))
    return found


def _given(root: Path, scale: Scale, split: str) -> Json:
    """Accuracy with thoughts that are wrong to a known share, with the teacher's, and without any."""
    found: Json = {}
    for name in ("decoupled", "unmasked", "decoupled_rl", "uncalibrated"):
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
    """Attention of the query token: `[layers]` by paradigm, case and source, the mean over seeds."""
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
    evaluations = {
        writer: [load_evaluation(evaluation_of(root, run_name(writer, seed), split)) for seed in scale.seeds]
        for writer in WRITERS
    }
    preference = evaluations[WRITERS[0]][0].preferences("overall")
    found: Json = {"quality": {writer: _mean_quality(found) for writer, found in evaluations.items()}}
    for head in HEADS:
        found[head] = {
            writer: summarise(torch.stack([calls(torch.tensor(m[head][split][writer]), preference) for m in measured]))
            for writer in WRITERS
        }
    return found


def _several(root: Path, scale: Scale) -> Json:
    """Accuracy against the number of thoughts, and accuracy by how far the thoughts of a pair are apart."""
    found: Json = {}
    for name in HEADS:
        runs = [run_name(name, seed) for seed in scale.seeds]
        evaluations = [load_evaluation(evaluation_of(root, run, SEVERAL)) for run in runs]
        preference = evaluations[0].preferences("overall")
        right = [
            torch.stack([calls(_margins_of_first(evaluation, number), preference) for evaluation in evaluations])
            for number in range(1, scale.num_thoughts + 1)
        ]
        found[name] = {
            "by_number": {str(number): summarise(values) for number, values in enumerate(right, start=1)},
            "all_minus_first": summarise(right[-1] - right[0]),
            "by_spread": _by_spread(evaluations, preference),
        }
    return found


def _margins_of_first(evaluation: Evaluation, number: int) -> Tensor:
    """Margins `[N]` of the mean reward of the first thoughts of each video."""

    def mean(score: Json) -> float:
        return (
            statistics.fmean(_number(one["reward"]) for one in score["each"][:number]) if score["each"] else torch.nan
        )

    values = [mean(score) for score in evaluation.scores]
    return torch.tensor([values[pair["a"]] - values[pair["b"]] for pair in evaluation.pairs], dtype=torch.float64)


def _by_spread(evaluations: Sequence[Evaluation], preference: Tensor) -> list[Json]:
    """Accuracy in thirds of the pairs, from those whose thoughts agree most to those that agree least."""
    spread, right = [], []
    for evaluation in evaluations:
        stds = [_number(score["reward_std"]) for score in evaluation.scores]
        margins = margins_of(evaluation, "reward")
        spread.append(torch.tensor([(stds[p["a"]] ** 2 + stds[p["b"]] ** 2) ** 0.5 for p in evaluation.pairs]))
        right.append(calls(margins, preference))
    found, spreads = torch.cat(right), torch.cat(spread)
    counted = ~found.isnan() & ~spreads.isnan()
    found, spreads = found[counted], spreads[counted]
    thirds = spreads.argsort().tensor_split(3)
    return [_third(found[third], spreads[third]) for third in thirds]


def _third(right: Tensor, spread: Tensor) -> Json:
    low, high = bootstrap_interval(right)
    return {"mean": float(right.mean()), "low": low, "high": high, "num": len(right), "spread": float(spread.mean())}


def _measured(root: Path, name: str) -> Json:
    found: Json = json.loads((root / "measured" / f"{name}.json").read_text())
    return found


def _number(value: float | None) -> float:
    return torch.nan if value is None else value
