"""What fits on how many GPUs, and about how long a pair takes: memory and time of both stages, by formula.

    python -m benchmarks.fits --shapes 8B --gpus 1 8

GB of a GPU in bf16-mixed: "weights" with the frozen reference of stage 2, "activations" at their most, "rollouts" all
that thinking needs besides weights and moments, "peak" the larger of an update and of rollouts. Seconds follow from
assumed rates, which are options. `python -m benchmarks.fits.check` compares the formulas with measurements.
"""

from __future__ import annotations

import argparse

from rich.console import Console

from benchmarks.fits.prediction import Plan, Rates, memory, seconds
from benchmarks.speed.backbones import SHAPES
from benchmarks.speed.harness import HelpFormatter, result_table

KINDS = ("weights", "gradients", "moments", "activations", "rollouts", "peak")


def main() -> None:
    options = _options()
    plans = [
        Plan(
            shape,
            stage,
            rank,
            gpus,
            "none" if gpus == 1 else "ddp" if options.ddp else "fsdp",
            checkpointing=not options.keep,
            prefix=options.prefix,
            patches=4 * options.video,
            thought=options.thought,
            thoughts=options.num_thoughts,
            together=options.think_videos,
            batch=options.batch,
        )
        for shape in options.shapes
        for stage in (1, 2)
        for rank in (options.lora_rank, 0)
        for gpus in options.gpus
    ]
    fits = f"fits {options.memory:g} GB"
    columns = ("model", "stage", "trains", "GPUs", *KINDS, fits, "s per pair")
    table = result_table(*columns, words=["model", "trains", fits], markdown=options.markdown)
    for plan in plans:
        table.add_row(*_row(plan, options))
    Console(width=140).print(table)


def _row(plan: Plan, options: argparse.Namespace) -> list[str]:
    found = memory(plan)
    found["weights"] += found["reference"]
    kinds = [f"{found[kind] / 1e9:.1f}" for kind in KINDS]
    exchange = options.bandwidth if plan.gpus <= options.node else options.network
    rates = Rates(
        options.peak_tflops * 1e12 * options.share, options.memory_bandwidth * 1e9, exchange * 1e9, options.start
    )
    fits = "yes" if found["peak"] <= options.usable * options.memory * 1e9 else "no"
    trains = f"LoRA {plan.rank}" if plan.rank else "full"
    taken = sum(seconds(plan, rates).values())
    return [plan.shape, str(plan.stage), trains, str(plan.gpus), *kinds, fits, f"{taken:.1f}"]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.fits", description=__doc__, formatter_class=HelpFormatter)
    add = parser.add_argument
    add("--shapes", nargs="+", default=["2B", "8B", "32B"], choices=list(SHAPES), help="sizes of the backbone")
    add("--gpus", type=int, nargs="+", default=[1, 8, 64], help="numbers of GPUs; more than one share the model (FSDP)")
    add("--ddp", action="store_true", help="every GPU holds the whole model instead")
    add("--lora-rank", type=int, default=64, help="rank of LoRA on the language model")
    add("--keep", action="store_true", help="keep activations instead of recomputing them")
    add("--prefix", type=int, default=6200, help="tokens before a thought")
    add("--video", type=int, default=5000, help="tokens of the prefix that are video")
    add("--thought", type=int, default=1500, help="tokens of a thought")
    add("--num-thoughts", type=int, default=8, help="thoughts per video in stage 2")
    add("--think-videos", type=int, default=4, help="videos that are thought about at the same time")
    add("--batch", type=int, default=16, help="pairs of a rollout batch on each GPU")
    add("--memory", type=float, default=80, help="GB of a GPU")
    add("--usable", type=float, default=0.92, help="share of the memory that is not lost to CUDA and to fragmentation")
    add("--peak-tflops", type=float, default=800, help="10^12 operations a second of a large bf16 product")
    add("--share", type=float, default=0.4, help="share of these operations that a step reaches")
    add("--memory-bandwidth", type=float, default=2000, help="GB a second read from the memory of a GPU")
    add("--bandwidth", type=float, default=300, help="GB a second between the GPUs of a node")
    add("--network", type=float, default=40, help="GB a second between nodes, for each GPU")
    add("--node", type=int, default=8, help="GPUs of a node")
    add("--start", type=float, default=5e-4, help="seconds, at least, that a layer takes for one token")
    add("--markdown", action="store_true", help="print the table in Markdown")
    return parser.parse_args()


if __name__ == "__main__":
    main()
