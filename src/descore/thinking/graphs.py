"""Decoding steps as CUDA graphs: a step of a large model has over a thousand kernels, and one call starts all of them.

Without a graph, a GPU that decodes waits for the interpreter, which starts kernel after kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

from descore.model.reward_model import RewardModel
from descore.model.thought_cache import ThoughtCache

Step = Callable[[Tensor, Tensor, ThoughtCache], Tensor]
"""The decoding step of a model, see `RewardModel.step`."""
Capture = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]
"""Makes a function that can be called many times, from the same memory to the same memory."""


@contextmanager
def fastest_step(model: RewardModel) -> Iterator[Step]:
    """Context manager: give the decoding step of a model, by CUDA graphs where it can be.

    Shards of a weight are gathered anew, and the layers of some families wait for the device: neither can be captured.
    Within the context, adapters have the precision of autocast, which would narrow them anew in every step.
    """
    sharded = any(isinstance(module, (FSDPModule, FullyShardedDataParallel)) for module in model.modules())
    if sharded or not (model.head.weight.is_cuda and model.processor.family.graphed):
        yield model.step
        return
    whole = {p: p.data for name, p in model.named_parameters() if "lora_" in name}
    try:
        if torch.is_autocast_enabled("cuda"):
            for parameter, data in whole.items():
                parameter.data = data.to(torch.get_autocast_dtype("cuda"))
        yield GraphedStep(model)
    finally:
        for parameter, data in whole.items():
            parameter.data = data


class GraphedStep:
    """The decoding step of a model, captured once for each size of a batch and of its cache, and then replayed.

    Args:
        model: Model on a GPU.
        capture: Captures a function; as a CUDA graph if not given.
    """

    def __init__(self, model: RewardModel, capture: Capture | None = None) -> None:
        self.model = model
        self.capture = cuda_graph if capture is None else capture
        self.layout = -1  # of the cache when the step was captured

    def __call__(self, input_ids: Tensor, position_ids: Tensor, cache: ThoughtCache) -> Tensor:
        """Run one decoding step; the arguments and the result are those of `RewardModel.step`."""
        cache.make_room()
        # PEFT copies the numbers of a trained query token to the device in each call: no graph can hold that.
        embedded = self.model.base.get_input_embeddings()(input_ids)
        if self.layout != cache.layout:
            self.layout = cache.layout
            self._capture(embedded, position_ids, cache)
        self.embedded.copy_(embedded)
        self.position_ids.copy_(position_ids)
        self.place.fill_(cache.length)
        hidden = self.replay()
        cache.step()
        return hidden.clone()

    def _capture(self, embedded: Tensor, position_ids: Tensor, cache: ThoughtCache) -> None:
        self.embedded, self.position_ids = embedded.clone(), position_ids.clone()
        self.place = torch.full((1,), cache.length, device=embedded.device)

        def step() -> Tensor:
            with cache.writing_at(self.place):
                return self.model.step(self.embedded, self.position_ids, cache)

        self.replay = self.capture(step)


def cuda_graph(run: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Capture a function as a CUDA graph; what is returned replays it and gives its result, always in the same memory.

    Args:
        run: Function that reads and writes the same memory in each call, and never waits for the device.
    """
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
    dtype, enabled = torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda")
    stream.wait_stream(torch.cuda.current_stream())
    # Autocast would keep narrowed weights in memory that it frees before the graph is replayed.
    with torch.cuda.stream(stream), torch.autocast("cuda", dtype, enabled=enabled, cache_enabled=False):
        run()  # libraries take their memory in the first call
        graph.capture_begin(capture_error_mode="thread_local")  # other threads may copy to the device meanwhile
        try:
            result = run()
        except BaseException:
            with suppress(RuntimeError):  # a capture that broke off cannot end well; what broke it is the error to see
                graph.capture_end()
            raise
        graph.capture_end()
    torch.cuda.current_stream().wait_stream(stream)

    def replay() -> Tensor:
        graph.replay()
        return result

    return replay
