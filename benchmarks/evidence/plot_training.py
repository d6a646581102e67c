"""Draw the figure of both stages in the README, from the TensorBoard files of two runs.

python -m benchmarks.evidence.plot_training runs/stage1/version_0 runs/stage2/version_0 docs/training.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.evidence.finished_runs import logged_points
from descore.report.figures import new_figure, style

ACCURACY = "val/preference_accuracy"
ACCURACIES = {
    "own thought": ACCURACY,
    "teacher's thought": f"{ACCURACY}_teacher_thought",
    "no thought": f"{ACCURACY}_no_thought",
}
CURVES = {
    "stage 1: preference accuracy": ACCURACIES,
    "stage 2: preference accuracy": ACCURACIES,
    "stage 2: quality of thoughts": {
        "sampled, training pairs": "rollout/quality",
        "most probable, held-out": "val/dimension_accuracy",
    },
}
"""Tags by panel and label. Solid lines are in-domain, dashed ones out-of-domain."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage1", type=Path, help="folder of the stage-1 run")
    parser.add_argument("stage2", type=Path, help="folder of the stage-2 run")
    parser.add_argument("picture", type=Path, help="file to write")
    options = parser.parse_args()
    runs = {"stage 1": logged_points(options.stage1), "stage 2": logged_points(options.stage2)}
    with style():
        figure, panels = new_figure(width=11, height=3.4, columns=3)
        for axes, (title, labels) in zip(panels, CURVES.items(), strict=True):
            points = runs[title.partition(":")[0]]
            for number, (label, tag) in enumerate(labels.items()):
                axes.plot(*_curve(points[tag]), "o-", color=f"C{number}", markersize=3, label=label)
                if tag.startswith("val/"):
                    axes.plot(*_curve(points[tag.replace("val/", "val/ood/")]), "o--", color=f"C{number}", markersize=3)
            axes.set(title=title, xlabel="batch", ylim=(0.25, 1.0))
            axes.legend(fontsize="small")
        figure.savefig(options.picture, dpi=110)


def _curve(points: list[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [step + 1 for step, _ in points], [value for _, value in points]


if __name__ == "__main__":
    main()
