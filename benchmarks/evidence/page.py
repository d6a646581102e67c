"""The page of the evidence: each comparison with its picture, its numbers, and what came out, in words."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.evidence import words
from benchmarks.evidence.data import SPLITS
from benchmarks.evidence.measure import HEADS, WRITERS, evaluation_of
from benchmarks.evidence.plan import PARADIGMS, Scale, run_name
from benchmarks.evidence.results import ARMS, OURS, Json
from descore.evaluation.folder import load_evaluation
from descore.evaluation.query_attention import SOURCES
from descore.report import Figure, Highlight, Page, Section, Table, browse, write_page
from descore.report.figures import Estimate, bars, curves, lines
from descore.report.style import colors_of, new_figure, style

ACCURACY = "preference accuracy without ties"
MASKING = {"decoupled": "with masking", "unmasked": "without masking", "decoupled_rl": "with masking, after stage 2"}
BROWSED = ("coupled_grpo", "decoupled", "decoupled_rl")
"""Paradigms whose evaluations can be looked through, of the first seed."""

COLORS = colors_of(paradigm.label for paradigm in PARADIGMS.values())


def show(root: Path, scale: Scale, results: Json) -> Path:
    """Write the page and return where it is."""
    sections = [
        _paradigms(results),
        _noise(results),
        _sizes(results),
        _masking(results),
        _attention(results),
        _stage2(results),
        _swapped(results),
        _several(results),
    ]
    ours, label = results["accuracy"]["ood"][OURS], ARMS[OURS].label
    highlights = [Highlight(f"{ours['mean']:.3f}", f"{label}, out-of-domain", words.interval(ours))]
    highlights += [
        Highlight(
            f"{found['ours_minus']['mean']:+.3f}", f"ours minus {ARMS[name].label}", words.interval(found["ours_minus"])
        )
        for name, found in results["accuracy"]["ood"].items()
        if name in {"discriminative", "coupled_grpo"}
    ]
    evaluations = {
        PARADIGMS[name].label: load_evaluation(evaluation_of(root, run_name(name, scale.seeds[0]), "ood"))
        for name in BROWSED
    }
    page = Page(
        title="Think, then score: the comparisons side by side",
        summary=_summary(scale),
        sections=sections,
        configuration=results["scale"] | {"configurations": {name: p.config for name, p in PARADIGMS.items()}},
        viewer=browse(evaluations),
        highlights=highlights,
    )
    _save_pictures(root / "figures", sections)
    return write_page(page, root / "evidence.html")


def _summary(scale: Scale) -> str:
    seeds = "one seed" if len(scale.seeds) == 1 else f"{len(scale.seeds)} seeds"
    return (
        f"Every paradigm is trained on the same {scale.num_train} rendered pairs, from the same backbone of 1.6 "
        f"million parameters, with {seeds}, and measured on {scale.num_held_out} held-out pairs in-domain and "
        "out-of-domain. Intervals are 95 %, over pairs of the mean over seeds; how far seeds are apart is shown "
        "by their own values. The world and the backbone are small: what is better here need not be better at 8B."
    )


def _paradigms(results: Json) -> Section:
    found = results["accuracy"]
    series = {
        label: {ARMS[name].label: _estimate(value) for name, value in found[split].items()}
        for split, label in SPLITS.items()
    }
    header = [
        "",
        "accuracy",
        "seeds",
        "with ties",
        "ours minus it",
        "quality of thoughts",
        "calibration error",
        "failed",
    ]
    tables = [
        Table(header, [_row(ARMS[name].label, value) for name, value in found[split].items()], label)
        for split, label in SPLITS.items()
    ]
    said = [
        f"{label.capitalize()}, ours (“{ARMS[OURS].label}”) is "
        f"{words.verdicts({ARMS[name].label: value.get('ours_minus') for name, value in found[split].items()})}."
        for split, label in SPLITS.items()
    ]
    text = (
        "Accuracy without ties by paradigm (the paper's figure 1b). A coupled model writes its score in the thought; "
        "its reward is that number, or the mean of what it might have written. Quality is the share of the dimension "
        "scores that its thoughts get right. Failed pairs have a thought without a legal score, and are in no "
        "accuracy.\n\n" + "\n\n".join(said)
    )
    figure = Figure(bars(series, x_label=ACCURACY, reference=0.5), "The dashed line is a coin.")
    return Section("The paradigms", text, [figure], tables)


def _row(label: str, value: Json) -> list[object]:
    cells = [
        words.with_interval(value),
        words.seeds(value),
        value["with_ties"],
        words.difference(value.get("ours_minus")),
    ]
    return [label, *cells, value["quality"], value["calibration_error"], value["num_failed"]]


def _noise(results: Json) -> Section:
    stage1 = [name for name, paradigm in PARADIGMS.items() if paradigm.stage == 1]
    stage2 = [name for name, paradigm in PARADIGMS.items() if paradigm.stage == 2]
    figures = [
        Figure(
            curves(
                _of_seeds(results, names, "val/preference_accuracy"),
                y_label="validation accuracy",
                reference=0.5,
                colors=COLORS,
            ),
            "The mean over seeds, in a band from the lowest to the highest.",
            title,
        )
        for title, names in (("From the backbone", stage1), ("From what they had made", stage2))
    ]
    rows = [
        [PARADIGMS[name].label, noise["loss_steps"], noise["accuracy_steps"], noise["accuracy_seeds"]]
        for name, noise in results["noise"].items()
    ]
    header = ["", "loss, step to step", "accuracy, over steps", "accuracy, over seeds"]
    text = (
        "How noisily each trains (the paper's figure 1c), over the second half of the steps: the spread of the "
        "loss from step to step as a share of its mean, and the standard deviation of validation accuracy over "
        "the validations of a run, and over seeds. The losses are different ones, so compare their spreads with "
        "care; a policy loss has a mean near 0 and no such share."
    )
    return Section("How noisily each trains", text, figures, [Table(header, rows)])


def _accuracy_curves(results: Json, names: list[str]) -> Any:
    series = _of_seeds(results, names, "val/preference_accuracy")
    return curves(series, y_label="validation accuracy", reference=0.5, colors=COLORS)


def _sizes(results: Json) -> Section:
    figures = []
    for split, label in SPLITS.items():
        series = {
            ARMS[name].label: {int(size): _estimate(value) for size, value in sizes.items()}
            for name, sizes in results["sizes"][split].items()
        }
        picture = lines(series, x_label="training pairs", y_label=ACCURACY, reference=0.5, log_x=True)
        figures.append(Figure(picture, title=label))
    text = "Accuracy against the number of training pairs (the paper's figure 3), all gone through as often."
    return Section("How many pairs it takes", text, figures)


def _masking(results: Json) -> Section:
    figures, rows = [], []
    for split, label in SPLITS.items():
        series = {}
        for name, masking in MASKING.items():
            found = results["given"][split][name]
            shares = {float(case): value for case, value in found.items() if case[0].isdigit()}
            series[masking] = {share: _estimate(value) for share, value in sorted(shares.items())}
            cells = [words.with_interval(found[case]) for case in ("0.0", "teacher", "none", "1.0")]
            rows.append([
                label,
                masking,
                *cells,
                *(words.difference(found[d]) for d in ("right_minus_wrong", "right_minus_none")),
            ])
        x_label = "share of the dimensions that the thought gets wrong"
        figures.append(Figure(lines(series, x_label=x_label, y_label=ACCURACY, reference=0.5), title=label))
    header = ["", "stage 1", "right", "teacher's", "missing", "wrong", "right minus wrong", "right minus missing"]
    masked, unmasked = (results["given"]["ood"][name]["right_minus_wrong"] for name in ("decoupled", "unmasked"))
    text = (
        "The head is fixed and reads thoughts that it is given: exact ones, ones that get a share of the "
        "dimensions wrong, the teacher's, or none. If better thoughts did not give better rewards, the lines "
        "would be flat, and the claim of the paper would fall.\n\nOut-of-domain, "
        f"{words.claim('with masking', masked)}, and {words.claim('without masking', unmasked)}."
    )
    return Section("Do better thoughts give better rewards?", text, figures, [Table(header, rows)])


def _attention(results: Json) -> Section:
    rows, bars_of = [], {}
    for name, masking in MASKING.items():
        for case, label in (("thought", "with a thought"), ("none", "without one")):
            found = results["attention"][name][case]
            means = [sum(found[source]) / len(found[source]) for source in SOURCES]
            bars_of[f"{masking}, {label}"] = means
            rows.append([masking, label, *means])
    text = (
        "Where the attention of the query token goes (the paper's figure 6), the mean over heads, layers and "
        "out-of-domain videos, with an exact thought and without any. The prompt stands for all text before the "
        "thought."
    )
    header = ["", "", *SOURCES]
    figures = [Figure(_stacked(bars_of), title="Mean over layers")]
    figures.append(Figure(_by_layer(results["attention"]), title="On the thought, by layer"))
    return Section("What the query token looks at", text, figures, [Table(header, rows)])


def _stacked(rows: Mapping[str, list[float]]) -> Any:
    with style():
        figure, axes = new_figure(height=1.0 + 0.4 * len(rows))
        left = [0.0] * len(rows)
        for index, (source, color) in enumerate(colors_of(SOURCES).items()):
            widths = [shares[index] for shares in rows.values()]
            axes.barh(range(len(rows)), widths, 0.6, left=left, color=color, label=source)
            left = [start + width for start, width in zip(left, widths, strict=True)]
        axes.set(xlim=(0, 1), xlabel="share of the attention")
        axes.set_yticks(range(len(rows)), rows)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        figure.legend(loc="outside upper left", ncols=len(SOURCES))
    return figure


def _by_layer(attention: Json) -> Any:
    series = {
        masking: {layer: Estimate(share) for layer, share in enumerate(attention[name]["thought"]["thought"], start=1)}
        for name, masking in MASKING.items()
    }
    return lines(series, x_label="layer", y_label="share of the attention")


def _stage2(results: Json) -> Section:
    names = ("decoupled_rl", "uncalibrated", "coupled_grpo")
    tags = {
        "rollout/quality": ("Quality reward of sampled thoughts", "share of dimension scores that are right"),
        "rollout/thought_tokens": ("Length of thoughts", "tokens"),
        "val/preference_accuracy": ("Accuracy with its own thoughts", "validation accuracy"),
        "val/preference_accuracy_teacher_thought": ("Accuracy with the teacher's thoughts", "validation accuracy"),
        "val/reward_mean": ("Mean reward", "reward"),
        "val/reward_std": ("Spread of rewards", "standard deviation of rewards"),
    }
    figures = []
    for tag, (title, y_label) in tags.items():
        having = [name for name in names if tag in results["curves"][name]]
        figures.append(Figure(curves(_of_seeds(results, having, tag), y_label=y_label, colors=COLORS), title=title))
    rows = []
    for split, label in SPLITS.items():
        for name in ("decoupled", "decoupled_rl", "uncalibrated"):
            found, given = results["accuracy"][split][name], results["given"][split][name]
            exact = words.with_interval(given["0.0"])
            cells = [words.with_interval(found), exact, found["calibration_error"], found["quality"]]
            rows.append([label, ARMS[name].label, *cells, found["tokens"], found["truncated"]])
    kept, free = results["accuracy"]["ood"]["decoupled_rl"], results["accuracy"]["ood"]["uncalibrated"]
    text = (
        "Stage 2 over its steps: the quality of the thoughts it samples, their length, and accuracy; with the "
        "calibration loss and without it, where the head may drift away from the thoughts it reads. "
        f"Out-of-domain, in the end: accuracy {kept['mean']:.3f} with it and {free['mean']:.3f} without it, "
        f"calibration error {kept['calibration_error']:.3f} and {free['calibration_error']:.3f}."
    )
    header = ["", "", "accuracy, own thoughts", "accuracy, exact thoughts", "calibration error", "quality of thoughts"]
    header += ["tokens", "cut off"]
    return Section("Stage 2, with the calibration loss and without", text, figures, [Table(header, rows)])


def _swapped(results: Json) -> Section:
    rows, figures = [], []
    for split, label in SPLITS.items():
        found = results["swapped"][split]
        for writer in WRITERS:
            quality = found["quality"][writer]
            rows.append([
                label,
                PARADIGMS[writer].label,
                quality,
                *(words.with_interval(found[head][writer]) for head in HEADS),
            ])
        series = {
            PARADIGMS[head].label: {PARADIGMS[writer].label: _estimate(found[head][writer]) for writer in WRITERS}
            for head in HEADS
        }
        picture = bars(series, x_label=ACCURACY, reference=0.5)
        figures.append(Figure(picture, "By who wrote the thought; colours are the heads that read it.", label))
    header = ["", "thoughts of", "their quality", *(f"read by {PARADIGMS[head].label}" for head in HEADS)]
    text = "Thoughts that another model of the same seed wrote, scored by the same head.\n\n" + "\n\n".join(
        words.best_and_worst(label, results["swapped"][split]) for split, label in SPLITS.items()
    )
    return Section("Thoughts swapped", text, figures, [Table(header, rows)])


def _several(results: Json) -> Section:
    found = results["thoughts"]
    series = {
        PARADIGMS[head].label: {int(number): _estimate(value) for number, value in found[head]["by_number"].items()}
        for head in HEADS
    }
    picture = lines(series, x_label="thoughts per video", y_label=ACCURACY, log_x=True)
    rows = [[PARADIGMS[head].label, *map(words.with_interval, found[head]["by_spread"])] for head in HEADS]
    text = (
        "Out-of-domain: the mean reward of the first k sampled thoughts; and accuracy by the spread of a pair's "
        "rewards over its thoughts, in thirds of the pairs. If the spread predicts errors, accuracy falls from "
        "left to right.\n\n" + "\n\n".join(words.gain(PARADIGMS[head].label, found[head]) for head in HEADS)
    )
    header = ["", "thoughts agree most", "between", "thoughts agree least"]
    return Section("More thoughts at test time", text, [Figure(picture)], [Table(header, rows)])


def _of_seeds(results: Json, names: Any, tag: str) -> dict[str, list[dict[int, float]]]:
    found = {PARADIGMS[name].label: results["curves"][name][tag] for name in names}
    return {
        label: [dict(zip(curve["steps"], seed, strict=True)) for seed in curve["seeds"]]
        for label, curve in found.items()
    }


def _estimate(value: Json) -> Estimate:
    return Estimate(value["mean"], value["low"], value["high"])


def _save_pictures(folder: Path, sections: list[Section]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for section in sections:
        for number, figure in enumerate(section.figures, start=1):
            name = section.title.lower().replace(" ", "_").replace(",", "").replace("?", "")
            with style():
                figure.picture.savefig(folder / f"{name}_{number}.png", dpi=110)
