"""The page of the evidence: each comparison with its figures, its numbers, and what came out, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.evidence import words
from benchmarks.evidence.arms import ARMS, OURS
from benchmarks.evidence.data import GIVEN_SPLITS, SPLITS
from benchmarks.evidence.further import longer, systems
from benchmarks.evidence.measure import HEADS, WRITERS, evaluation_of
from benchmarks.evidence.plan import PARADIGMS, Scale, run_name
from benchmarks.evidence.results import Json
from descore.evaluation.folder import load_evaluation
from descore.evaluation.query_attention import SOURCES
from descore.report import Figure, Highlight, Page, Section, Table, browse, write_page
from descore.report.figures import Estimate, bars, colors_of, curves, lines, style

ACCURACY = "preference accuracy without ties"
MASKING = {"decoupled": "with masking", "unmasked": "without masking", "decoupled_rl": "with masking, after stage 2"}
BROWSED = ("coupled_grpo", "decoupled", "decoupled_rl")
"""Paradigms whose evaluations of the first seed can be browsed."""

LABELS = {name: paradigm.label for name, paradigm in PARADIGMS.items()}
COLORS = colors_of(LABELS.values())


def show(root: Path, scale: Scale, results: Json) -> Path:
    """Write the page and its figures; return the path of the page."""
    parts = (
        _paradigms,
        *([longer] if results["longer"] else []),
        *([systems] if results["systems"] else []),
        _noise,
        _sizes,
        _masking,
        _attention,
        _stage2,
        _swapped,
        _several,
    )
    sections = [part(results) for part in parts]
    found = results["accuracy"]["ood"]
    highlights = [
        Highlight(f"{found[OURS]['mean']:.3f}", f"{ARMS[OURS].label}, out-of-domain", words.interval(found[OURS]))
    ]
    for name in ("discriminative", "coupled_grpo"):
        minus = found[name]["ours_minus"]
        highlights.append(Highlight(f"{minus['mean']:+.3f}", f"ours minus {ARMS[name].label}", words.interval(minus)))
    runs = {LABELS[name]: evaluation_of(root, run_name(name, scale.seeds[0]), "ood") for name in BROWSED}
    page = Page(
        title="Think, then score: the comparisons side by side",
        summary=_summary(scale),
        sections=sections,
        configuration=results["scale"] | {"configurations": {name: p.config for name, p in PARADIGMS.items()}},
        viewer=browse({label: load_evaluation(folder) for label, folder in runs.items()}),
        highlights=highlights,
    )
    _save_figures(root / "figures", sections)
    return write_page(page, root / "evidence.html")


def _summary(scale: Scale) -> str:
    seeds = "one seed" if len(scale.seeds) == 1 else f"{len(scale.seeds)} seeds"
    return (
        f"Every paradigm is trained on the same {scale.num_train} rendered pairs, from the same backbone of 2.1 "
        f"million parameters, with {seeds}, and measured on {scale.num_held_out} held-out pairs a split: in-domain; "
        "out-of-domain, which the backbone has seen and the pairs do not show; and far, outside of both. "
        "Intervals are 95 % bootstrap intervals over pairs of the mean over seeds; the values of the "
        "seeds show the spread between them. The world and the backbone are small: what is better here need not be "
        "better at 8B."
    )


def _paradigms(results: Json) -> Section:
    found = {label: results["accuracy"][split] for split, label in SPLITS.items()}
    header = ("", "accuracy", "seeds", "with ties", "ours minus it", "thought quality", "calibration error", "failed")
    tables = [
        Table(header, [words.row(ARMS[name].label, value) for name, value in values.items()], label)
        for label, values in found.items()
    ]
    said = [
        f"{label.capitalize()}, ours (“{ARMS[OURS].label}”) is "
        f"{words.verdicts({ARMS[name].label: value.get('ours_minus') for name, value in values.items()})}."
        for label, values in found.items()
    ]
    text = (
        "Accuracy without ties by paradigm (figure 1b of the paper). A coupled model writes its score in the thought; "
        "its reward is that number, or the expected value of it. Thought quality is the share of correct dimension "
        "scores in its thoughts. A pair failed if a thought has no legal score; it counts in no accuracy."
    )
    series = {label: {ARMS[name].label: _estimate(v) for name, v in values.items()} for label, values in found.items()}
    figure = Figure(bars(series, x_label=ACCURACY, reference=0.5), "The dashed line is chance.")
    return Section("The paradigms", "\n\n".join([text, *said]), [figure], tables)


def _noise(results: Json) -> Section:
    figures = []
    for title, stage in (("From the backbone", 1), ("From an exported model", 2)):
        names = [name for name, paradigm in PARADIGMS.items() if paradigm.stage == stage]
        caption = "The mean over seeds, in a band from the lowest to the highest."
        figures.append(
            Figure(_curves(results, names, "val/preference_accuracy", "validation accuracy"), caption, title)
        )
    kinds = ("loss_steps", "accuracy_steps", "accuracy_seeds")
    rows = [[LABELS[name], *(noise[kind] for kind in kinds)] for name, noise in results["noise"].items()]
    header = ["", "loss, step to step", "accuracy, over steps", "accuracy, over seeds"]
    text = (
        "Noise of the training (figure 1c of the paper), over the second half of the steps: the spread of the loss "
        "from step to step as a share of its mean, and the standard deviation of validation accuracy over the "
        "validations of a run, and over seeds. The losses differ, so compare their spreads with care; the mean of a "
        "policy loss is near 0, so it has no such share."
    )
    return Section("Noise of the training", text, figures, [Table(header, rows)])


def _sizes(results: Json) -> Section:
    figures = []
    for split, label in GIVEN_SPLITS.items():
        found = results["sizes"][split]
        series = {ARMS[name].label: _by_number(sizes, int) for name, sizes in found.items()}
        figures.append(Figure(_lines(series, "training pairs", log_x=True), title=label))
    text = "Accuracy by the number of training pairs (figure 3 of the paper), with the same number of epochs."
    return Section("Number of training pairs", text, figures)


def _masking(results: Json) -> Section:
    figures, rows = [], []
    for split, label in GIVEN_SPLITS.items():
        series = {}
        for name, masking in MASKING.items():
            found = results["given"][split][name]
            series[masking] = _by_number({case: found[case] for case in sorted(found) if case[0].isdigit()}, float)
            cells = [words.with_interval(found[case]) for case in words.GIVEN_CASES]
            differences = [words.difference(found[name]) for name in ("right_minus_wrong", "right_minus_none")]
            rows.append([label, masking, *cells, *differences])
        figures.append(Figure(_lines(series, "share of wrong dimensions in the thought"), title=label))
    header = ["", "stage 1", *words.GIVEN_CASES.values(), "right minus wrong", "right minus missing"]
    masked, unmasked = (results["given"]["ood"][name]["right_minus_wrong"] for name in ("decoupled", "unmasked"))
    text = (
        "The head is fixed and reads given thoughts: exact ones, ones with a share of wrong dimensions, the teacher's, "
        "or none. If better thoughts did not give better rewards, the lines would be flat, and the claim of the paper "
        f"would fall.\n\nOut-of-domain, {words.claim('with masking', masked)}, and "
        f"{words.claim('without masking', unmasked)}."
    )
    return Section("Do better thoughts give better rewards?", text, figures, [Table(header, rows)])


def _attention(results: Json) -> Section:
    found = results["attention"]
    rows = []
    for name, masking in MASKING.items():
        for case, label in (("thought", "with a thought"), ("none", "without one")):
            layers = found[name][case]
            rows.append([masking, label, *(sum(layers[source]) / len(layers[source]) for source in SOURCES)])
    text = (
        "Attention of the query token (figure 6 of the paper), the mean over heads, layers and out-of-domain videos, "
        "with an exact thought and without a thought. The prompt stands for all text before the thought."
    )
    means = {
        source: {f"{row[0]}, {row[1]}": Estimate(row[2 + place]) for row in rows}
        for place, source in enumerate(SOURCES)
    }
    layers = {
        masking: {layer: Estimate(share) for layer, share in enumerate(found[name]["thought"]["thought"], start=1)}
        for name, masking in MASKING.items()
    }
    share = "share of the attention"
    figures = [Figure(bars(means, x_label=share), title="Mean over layers")]
    figures.append(Figure(lines(layers, x_label="layer", y_label=share), title="On the thought, by layer"))
    return Section("What the query token attends to", text, figures, [Table(["", "", *SOURCES], rows)])


def _stage2(results: Json) -> Section:
    tags = {
        "rollout/quality": ("Quality reward of sampled thoughts", "share of correct dimension scores"),
        "rollout/thought_tokens": ("Length of thoughts", "tokens"),
        "val/preference_accuracy": ("Accuracy with its own thoughts", "validation accuracy"),
        "val/preference_accuracy_teacher_thought": ("Accuracy with the teacher's thoughts", "validation accuracy"),
        "val/reward_mean": ("Mean reward", "reward"),
        "val/reward_std": ("Spread of rewards", "standard deviation of rewards"),
    }
    figures = []
    for tag, (title, y_label) in tags.items():
        names = [name for name in ("decoupled_rl", "uncalibrated", "coupled_grpo") if tag in results["curves"][name]]
        figures.append(Figure(_curves(results, names, tag, y_label, reference=None), title=title))
    rows = []
    for split, label in GIVEN_SPLITS.items():
        for name in ("decoupled", "decoupled_rl", "uncalibrated"):
            found, exact = results["accuracy"][split][name], results["given"][split][name]["0.0"]
            accuracies = [words.with_interval(found), words.with_interval(exact)]
            others = [found[measure] for measure in ("calibration_error", "quality", "tokens", "truncated")]
            rows.append([label, ARMS[name].label, *accuracies, *others])
    kept, free = results["accuracy"]["ood"]["decoupled_rl"], results["accuracy"]["ood"]["uncalibrated"]
    text = (
        "Stage 2 over its steps: quality and length of the sampled thoughts, and accuracy; with the calibration loss "
        "and without it, where the head may drift away from the thoughts it reads. Out-of-domain, after the last step: "
        f"accuracy {kept['mean']:.3f} with it and {free['mean']:.3f} without it, calibration error "
        f"{kept['calibration_error']:.3f} and {free['calibration_error']:.3f}."
    )
    header = ["", "", "accuracy, own thoughts", "accuracy, exact thoughts", "calibration error", "thought quality"]
    table = Table([*header, "tokens", "cut off"], rows)
    return Section("Stage 2, with the calibration loss and without", text, figures, [table])


def _swapped(results: Json) -> Section:
    rows, figures = [], []
    for split, label in GIVEN_SPLITS.items():
        found = results["swapped"][split]
        for writer in WRITERS:
            cells = [words.with_interval(found[head][writer]) for head in HEADS]
            rows.append([label, LABELS[writer], found["quality"][writer], *cells])
        series = {LABELS[head]: {LABELS[w]: _estimate(found[head][w]) for w in WRITERS} for head in HEADS}
        caption = "By the writer of the thought; colours are the heads that read it."
        figures.append(Figure(bars(series, x_label=ACCURACY, reference=0.5), caption, label))
    header = ["", "thoughts of", "their quality", *(f"read by {LABELS[head]}" for head in HEADS)]
    said = [words.best_and_worst(label, results["swapped"][split]) for split, label in GIVEN_SPLITS.items()]
    text = "Thoughts of the other models of the same seed, scored by the same head."
    return Section("Swapped thoughts", "\n\n".join([text, *said]), figures, [Table(header, rows)])


def _several(results: Json) -> Section:
    found = {LABELS[head]: results["thoughts"][head] for head in HEADS}
    series = {label: _by_number(values["by_number"], int) for label, values in found.items()}
    picture = _lines(series, "thoughts per video", reference=None, log_x=True)
    rows = [[label, *map(words.with_interval, values["by_spread"])] for label, values in found.items()]
    text = (
        "Out-of-domain: accuracy of the mean reward over the first k sampled thoughts; and accuracy by the spread of a "
        "pair's rewards over its thoughts, in thirds of the pairs. If the spread predicts errors, accuracy falls from "
        "left to right."
    )
    said = [words.gain(label, values) for label, values in found.items()]
    header = ["", "thoughts agree most", "between", "thoughts agree least"]
    section = "More thoughts at test time"
    return Section(section, "\n\n".join([text, *said]), [Figure(picture)], [Table(header, rows)])


def _curves(results: Json, names: Iterable[str], tag: str, y_label: str, reference: float | None = 0.5) -> Any:
    series = {}
    for name in names:
        curve = results["curves"][name][tag]
        series[LABELS[name]] = [dict(zip(curve["steps"], seed, strict=True)) for seed in curve["seeds"]]
    return curves(series, y_label=y_label, reference=reference, colors=COLORS)


def _lines(series: Any, x_label: str, *, reference: float | None = 0.5, log_x: bool = False) -> Any:
    return lines(series, x_label=x_label, y_label=ACCURACY, reference=reference, log_x=log_x)


def _by_number(values: Mapping[str, Json], number: type[int] | type[float]) -> dict[float, Estimate]:
    return {number(name): _estimate(value) for name, value in values.items()}


def _estimate(value: Json) -> Estimate:
    return Estimate(value["mean"], value["low"], value["high"])


def _save_figures(folder: Path, sections: list[Section]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for section in sections:
        name = "".join(letter for letter in section.title.lower().replace(" ", "_") if letter not in ",?")
        for number, figure in enumerate(section.figures, start=1):
            with style():
                figure.picture.savefig(folder / f"{name}_{number}.png", dpi=110)
