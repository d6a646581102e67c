"""Where a model scores, in which precision, and how much at a time."""

from __future__ import annotations

from typing import Any

import torch

from descore.inputs.settings import Dtype
from descore.scoring.folder import ScoringError

CPU_TOKENS = 16_384
"""Tokens of a batch on a CPU, where more bring no more speed."""

SHARE_OF_MEMORY = 0.5
"""Share of the free memory of a GPU that a batch is planned to take; the rest is for fragments and the vision tower."""


def choose_device(name: str | None) -> torch.device:
    """Return a device by its name; the GPU if there is one, or else the CPU, if no name is given.

    Raises:
        ScoringError: If there is no such device on this machine.

    >>> choose_device("cpu")
    device(type='cpu')
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        raise ScoringError(f"device {name!r} is not there: expected one of {', '.join(['cpu', *gpus])}") from error
    return device


def choose_dtype(name: Dtype | None, device: torch.device) -> Dtype:
    """Return a precision by its name; bfloat16 on a GPU and float32 on a CPU if no name is given.

    Raises:
        ScoringError: If there is no such precision.

    >>> choose_dtype(None, torch.device("cpu")), choose_dtype("bfloat16", torch.device("cpu"))
    ('float32', 'bfloat16')
    """
    if name is None:
        return "bfloat16" if device.type == "cuda" else "float32"
    if name not in {"float32", "bfloat16"}:
        raise ScoringError(f"expected the dtype float32 or bfloat16, got {name!r}")
    return name


def choose_batch_tokens(config: Any, device: torch.device, dtype: Dtype) -> int:
    """Return how many tokens a batch may have, from the free memory of a GPU; a fixed number on a CPU.

    A token takes its keys and values in every layer, twice while the cache grows, and the widest activations of one
    layer.

    Args:
        config: Configuration of the language model.
        device: Device that the batch runs on.
        dtype: Precision of the backbone.
    """
    if device.type != "cuda":
        return CPU_TOKENS
    free, _ = torch.cuda.mem_get_info(device)
    width = 2 if dtype == "bfloat16" else 4
    cached = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * width
    active = (4 * config.hidden_size + 3 * config.intermediate_size) * width
    return max(CPU_TOKENS // 4, int(SHARE_OF_MEMORY * free / (2 * cached + active)))
