"""Damaged and hostile exports: each loads and scores, or is refused in one line; no memory piles up and nothing hangs.

DESCORE_DAMAGED_EXPORTS=1000 make test-all        for a longer look
"""

from __future__ import annotations

import json
import os
import resource
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from descore.inputs.network import load_network
from descore.model.export import ExportError
from descore.model.reward_model import RewardModel
from descore.model.sums import sum_files
from descore.model.trainable import make_trainable
from descore.types import Thought
from tests.helpers.damaged_exports import damage
from tests.helpers.examples import make_frames

NUMBER, SAMPLE = int(os.environ.get("DESCORE_DAMAGED_EXPORTS", "200")), 60
SECONDS, GIGABYTES = 10.0, 1
"""Most that a load may take, in time and in memory beyond what the process has."""


@pytest.fixture(scope="module")
def exports(build, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """An export in one file, one in several, and an adapter."""
    folder = tmp_path_factory.mktemp("exports")
    build().save_pretrained(str(folder / "whole"))
    build().save_pretrained(str(folder / "sharded"))
    shard(folder / "sharded")
    model = build()
    make_trainable(model, ("language", "merger", "query", "head"), lora_parts=("language",), lora_rank=2, lora_alpha=4)
    model.save_pretrained(str(folder / "adapter"), weights="adapter")
    return [folder / name for name in ("whole", "sharded", "adapter")]


def shard(export: Path) -> None:
    """Lay the weights of an export into several files with an index."""
    network = load_network(export / "backbone")
    (export / "backbone/model.safetensors").unlink()
    network.save_pretrained(export / "backbone", max_shard_size="300KB")
    content = json.loads((export / "descore.json").read_text())
    sums = {name: total for name, total in sum_files(export).items() if name != "descore.json"}
    (export / "descore.json").write_text(json.dumps(content | {"sums": sums}))


@contextmanager
def bounded() -> Iterator[None]:
    """Context manager: fail if memory or time run out of bounds."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before, start = resource.getrlimit(resource.RLIMIT_AS), time.monotonic()
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + GIGABYTES * 2**30, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert time.monotonic() - start < SECONDS


def outcome(export: Path) -> str | None:
    """Load an export and score with it; return the reason why it is refused, or None."""
    try:
        with bounded(), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            model = RewardModel.from_pretrained(str(export))
            prefix = model.processor.prefix("a cat", make_frames())
            model(model.processor.pack([prefix], [[model.processor.thought("a cat"), Thought()]]), with_logprobs=True)
    except ExportError as error:
        return str(error)
    return None


@pytest.mark.parametrize("seeds", [range(SAMPLE), pytest.param(range(SAMPLE, NUMBER), marks=pytest.mark.slow)])
def test_a_damaged_export_scores_or_is_refused_in_one_line(exports, tmp_path, seeds):
    problems = []
    for seed in seeds:
        copy, done = damage(exports[seed % len(exports)], tmp_path, seed)
        try:
            reason = outcome(copy)
        except BaseException as error:
            problems.append(f"{done}: {type(error).__name__}: {str(error)[:300]}")
            continue
        if reason is not None and ("\n" in reason or "alloc" in reason or str(copy) not in reason):
            problems.append(f"{done}: {reason}")
    assert not problems, "\n".join(["", *problems])
