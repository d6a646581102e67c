"""Predictions of `benchmarks/fits/prediction.py` over measurements, on small models and a CPU.

    python -m benchmarks.fits.check

Measured are the parameters, gradients and moments of one process and of each of two that share a model (FSDP2, gloo);
the storages that autograd keeps of a forward pass; the most that tensors held at once in an update; and the operations
that torch counts. Attention has no kernel that torch counts on a CPU, so it is counted as plain products, where a mask
saves nothing.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from rich.console import Console
from torch import Tensor, distributed, multiprocessing
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.bias import causal_lower_right
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.fits import flops
from benchmarks.fits.activations import Keeping, kept
from benchmarks.fits.flops import Video
from benchmarks.fits.prediction import TRAINED, activations, choose, narrowed, state
from benchmarks.speed.harness import padded_prefix, random_thought, result_table
from benchmarks.speed.shapes import Shape, random_model
from descore.model.reward_model import RewardModel
from descore.runtime.sharding import shard
from descore.types import Branches, Prefix

SMALL = Shape(128, 3, 4, 384, 64, 3, 192, deepstack=(1,), key_heads=2, head=32, vocabulary=1001)
"""Sizes of the models that are measured; no number of processes divides its vocabulary."""

VIDEO = argparse.Namespace(frames=8, side=96, prefix=240)
THOUGHT = 60
KINDS = ("weights", "gradients", "moments")


@dataclass(frozen=True, slots=True)
class Run:
    """An update that is measured.

    Attributes:
        stage: 1 or 2, which decides what trains.
        rank: Of LoRA on the language model; 0 for none.
        mixed: Whether products are in bfloat16, by autocast.
        checkpointing: Whether activations are made again in the backward pass.
        thoughts: Of each video.
    """

    stage: int
    rank: int
    mixed: bool
    checkpointing: bool
    thoughts: int

    @property
    def keeping(self) -> Keeping:
        """How its activations are kept."""
        compute = 2 if self.mixed else 4
        return Keeping(compute, self.mixed, self.rank, self.stage == 1, self.checkpointing, flash=False)

    def __str__(self) -> str:
        trains = f"LoRA {self.rank}" if self.rank else "full"
        precision = "bf16-mixed" if self.mixed else "32-true"
        activations = "made again" if self.checkpointing else "kept"
        return f"stage {self.stage}, {trains}, {precision}, {self.thoughts} thoughts, activations {activations}"


RUNS = [
    Run(stage, rank, mixed, checkpointing, {1: 1, 2: 4}[stage])
    for stage, rank, mixed, checkpointing in itertools.product((1, 2), (16, 0), (False, True), (False, True))
]


def model_of(run: Run) -> RewardModel:
    model = random_model(SMALL, "cpu", torch.bfloat16 if run.mixed else torch.float32)
    # The query token stays as it is: for its sake PEFT copies the embedding, which here is as large as two layers.
    choose(model, [part for part in TRAINED[run.stage] if part != "query"], run.rank)
    if run.checkpointing:
        model.base.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


def pair_of(model: RewardModel, thoughts: int) -> tuple[Branches, list[Video]]:
    """Make up a pair, and say how long it is."""
    prefixes = [padded_prefix(model.processor, VIDEO, video) for video in "ab"]
    written = [[random_thought(model.processor, THOUGHT, f"{v}{k}") for k in range(thoughts)] for v in "ab"]
    return model.processor.pack(prefixes, written), [_video(prefix, thoughts) for prefix in prefixes]


def forward(model: RewardModel, run: Run, branches: Branches) -> Tensor:
    """Run what an update of the stage runs: its loss is a sum."""
    with torch.autocast("cpu", torch.bfloat16, enabled=run.mixed, cache_enabled=False):
        with torch.no_grad():
            seen = model.see(branches) if run.stage == 2 else None
        found = model(branches, with_logprobs=run.stage == 2, seen=seen)
    return found.rewards.sum() + found.logprobs.sum()  # type: ignore[no-any-return]


def kept_bytes(run: Run) -> tuple[float, float]:
    """Bytes that a forward pass keeps: as predicted, and of the storages that autograd saves."""
    model = model_of(run)
    branches, videos = pair_of(model, run.thoughts)
    weights = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    saved: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward(model, run, branches)
    measured = sum(storage.nbytes() for key, storage in saved.items() if key not in weights)
    casts = narrowed(model, checkpointing=run.checkpointing) if run.mixed else 0.0
    return kept(model.base.config, videos, run.keeping, rows_of(run)) + casts, measured


def peak_bytes(run: Run) -> tuple[float, float]:
    """The most that an update adds to the model: as predicted, and of all tensors that there are at once."""
    model = model_of(run)
    branches, videos = pair_of(model, run.thoughts)
    there = [parameter.untyped_storage() for parameter in model.parameters()]
    with one_bias(), LiveBytes(there) as live:
        for _ in range(2):  # the second finds the gradients of the first
            forward(model, run, branches).backward()  # type: ignore[no-untyped-call]
    predicted = activations(model, videos, run.keeping, rows_of(run))
    return predicted + state(model, run.stage)["gradients"], live.most


def rows_of(run: Run) -> int:
    return 2 * run.thoughts * (THOUGHT + 1) if run.stage == 2 else 0


def operations(run: Run) -> tuple[float, float]:
    """Operations of an update: as predicted, and as torch counts them where attention is made of plain products."""
    model = model_of(run)
    branches, videos = pair_of(model, run.thoughts)
    with one_bias(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        forward(model, run, branches).backward()  # type: ignore[no-untyped-call]
    config = model.base.config
    options: dict[str, Any] = {"rank": run.rank, "vision_trains": run.stage == 1, "checkpointing": run.checkpointing}
    predicted = flops.update(config, videos, num_rows=rows_of(run), **options)
    masked = sum(_square(video) - video.num_visible for video in videos)
    per_pair = flops.attention(config, videos) / sum(video.num_visible for video in videos)
    predicted += (3 + run.checkpointing) * per_pair * masked
    return predicted + (flops.vision(config, videos) if run.stage == 2 else 0), counter.get_total_flops()


def one_bias() -> Any:
    """Make the causal bias of all branches beforehand: torch can make none while operations are watched."""
    bias = causal_lower_right(THOUGHT + 1, VIDEO.prefix + THOUGHT + 1)
    return mock.patch("descore.model.shared_prefix.causal_lower_right", return_value=bias)


class LiveBytes(TorchDispatchMode):
    """Follows the storages that operations make: how many bytes there are now, and were at most."""

    def __init__(self, there: Iterable[Any]) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: weakref.WeakSet[Any] = weakref.WeakSet(there)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(made):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self._known:
                self._known.add(storage)
                self.now += (size := storage.nbytes())
                weakref.finalize(storage, self._gone, size)
        self.most = max(self.most, self.now)
        return made

    def _gone(self, size: int) -> None:
        self.now -= size


def shares(rank: int, processes: int, run: Run, store: str, results: Any) -> None:
    """Take a step on one of several processes that share a model, and report its bytes by kind."""
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=processes)
    torch.set_num_threads(1)
    model = model_of(run)
    shard(model, init_device_mesh("cpu", (processes,)), torch.float32)
    results.put(_held_after_a_step(model, run))
    distributed.barrier()
    distributed.destroy_process_group()


def held_bytes(run: Run, processes: int) -> tuple[dict[str, float], dict[str, float]]:
    """Bytes of weights, gradients and moments: as predicted, and of the process that holds most."""
    model = model_of(run)
    predicted = state(model, run.stage, processes)
    if processes == 1:
        return predicted, _held_after_a_step(model, run)
    results = multiprocessing.get_context("spawn").SimpleQueue()
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(shares, (processes, run, str(Path(folder) / "store"), results), processes)
    found = [results.get() for _ in range(processes)]
    return predicted, {kind: max(held[kind] for held in found) for kind in predicted}


def _held_after_a_step(model: RewardModel, run: Run) -> dict[str, float]:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    forward(model, run, pair_of(model, run.thoughts)[0]).backward()  # type: ignore[no-untyped-call]
    gradients = _bytes(parameter.grad for parameter in trained)
    optimizer.step()
    moments = _bytes(value for state in optimizer.state.values() for value in state.values() if value.ndim)
    return dict(zip(KINDS, (_bytes(model.parameters()), gradients, moments), strict=True))


def _bytes(tensors: Any) -> float:
    """Bytes of this process's part of tensors."""
    own = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors if tensor is not None]
    return float(sum(tensor.numel() * tensor.element_size() for tensor in own))


