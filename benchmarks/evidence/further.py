"""Sections of the page for what is trained on request: three times as long, and the ways of published systems."""

from __future__ import annotations

from benchmarks.evidence import words
from benchmarks.evidence.arms import ARMS, OURS, SYSTEM_ARMS
from benchmarks.evidence.data import GIVEN_SPLITS, SPLITS
from benchmarks.evidence.plan import LONGER
from benchmarks.evidence.results import Json
from descore.report import Section, Table


def longer(results: Json) -> Section:
    """Section of what was trained three times as long."""
    rows = [
        [label, ARMS[name].label, words.with_interval(results["accuracy"][split][name]), words.with_interval(value)]
        for split, label in SPLITS.items()
        for name, value in results["longer"]["accuracy"][split].items()
    ]
    header = ["", "", "accuracy", "accuracy after three times the epochs"]
    given = [
        [label, LONGER[name].label, *(words.with_interval(found[case]) for case in words.GIVEN_CASES)]
        for split, label in GIVEN_SPLITS.items()
        for name, found in results["longer"]["given"][split].items()
    ]
    text = "The same pairs, three times as often: whether a paradigm that lags behind is only slower."
    tables = [Table(header, rows), Table(["", "with thoughts that are", *words.GIVEN_CASES.values()], given)]
    return Section("Three times as long", text, [], tables)


def systems(results: Json) -> Section:
    """Section of the ways of published systems."""
    header = ("", "accuracy", "seeds", "with ties", "ours minus it", "calibration error", "failed")
    tables = []
    for split, label in SPLITS.items():
        found = {SYSTEM_ARMS[name].label: value for name, value in results["systems"][split].items() if name != OURS}
        rows = [words.row(name, value) for name, value in found.items()]
        tables.append(Table(header, [[*row[:5], *row[6:]] for row in rows], label))
    text = (
        "The ways of published systems on the same pairs, backbone and budget, with labels of their kind: where they "
        "read, what they learn from, and how their number comes out (docs/baselines.md). Their own backbones, data and "
        "weights are not part of this. Models that compare two videos see each pair in both orders; the last table has "
        "the share of pairs whose verdict changes with the order, and the share of the probability that moves."
    )
    tables.append(_by_order(results))
    return Section("Published systems", text, [], tables)


def _by_order(results: Json) -> Table:
    """Table of what the order of two videos changes, for the models that compare them."""
    rows: list[list[object]] = []
    for split, label in SPLITS.items():
        orders = {name: value["order"] for name, value in results["systems"][split].items() if value["order"]}
        rows += [[label, SYSTEM_ARMS[name].label, *order.values()] for name, order in orders.items()]
    return Table(("", "", "verdict changes", "probability moves"), rows, "Order of the two videos")
