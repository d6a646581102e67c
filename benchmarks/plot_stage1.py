"""Draws the picture of a stage-1 run that the README shows, from its TensorBoard files.

python benchmarks/plot_stage1.py runs/stage1/version_0 docs/stage1.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

MODES = {"": "teacher's thought", "_no_thought": "no thought", "_own_thought": "own thought"}
TABLES = {"val": "in-domain", "val/ood": "out-of-domain"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run")
    parser.add_argument("picture", type=Path, help="where the picture goes")
    options = parser.parse_args()
    events = EventAccumulator(str(options.run), size_guidance={"scalars": 0})
    events.Reload()
    mpl.use("agg")
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), sharey=True, layout="constrained")
    for axis, (table, title) in zip(axes, TABLES.items(), strict=True):
        for ending, label in MODES.items():
            scalars = events.Scalars(f"{table}/preference_accuracy{ending}")
            axis.plot([scalar.step + 1 for scalar in scalars], [scalar.value for scalar in scalars], "o-", label=label)
        axis.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")
        axis.set(title=title, xlabel="step", ylim=(0.35, 1.02))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("preference accuracy")
    axes[1].legend(loc="center right")
    figure.savefig(options.picture, dpi=110)


if __name__ == "__main__":
    main()