def _video(prefix: Prefix, thoughts: int) -> Video:
    _, rows, columns = prefix.grid.tolist()
    return Video(len(prefix.input_ids), len(prefix.patches), rows * columns, (THOUGHT + 1,) * thoughts)


def _square(video: Video) -> int:
    if len(video.branches) == 1:
        return video.num_tokens**2
    return video.prefix**2 + sum(branch * (video.prefix + branch) for branch in video.branches)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", action="store_true", help="print the tables in Markdown")
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(width=140)
    table = result_table("update", "kept", "peak", "operations", words=["update"], markdown=options.markdown)
    for run in RUNS:
        counted = "" if run.mixed else ratio(operations(run))  # autocast has the same products
        table.add_row(str(run), ratio(kept_bytes(run)), ratio(peak_bytes(run)), counted)
    console.print(table)
    table = result_table("processes", "trains", *KINDS, words=["trains"], markdown=options.markdown)
    for processes, rank in itertools.product((1, 2), (16, 0)):
        predicted, measured = held_bytes(Run(1, rank, False, False, 1), processes)
        cells = [ratio((predicted[kind], measured[kind])) for kind in KINDS]
        table.add_row(str(processes), f"LoRA {rank}" if rank else "full", *cells)
    console.print(table)
    console.print("Prediction over measurement; bytes, and operations.")


def ratio(found: tuple[float, float]) -> str:
    predicted, measured = found
    return f"{predicted / measured:.3f}"


if __name__ == "__main__":
    main()
