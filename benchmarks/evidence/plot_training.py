"""Draw the figure of both stages in the README, from the TensorBoard files of the runs of one or several seeds.

python -m benchmarks.evidence.plot_training --stage1 runs/stage1/version_0 --stage2 runs/stage2/version_0

Of several seeds the lines are the means, and the bands reach from the lowest to the highest.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

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
    for stage in (1, 2):
        runs_help = f"folders of the stage-{stage} runs, one for each seed"
        parser.add_argument(f"--stage{stage}", type=Path, nargs="+", required=True, metavar="RUN", help=runs_help)
    parser.add_argument("--output", type=Path, default=Path("docs/training.png"), help="file to write")
    options = parser.parse_args()
    runs = {f"stage {stage}": list(map(logged_points, getattr(options, f"stage{stage}"))) for stage in (1, 2)}
    with style():
        figure, panels = new_figure(width=11, height=3.4, columns=3)
        for axes, (title, labels) in zip(panels, CURVES.items(), strict=True):
            seeds = runs[title.partition(":")[0]]
            for number, (label, tag) in enumerate(labels.items()):
                _draw(axes, [points[tag] for points in seeds], "o-", color=f"C{number}", label=label)
                if tag.startswith("val/"):
                    shifted = tag.replace("val/", "val/ood/")
                    _draw(axes, [points[shifted] for points in seeds], "o--", color=f"C{number}")
            axes.set(title=title, xlabel="batch", ylim=(0.5, 1.0))
            axes.legend(fontsize="small")
        figure.savefig(options.output, dpi=110)


def _draw(axes: Axes, seeds: Sequence[Sequence[tuple[int, float]]], line: str, **look: str) -> None:
    """Draw the points (step, value) of a curve, seed by seed; all seeds have the same steps."""
    curves = np.array(seeds)  # [seeds, points, 2]
    if (curves[..., 0] != curves[0, :, 0]).any():
        raise SystemExit("expected runs with points at the same steps")
    batches, values = curves[0, :, 0] + 1, curves[..., 1]
    axes.plot(batches, values.mean(0), line, markersize=3, **look)
    axes.fill_between(batches, values.min(0), values.max(0), color=look["color"], alpha=0.12, linewidth=0)


if __name__ == "__main__":
    main()
