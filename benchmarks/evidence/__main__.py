"""Train the paradigms side by side, measure them, and show what came out on one page.

    python -m benchmarks.evidence            # 3 seeds
    python -m benchmarks.evidence --quick    # one seed and few pairs, 3 minutes: shows that all of it runs
    python -m benchmarks.evidence --longer   # also with three times the epochs, 20 minutes more
    python -m benchmarks.evidence --systems  # also the ways of published systems, two hours more

A run that was stopped resumes. --root holds training/ (for TensorBoard), evaluations/, measured/, results.json,
figures/ and the page, evidence.html.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from benchmarks.evidence.data import labels_of, prepare
from benchmarks.evidence.plan import EVERY, FULL, LONGER, QUICK, SYSTEMS, tasks
from benchmarks.evidence.schedule import TaskError, run_tasks
from data_modules.world.labels import Labels


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.evidence", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, cores = parser.add_argument, os.cpu_count() or 1
    add("--quick", action="store_true", help="one seed and few pairs")
    add("--longer", action="store_true", help="also train three of them three times as long")
    add("--systems", action="store_true", help="also train the ways of published systems")
    add("--root", type=Path, help="folder of everything (default: runs/evidence, or runs/evidence_quick)")
    add("--jobs", type=int, default=cores, help="tasks at a time (default: the number of cores)")
    add("--only", nargs="+", metavar="NAME", help="run only tasks whose names start with NAME, and write no page")
    options = parser.parse_args()
    scale = QUICK if options.quick else FULL
    root = options.root or Path("runs/evidence_quick" if options.quick else "runs/evidence")
    more = [*(LONGER if options.longer else ()), *(SYSTEMS if options.systems else ())]
    planned = tasks(scale, root, more=more)
    wanted = [task for task in planned if task.name.startswith(tuple(options.only or [""]))]
    if not wanted:
        known = ", ".join(task.name for task in planned)
        parser.error(f"--only: expected the start of a task's name, got {' '.join(options.only)}; tasks: {known}")
    others = {labels_of(EVERY[name].config) for name in more} - {Labels()}
    prepare(root, scale.num_train, scale.smaller, scale.num_held_out, sorted(others, key=str))
    try:
        run_tasks(wanted, root, options.jobs)
    except TaskError as error:
        sys.exit(f"evidence: {error}")
    if not options.only:
        from benchmarks.evidence.page import show
        from benchmarks.evidence.results import gather

        print(show(root, scale, gather(root, scale)))


if __name__ == "__main__":
    main()
