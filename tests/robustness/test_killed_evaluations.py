"""Evaluations that are killed and resumed: the same summary and scores to the byte, and only a batch is scored twice.

SIGKILL falls on `descore evaluate`, amid a batch or at a random moment. Every batch that begins to be scored is noted:
one that was written whole must not begin again.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from descore.cli import main as descore
from descore.scoring.run import PROMPT_TOKENS
from descore.scoring.scorer import Scorer
from descore.tables.writer import write_pairs
from descore.types import Pair, Side
from tests.helpers.killing import num_kills
from tests.helpers.ranks import CONTEXT, kill

KILLS = num_kills(3)
"""Kills at random moments."""
KILLS_OF_A_RUN = 3
BATCH = 4


@dataclass(frozen=True)
class Run:
    """An evaluation of a table by a model, in a folder."""

    model: Path
    table: Path
    folder: Path
    thought_tokens: int

    @property
    def batch_tokens(self) -> int:
        """Tokens of a batch: room for `BATCH` small videos with two thoughts and a prompt each, and no more."""
        return int((BATCH + 0.8) * (PROMPT_TOKENS + 2 * self.thought_tokens))

    @property
    def notes(self) -> Path:
        """File in which each batch is noted as it begins to be scored."""
        return self.folder.with_suffix(".notes")

    def evaluate(self, kill_in: int = 0) -> None:
        """Start or resume; the process kills itself amid the batch of that number, if any."""
        arguments = ["--model", str(self.model), "--table", str(self.table), "--root", str(self.table.parent)]
        arguments += ["--output", str(self.folder), "--device", "cpu", "--max-batch-tokens", f"{self.batch_tokens}"]
        with mock.patch.object(Scorer, "score_batch", noting(Scorer.score_batch, self.notes, kill_in)):
            assert descore(["evaluate", *arguments, "--num-thoughts", "2"]) == 0

    def start(self, kill_in: int = 0) -> ForkServerProcess:
        """Start or resume in a new process, which may be killed."""
        process = CONTEXT.Process(target=evaluate_apart, args=(self, kill_in))
        process.start()
        return process

    def begun(self) -> list[str]:
        """Return the batches that began to be scored."""
        return self.notes.read_text().splitlines() if self.notes.exists() else []

    def num_written(self) -> int:
        """Return how many batches are written whole."""
        scores = self.folder / "scores.jsonl"
        return scores.read_bytes().count(b"\n") // BATCH if scores.exists() else 0


def noting(score: Callable[..., Iterator[Any]], notes: Path, kill_in: int) -> Callable[..., Iterator[Any]]:
    """Wrap what scores a batch, so that it notes the batch, and kills the process in one of them."""
    numbers = itertools.count(1)

    def noted(scorer: Scorer, items: Sequence[Any], *rest: Any) -> Iterator[Any]:
        with notes.open("a") as file:
            file.write(" | ".join(item.key for item in items) + "\n")
        number = next(numbers)
        for found in score(scorer, items, *rest):
            yield found
            if number == kill_in:  # the line of the video before is written
                os.kill(os.getpid(), signal.SIGKILL)

    return noted


def evaluate_apart(run: Run, kill_in: int) -> None:
    os.setpgrp()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    torch.set_num_threads(1)
    run.evaluate(kill_in)


@pytest.fixture
def whole(build, clips: list[str], tmp_path: Path) -> Callable[[int, int], Run]:
    """Evaluate pairs with thoughts of some length, and let the evaluation end."""

    def finish(num_pairs: int, max_thought_tokens: int) -> Run:
        build(max_thought_tokens=max_thought_tokens).save_pretrained(str(tmp_path / "model"))
        pairs = [
            Pair(f"p{i}", f"a circle, {i}", Side(clips[i % 4]), Side(clips[(i + 1) % 4]), (1.0,))
            for i in range(num_pairs)
        ]
        write_pairs(tmp_path / "pairs.jsonl", pairs)
        run = Run(tmp_path / "model", tmp_path / "pairs.jsonl", tmp_path / "whole", max_thought_tokens)
        run.evaluate()
        return run

    return finish


def check(run: Run, whole: Run, starts: Sequence[tuple[int, int]]) -> None:
    """Compare with an evaluation that was left alone; starts are the batches begun and written before each start."""
    for name in ("summary.json", "scores.jsonl"):
        assert (run.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    planned, begun = whole.begun(), run.begun()
    ends = [first for first, _ in starts[1:]] + [len(begun)]
    for (first, written), end in zip(starts, ends, strict=True):
        assert begun[first:end] == planned[written : written + end - first]


def test_an_evaluation_killed_amid_two_batches_ends_as_one_left_alone(tmp_path: Path, whole) -> None:
    left_alone = whole(num_pairs=6, max_thought_tokens=4)
    run = replace(left_alone, folder=tmp_path / "killed")
    starts = [(0, 0)]
    for batch in (1, 2):
        process = run.start(kill_in=batch)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        starts.append((len(run.begun()), run.num_written()))
    run.evaluate()
    assert starts == [(0, 0), (1, 0), (3, 1)]
    assert len(run.begun()) == len(left_alone.begun()) + 2 == 5
    check(run, left_alone, starts)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_an_evaluation_killed_at_random_moments_ends_as_one_left_alone(tmp_path: Path, whole) -> None:
    left_alone = whole(num_pairs=12, max_thought_tokens=40)
    began = time.monotonic()
    replace(left_alone, folder=tmp_path / "timed").start().join()
    seconds, dice, left, again = time.monotonic() - began, random.Random(0), KILLS, 0
    for number in itertools.count():
        run = replace(left_alone, folder=tmp_path / f"killed{number}")
        starts = [(0, 0)]
        for _ in range(min(left, KILLS_OF_A_RUN)):
            process = run.start()
            process.join(dice.uniform(0.05, 0.95) * seconds)
            if process.exitcode is not None:
                break
            kill([process])
            starts.append((len(run.begun()), run.num_written()))
        run.evaluate()
        check(run, left_alone, starts)
        print("batches begun and written before each start:", starts)
        again += len(run.begun()) - len(left_alone.begun())
        if (left := left - len(starts) + 1) <= 0:
            break
        seconds *= 1.0 if len(starts) > 1 else 0.7  # it ended before its kill: the machine is faster now
    print(f"{KILLS} kills, {again} batches were scored again")
    assert again <= KILLS
