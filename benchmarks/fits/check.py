"""Compare the formulas of `python -m benchmarks.fits` with measurements on small models and a CPU.

    python -m benchmarks.fits.check

Measured are the bytes that autograd keeps of a forward pass, the most that tensors hold at once in an update, the
operations that torch counts, and the weights, gradients and moments of a single rank and of the first of two that share
a model (FSDP2, without the other rank). On a CPU torch counts no attention kernel, so attention is counted as plain
products, where a mask saves nothing. The exit code is 1 if a formula is further off than its limit.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.fits import formulas
from benchmarks.fits.formulas import Keeping, Video
from benchmarks.fits.prediction import activations, narrowed, state
from benchmarks.speed.backbones import TRAINED, random_model, small_shape
from benchmarks.speed.harness import one_bias, padded_prefix, random_thought, result_table
from descore.model.reward_model import RewardModel
from descore.runtime.fsdp2 import shard
from descore.types import Branches

SMALL = small_shape(width=128, layers=3, vocabulary=1001)
"""Sizes of the models that are measured; no number of ranks divides the vocabulary."""

VIDEO = argparse.Namespace(frames=8, side=96, prefix=240)
THOUGHT = 60
LIMITS = {"kept": 0.11, "peak": 0.2, "operations": 0.02}
"""Largest difference between a formula and a measurement, as a share of the measurement."""


@dataclass(frozen=True, slots=True)
class Run:
    """An update that is measured.

    Attributes:
        stage: Stage of the training, 1 or 2, which decides what trains.
        rank: Rank of LoRA on the language model; 0 trains it in full.
        mixed: Whether products are in bfloat16, by autocast.
        checkpointing: Whether activations are recomputed in the backward pass.
    """

    stage: int
    rank: int
    mixed: bool = False
    checkpointing: bool = False

    @property
    def thoughts(self) -> int:
        """Thoughts per video."""
        return 1 if self.stage == 1 else 4

    @property
    def num_rows(self) -> int:
        """Positions whose logits are made."""
        return 0 if self.stage == 1 else 2 * self.thoughts * (THOUGHT + 1)

    @property
    def keeping(self) -> Keeping:
        """What decides how much of its activations is kept."""
        compute = 2 if self.mixed else 4
        return Keeping(compute, self.mixed, self.rank, self.stage == 1, self.checkpointing, flash=False)

    def __str__(self) -> str:
        trains = f"LoRA {self.rank}" if self.rank else "full"
        precision = "bf16-mixed" if self.mixed else "32-true"
        activations = "recomputed" if self.checkpointing else "kept"
        return f"stage {self.stage}, {trains}, {precision}, activations {activations}"


def model_of(run: Run) -> RewardModel:
    # The query token does not train: PEFT copies the embedding for it, which here is as large as two layers.
    parts = [part for part in TRAINED[run.stage] if part != "query"]
    model = random_model(SMALL, "cpu", torch.bfloat16 if run.mixed else torch.float32, parts=parts, lora_rank=run.rank)
    if run.checkpointing:
        model.base.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


def pair_of(model: RewardModel, thoughts: int) -> tuple[Branches, list[Video]]:
    """Make a pair with random thoughts, and its lengths."""
    prefixes = [padded_prefix(model.processor, VIDEO, video) for video in "ab"]
    written = [[random_thought(model.processor, THOUGHT, f"{v}{k}") for k in range(thoughts)] for v in "ab"]
    lengths = [Video.of(prefix, (THOUGHT + 1,) * thoughts) for prefix in prefixes]
    return model.processor.pack(prefixes, written), lengths


def forward(model: RewardModel, run: Run, branches: Branches) -> Tensor:
    """Run what an update of the stage runs; the loss is a sum."""
    with torch.autocast("cpu", torch.bfloat16, enabled=run.mixed, cache_enabled=False):
        with torch.no_grad():
            seen = model.see(branches) if run.stage == 2 else None
        found = model(branches, with_logprobs=run.stage == 2, seen=seen)
    return found.rewards.sum() + found.logprobs.sum()


def kept_bytes(run: Run) -> tuple[float, float]:
    """Bytes that a forward pass keeps: by formula, and of the storages that autograd saves."""
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
    return formulas.kept(model.base.config, videos, run.keeping, run.num_rows) + casts, measured


def peak_bytes(run: Run) -> tuple[float, float]:
    """The most bytes that an update adds to the model: by formula, and of all tensors that there are at once."""
    model = model_of(run)
    branches, videos = pair_of(model, run.thoughts)
    there = [parameter.untyped_storage() for parameter in model.parameters()]
    with one_bias(THOUGHT, VIDEO.prefix), LiveBytes(there) as live:
        for _ in range(2):  # the second finds the gradients of the first
            forward(model, run, branches).backward()
    predicted = activations(model, videos, run.keeping, run.num_rows)
    return predicted + state(model, run.stage)["gradients"], live.most


def operations(run: Run) -> tuple[float, float]:
    """Operations of an update: by formula, and as torch counts them where attention is made of plain products."""
    model = model_of(run)
    branches, videos = pair_of(model, run.thoughts)
    with one_bias(THOUGHT, VIDEO.prefix), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        forward(model, run, branches).backward()
    config, first = model.base.config, run.stage == 1
    options: dict[str, Any] = {"vision_trains": first, "checkpointing": run.checkpointing}
    predicted = formulas.update(config, videos, rank=run.rank, num_rows=run.num_rows, **options)
    visible = sum(video.num_visible for video in videos)
    masked = sum(_square(video) for video in videos) - visible
    predicted += (3 + run.checkpointing) * formulas.attention(config, videos) / visible * masked
    return predicted + (0 if first else formulas.vision(config, videos)), counter.get_total_flops()


def held_bytes(run: Run, ranks: int) -> tuple[dict[str, float], dict[str, float]]:
    """Bytes of weights, gradients and moments after a step: by formula, and on the first rank, which holds most."""
    model = model_of(run)
    predicted = state(model, run.stage, ranks)
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    if ranks > 1:
        shard(model, init_device_mesh("cpu", (ranks,)), torch.float32)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    forward(model, run, pair_of(model, run.thoughts)[0]).backward()
    gradients = _bytes(parameter.grad for parameter in trained)
    optimizer.step()
    moments = _bytes(value for state in optimizer.state.values() for value in state.values() if value.ndim)
    distributed.destroy_process_group()
    return predicted, {"weights": _bytes(model.parameters()), "gradients": gradients, "moments": moments}


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", action="store_true", help="print the tables in Markdown")
    options = parser.parse_args()
    torch.set_num_threads(1)
    updates, wrong = result_table("update", *LIMITS, words=["update"], markdown=options.markdown), []
    for stage, rank, mixed, checkpointing in itertools.product((1, 2), (16, 0), (False, True), (False, True)):
        run = Run(stage, rank, mixed, checkpointing)
        measures = {"kept": kept_bytes, "peak": peak_bytes} | ({} if mixed else {"operations": operations})
        found = {name: measure(run) for name, measure in measures.items()}
        ratios = {name: predicted / measured for name, (predicted, measured) in found.items()}
        wrong += [f"{run}: {name} {ratio:.3f}" for name, ratio in ratios.items() if abs(ratio - 1) > LIMITS[name]]
        updates.add_row(str(run), *(f"{ratios[name]:.3f}" if name in ratios else "" for name in LIMITS))
    kinds = ("weights", "gradients", "moments")
    ranks = result_table("ranks", "trains", *kinds, words=["trains"], markdown=options.markdown)
    for number, rank in itertools.product((1, 2), (16, 0)):
        predicted, measured = held_bytes(Run(1, rank), number)
        wrong += [f"{number} ranks, {kind}" for kind in kinds if predicted[kind] != measured[kind]]
        cells = [f"{predicted[kind] / measured[kind]:.3f}" for kind in kinds]
        ranks.add_row(str(number), f"LoRA {rank}" if rank else "full", *cells)
    Console(width=140).print(updates, ranks, "Formula over measurement; bytes, and operations.")
    if wrong:
        sys.exit(f"expected formulas within {LIMITS} of measurements, and bytes of ranks to be exact; got {wrong}")


def _bytes(tensors: Iterable[Tensor | None]) -> float:
    """Bytes of this rank's part of tensors."""
    own = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors if tensor is not None]
    return float(sum(tensor.numel() * tensor.element_size() for tensor in own))


def _square(video: Video) -> int:
    """Pairs of tokens that attention without a mask looks at."""
    if len(video.branches) == 1:
        return video.num_tokens**2
    return video.prefix**2 + sum(branch * (video.prefix + branch) for branch in video.branches)


if __name__ == "__main__":
    main()
