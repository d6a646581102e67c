"""A step of stage 2 on processes that share a model: its weights gathered once for the thoughts, or once a token.

    python -m benchmarks.speed.sharded_rollouts --help

Every process thinks about a pair of its own and then takes the gradients of one packed update, by LoRA, in float32 with
gloo. The thoughts of both ways must be equal. All are of full length: processes that gather for every token have
to stay in step with each other, and would wait for ever for one whose thoughts are shorter.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from torch import distributed, multiprocessing
from torch.distributed.device_mesh import init_device_mesh

from benchmarks.speed.harness import Seconds, argument_parser, medians, result_table, timed, write_backbone
from benchmarks.speed.stage2_case import Case, build, create, update
from descore.model.reward_model import RewardModel
from descore.model.sampling import Sampling
from descore.runtime.sharding import gathered, shard
from descore.thinking.think import think
from descore.types import Group

WAYS: dict[str, Callable[[RewardModel], AbstractContextManager[None]]] = {
    "once": gathered,
    "every token": lambda _: nullcontext(),
}


def roll_out(case: Case, way: str, options: argparse.Namespace) -> list[Group]:
    sampling = Sampling(options.num_thoughts, options.thought, temperature=1.0)
    with WAYS[way](case.model):
        return think(case.model, case.videos, sampling)


def run(rank: int, options: argparse.Namespace, store: str) -> None:
    """Measure on one process; the first one reports."""
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=options.processes)
    model = create(options)
    model.processor.forbidden_ids = sorted({*model.processor.forbidden_ids, model.processor.end_id})
    case = build(model, options)
    shard(model, init_device_mesh("cpu", (options.processes,)), torch.float32)
    update(case, "packed")  # FSDP learns from its first forward which module is the root
    thoughts = {way: [group.thoughts for group in roll_out(case, way, options)] for way in WAYS}
    if thoughts["once"] != thoughts["every token"]:
        raise SystemExit("expected the same thoughts of both ways, got others; no measurement is valid")
    parts = {f"thoughts, {way}": partial(timed, partial(roll_out, case, way, options)) for way in WAYS}
    taken = medians(parts | {"update": partial(timed, partial(update, case, "packed"))}, options.repeats)
    if rank == 0:
        report(taken, options)
    distributed.barrier()
    distributed.destroy_process_group()


def report(taken: dict[str, Seconds], options: argparse.Namespace) -> None:
    table = result_table("gathered", "thoughts s", "step s", "ratio", words=["gathered"], markdown=options.markdown)
    thoughts = {way: taken[f"thoughts, {way}"][0] for way in WAYS}
    steps = {way: seconds + taken["update"][0] for way, seconds in thoughts.items()}
    for way in WAYS:
        ratio = f"{steps[way] / steps['once']:.1f}"
        table.add_row(way, f"{thoughts[way]:.2f}", f"{steps[way]:.2f}", ratio)
    console = Console(width=120)
    console.print(table)
    console.print(
        f"{options.processes} processes, two videos each, {options.num_thoughts} thoughts of {options.thought} tokens,"
        f" prefix {options.prefix}, width {options.width}, {options.layers} layers; median of {options.repeats}"
    )


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--processes", type=int, default=2, help="processes that share the model")
    parser.add_argument("--prefix", type=int, default=640, help="tokens before a thought")
    parser.add_argument("--thought", type=int, default=100, help="tokens of a thought")
    parser.add_argument("--num-thoughts", type=int, default=8, help="thoughts per video")
    parser.add_argument("--lora-rank", type=int, default=16, help="rank of the adapters")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations in the backward pass")
    parser.set_defaults(frames=4, side=128, width=512, layers=12, vocabulary=4096, threads=1, repeats=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        options.backbone = folder
        write_backbone(folder, options)
        multiprocessing.spawn(run, (options, str(Path(folder) / "store")), options.processes)


if __name__ == "__main__":
    main()
