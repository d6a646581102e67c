"""Evaluations that are killed at random moments and run again: the same summary, and nothing scored twice but a batch.

    OMP_NUM_THREADS=1 python -m tests.robustness.killed_evaluations --kills 20

SIGKILL falls on `descore evaluate` at a random moment of the time it takes, up to three times in each evaluation, and
then it is left to end. Compared with an evaluation that was left alone are summary and scores, byte for byte. Every
batch that begins to be scored is noted: one that was written whole must not begin again.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import torch
from transformers.utils.logging import disable_progress_bar

from data_modules.world.rendering import render_split
from descore.cli import main as descore
from descore.evaluation.benchmark import Benchmark, table_benchmark
from descore.inputs.prompts import PromptTemplate
from descore.inputs.settings import ModelSettings
from descore.model.reward_model import RewardModel
from descore.scoring.scorer import Scorer
from descore.video.settings import VideoSettings

KILLS_OF_A_RUN = 3
BATCH = 4


@dataclass(frozen=True)
class Run:
    """One evaluation: its folder, and a file in which each batch is noted as it begins to be scored."""

    benchmark: Benchmark
    model: Path
    folder: Path
    options: tuple[str, ...]

    @property
    def notes(self) -> Path:
        """Where batches are noted."""
        return self.folder.with_suffix(".notes")

    def start(self) -> ForkProcess:
        """Begin, or go on, in a process of its own; it has imported everything already."""
        process = get_context("fork").Process(target=self._run)
        process.start()
        return process

    def finish(self) -> float:
        """Let it end; return the seconds that took."""
        began = time.monotonic()
        process = self.start()
        process.join()
        if process.exitcode != 0:
            raise RuntimeError(f"expected an evaluation that ends, got exit code {process.exitcode}")
        return time.monotonic() - began

    def begun(self) -> list[str]:
        """Return the batches that began to be scored."""
        return self.notes.read_text().splitlines() if self.notes.exists() else []

    def num_whole(self) -> int:
        """Return how many lines of scores are whole."""
        scores = self.folder / "scores.jsonl"
        return scores.read_bytes().count(b"\n") if scores.exists() else 0

    def _run(self) -> None:
        os.setsid()
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        score = Scorer._score_batch

        def noted(scorer: Scorer, items: Sequence[Any], *rest: Any) -> Iterator[Any]:
            with self.notes.open("a") as file:
                file.write(" | ".join(item.name for item in items) + "\n")
            yield from score(scorer, items, *rest)

        Scorer._score_batch = noted  # type: ignore[method-assign]
        table, root = str(self.benchmark.table), str(self.benchmark.root)
        arguments = ["--model", str(self.model), "--table", table, "--root", root, "--output", str(self.folder)]
        raise SystemExit(descore(["evaluate", *arguments, "--device", "cpu", *self.options]))


@dataclass
class Moments:
    """Where the kills fell."""

    before: int = 0
    amid: int = 0
    after: int = 0

    @property
    def number(self) -> int:
        """All of them."""
        return self.before + self.amid + self.after


def killed(run: Run, seconds: float, kills: int, dice: random.Random, moments: Moments) -> list[tuple[int, int]]:
    """Kill an evaluation some times, and let it end; return the batches begun and written before each of its starts."""
    starts = [(0, 0)]
    for _ in range(kills):
        process = run.start()
        process.join(dice.uniform(0.05, 0.95) * seconds)
        if process.exitcode is not None:
            return starts
        os.killpg(process.pid or 0, signal.SIGKILL)
        process.join()
        if (run.folder / "summary.json").exists():
            moments.after += 1
        elif len(run.begun()) > starts[-1][0]:
            moments.amid += 1
        else:
            moments.before += 1
        starts.append((len(run.begun()), run.num_whole() // BATCH))
    run.finish()
    return starts


def check(run: Run, whole: Run, starts: Sequence[tuple[int, int]]) -> list[str]:
    """Say what is not as in the evaluation that was left alone."""
    wrong = [
        f"{name} differs"
        for name in ("summary.json", "scores.jsonl")
        if (run.folder / name).read_bytes() != (whole.folder / name).read_bytes()
    ]
    planned, begun = whole.begun(), run.begun()
    ends = [first for first, _ in starts[1:]] + [len(begun)]
    for (first, written), end in zip(starts, ends, strict=True):
        if begun[first:end] != planned[written : written + end - first]:
            wrong.append(f"with {written} batches written, it went on with {begun[first:end]}")
    return wrong


def write_model(folder: Path, max_thought_tokens: int) -> None:
    settings = VideoSettings(fps=4, min_frames=8, max_frames=8, min_pixels=2304, max_pixels=2304)
    template = PromptTemplate.read("conf/prompts/rendered.txt").text
    model = RewardModel.create(ModelSettings("tiny", template, settings, max_thought_tokens=max_thought_tokens))
    model.save_pretrained(str(folder))


def in_a_fork(function: Any, *args: Any) -> None:
    """Run a function in a process of its own: what has run a model cannot fork another that does."""
    process = get_context("fork").Process(target=function, args=args)
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"{function.__name__} failed: see above")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="kills in all (default 20)")
    parser.add_argument("--pairs", type=int, default=12, help="rendered pairs (default 12)")
    parser.add_argument("--tokens", type=int, default=40, help="length limit of a thought (default 40)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    torch.set_num_threads(1)
    disable_progress_bar()
    dice, moments, failed, again = random.Random(options.seed), Moments(), 0, 0
    with tempfile.TemporaryDirectory() as work:
        root = Path(work)
        in_a_fork(render_split, root, "val", options.pairs)
        in_a_fork(write_model, root / "model", options.tokens)
        benchmark = table_benchmark(root / "val/pairs.jsonl", root=root)
        whole = Run(benchmark, root / "model", root / "whole", ("--batch-size", f"{BATCH}", "--num-thoughts", "2"))
        seconds = whole.finish()
        print(
            f"{whole.num_whole()} videos in {len(whole.begun())} batches, {seconds:.1f} s when left alone", flush=True
        )
        for number in itertools.count():
            if (left := options.kills - moments.number) <= 0:
                break
            run, before = replace(whole, folder=root / f"killed-{number}"), moments.number
            wrong = check(run, whole, killed(run, seconds, min(left, KILLS_OF_A_RUN), dice, moments))
            seconds *= 1.0 if moments.number > before else 0.7  # it ended before its kill: the machine is faster now
            failed += bool(wrong)
            again += len(run.begun()) - len(whole.begun())
            told = "; ".join(wrong) or "the same to the byte"
            print(f"evaluation {number}: {moments.number - before} kills, {told}", flush=True)
    print(
        f"{moments.number} kills: {moments.before} before a batch began, {moments.amid} amid batches, "
        f"{moments.after} after the summary; {again} batches were scored again; {failed} evaluations differ"
    )
    raise SystemExit(failed or moments.number < options.kills)


if __name__ == "__main__":
    main()
