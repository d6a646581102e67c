"""Train the paradigms side by side, measure them, and show what came out on one page.

    python -m benchmarks.evidence            # 3 seeds, 70 minutes on two cores
    python -m benchmarks.evidence --quick    # one seed, tiny, 5 minutes: does everything run?

A run that is stopped goes on where it was. Everything lies under --root: training/ (runs, for TensorBoard),
evaluations/, measured/, results.json, figures/ and the page, evidence.html.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from benchmarks.evidence.data import prepare
from benchmarks.evidence.plan import FULL, QUICK, tasks
from benchmarks.evidence.schedule import TaskError, run_tasks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed and few pairs, in runs/evidence_quick")
    parser.add_argument("--root", type=Path, help="where everything goes (default runs/evidence)")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="tasks at a time (default: as many as cores)"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only the tasks whose names begin so, and no page")
    options = parser.parse_args()
    scale = QUICK if options.quick else FULL
    root = options.root or Path("runs/evidence_quick" if options.quick else "runs/evidence")
    wanted = tasks(scale, root)
    chosen = [task for task in wanted if task.name.startswith(tuple(options.only or [""]))]
    if not chosen:
        known = ", ".join(task.name for task in wanted)
        parser.error(f"--only: expected the beginning of a task's name, got {' '.join(options.only)}; tasks: {known}")
    prepare(root, scale.num_train, scale.smaller, scale.num_held_out)
    try:
        if options.only:
            run_tasks(chosen, root, options.jobs)
            return
        run_tasks(wanted, root, options.jobs)
    except TaskError as error:
        sys.exit(f"evidence: {error}")
    from benchmarks.evidence.page import show
    from benchmarks.evidence.results import gather

    print(show(root, scale, gather(root, scale)))


if __name__ == "__main__":
    main()
