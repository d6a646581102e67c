"""Seconds that the measures of an evaluation take on many pairs, random ones.

python -m benchmarks.speed.accuracy_at_scale                       1,000,000 pairs
python -m benchmarks.speed.accuracy_at_scale --pairs 100000        fewer
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table

from descore.metrics import bootstrap_interval, by_group, calibration, calls, paired_test, preference_accuracy


def cases(num_pairs: int, num_prompts: int) -> dict[str, Callable[[], object]]:
    generator = torch.Generator().manual_seed(0)
    margin = torch.randn(num_pairs, generator=generator)
    preference = torch.randint(-1, 2, (num_pairs,), generator=generator)
    decided = preference.where(preference != 0, 1)
    prompts = [f"prompt {row % num_prompts}" for row in range(num_pairs)]
    first, second = calls(margin, preference), calls(margin.flip(0), preference)
    return {
        "accuracy, a third of the pairs ties": lambda: preference_accuracy(margin, preference),
        "accuracy, no pair a tie": lambda: preference_accuracy(margin, decided),
        "accuracy, whole-number margins": lambda: preference_accuracy(margin.round(), preference),
        "interval, each pair on its own": lambda: bootstrap_interval(first),
        f"interval over {num_prompts} prompts": lambda: bootstrap_interval(first, prompts),
        f"paired test over {num_prompts} prompts": lambda: paired_test(first, second, prompts),
        "calibration": lambda: calibration(margin, preference),
        f"accuracy by each of {num_prompts} prompts": lambda: by_group(margin, preference, prompts),
    }


def seconds(case: Callable[[], object], repeats: int) -> float:
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        case()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1_000_000, help="how many pairs")
    parser.add_argument("--prompts", type=int, default=420, help="that they share")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch on the CPU")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each; the table shows the median")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = Table("measure", "seconds", title=f"{options.pairs:,} pairs")
    for name, case in cases(options.pairs, options.prompts).items():
        table.add_row(name, f"{seconds(case, options.repeats):.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
