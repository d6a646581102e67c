"""Draws the picture of both stages that the README shows, from the TensorBoard files of two runs.

python -m benchmarks.evidence.plot_training runs/stage1/version_0 runs/stage2/version_0 docs/training.png
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt

from benchmarks.evidence.finished_runs import logged_points

ACCURACY = "val/preference_accuracy"
CURVES = {
    "stage 1: preference accuracy": {
        "teacher's thought": ACCURACY,
        "own thought": f"{ACCURACY}_own_thought",
        "no thought": f"{ACCURACY}_no_thought",
    },
    "stage 2: preference accuracy": {
        "teacher's thought": f"{ACCURACY}_teacher_thought",
        "own thought": ACCURACY,
        "no thought": f"{ACCURACY}_no_thought",
    },
    "stage 2: quality of thoughts": {
        "sampled, training pairs": "rollout/quality",
        "most probable, held-out": "val/dimension_accuracy",
    },
}
"""By panel: what is drawn of a run, by label. Solid lines are in-domain, dashed ones out-of-domain."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage1", type=Path, help="folder of the run of stage 1")
    parser.add_argument("stage2", type=Path, help="folder of the run of stage 2")
    parser.add_argument("picture", type=Path, help="where the picture goes")
    options = parser.parse_args()
    mpl.use("agg")
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    runs = {"stage 1": logged_points(options.stage1), "stage 2": logged_points(options.stage2)}
    for axis, (title, curves) in zip(axes, CURVES.items(), strict=True):
        _draw(axis, runs[title.partition(":")[0]], title, curves)
    figure.savefig(options.picture, dpi=110)


def _draw(axis: Any, points: dict[str, list[tuple[int, float]]], title: str, curves: dict[str, str]) -> None:
    for index, (label, tag) in enumerate(curves.items()):
        tags = {tag: "o-"}
        if tag.startswith("val/"):
            tags[tag.replace("val/", "val/ood/")] = "o--"
        for name, style in tags.items():
            steps, values = zip(*points[name], strict=True)
            axis.plot(
                [step + 1 for step in steps],
                values,
                style,
                color=f"C{index}",
                markersize=3,
                label=label if name == tag else None,
            )
    axis.set(title=title, xlabel="batch", ylim=(0.25, 1.0))
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")


if __name__ == "__main__":
    main()
