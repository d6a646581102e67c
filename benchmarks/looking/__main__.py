"""Train models that see a few frames, ask for some, or see all, and show how well each judges videos of one moment.

    python -m benchmarks.looking                 # 3 seeds
    python -m benchmarks.looking --seeds 1       # the first seed alone
    python -m benchmarks.looking --quick         # a few steps of each, to see that all of it runs

A run that was stopped resumes, and a run with more seeds keeps what others did. --root holds the data, the runs,
measured/ and the table, looking.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.evidence.schedule import Task, TaskError, run_tasks
from benchmarks.looking.arms import ARMS, TRAINED, train
from benchmarks.looking.measure import measure
from benchmarks.looking.table import write_table


def tasks(root: Path, seeds: int, *, quick: bool) -> list[Task]:
    """List what is to be done: each model is trained, and then measured in every way that reads it."""
    found = []
    for seed in range(seeds):
        found += [Task(f"train-{name}-{seed}", train, (str(root), name, str(seed), str(quick))) for name in TRAINED]
        found += [
            Task(f"measure-{name}-{seed}", measure, (str(root), name, str(seed)), (f"train-{arm.trained}-{seed}",))
            for name, arm in ARMS.items()
        ]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.looking", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=Path("runs/looking"), help="folder of everything")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default 3)")
    parser.add_argument("--jobs", type=int, default=1, help="tasks at a time (default 1)")
    parser.add_argument("--quick", action="store_true", help="a few pairs and steps")
    options = parser.parse_args()
    try:
        run_tasks(tasks(options.root, options.seeds, quick=options.quick), options.root, options.jobs)
    except TaskError as error:
        sys.exit(f"looking: {error}")
    print(write_table(options.root))


if __name__ == "__main__":
    main()
