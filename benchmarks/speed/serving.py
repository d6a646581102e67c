"""Videos per second of the server under many clients, against direct calls and against LitServe.

    python -m benchmarks.speed.serving --model runs/stage1
    python -m benchmarks.speed.serving --model runs/stage1 --requests 200 --clients 8

    direct    all videos in one call of `Scorer.score`, in this process
    server    `descore serve` in processes of its own; each client sends one video at a time, and waits for its record
    litserve  the same requests to LitServe 0.2 with batches of 8, where it is installed: pip install litserve

Each request is a video of its own: a rendered clip of 1 to 4 seconds with a prompt of its own. A request that is not
answered counts as lost, and no reward may differ from that of the direct call by more than 1e-4.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import httpx2
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.speed.harness import HelpFormatter
from descore.scoring.scorer import Scorer
from descore.video.writer import write_video

TOLERANCE = 1e-4
SECONDS_TO_START = 300.0
Rewards = list[float | None]


class Measured(NamedTuple):
    """What a way took: seconds in all, seconds of each request, and its rewards."""

    seconds: float
    each: Sequence[float]
    rewards: Rewards


def write_clips(folder: Path, seconds: Sequence[int]) -> list[str]:
    """Write a clip of each length in which a bar moves."""
    paths = []
    for index, length in enumerate(seconds):
        num_frames, side = 8 * length, 64
        frames = np.zeros((num_frames, side, side, 3), np.uint8)
        for frame in range(num_frames):
            frames[frame, :, (frame + index) % side, index % 3] = 255
        paths.append(str(folder / f"{index}.mp4"))
        write_video(paths[-1], frames, fps=8)
    return paths


def direct(options: argparse.Namespace, videos: Sequence[str], prompts: Sequence[str]) -> Measured:
    """Score all videos in one call."""
    scorer = Scorer(options.model, device=options.device)
    scorer.score(videos[:8], prompts[:8])
    start = time.perf_counter()
    scores = scorer.score(videos, prompts)
    seconds = time.perf_counter() - start
    return Measured(seconds, [], [score.reward for score in scores])


@contextmanager
def started(*arguments: str) -> Iterator[None]:
    """Run a server in a process, and end it with its children: those of LitServe outlive their parent."""
    process = subprocess.Popen([sys.executable, "-m", *arguments], start_new_session=True)
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def wait_until_ready(url: str) -> None:
    """Wait until a server answers with 200."""
    end = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < end:
        try:
            if httpx2.get(url, trust_env=False).status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.2)
    raise SystemExit(f"{url} did not answer within {SECONDS_TO_START:g} s")


def load(url: str, options: argparse.Namespace, videos: Sequence[str], prompts: Sequence[str]) -> Measured:
    """Send every video in a request of its own, from many clients at once."""
    with httpx2.Client(timeout=600, trust_env=False, limits=httpx2.Limits(max_connections=options.clients)) as http:

        def ask(video: str, prompt: str) -> tuple[float, float | None]:
            start = time.perf_counter()
            try:
                answer = http.post(url, json={"prompt": prompt, "video": {"path": video}})
                reward = answer.json()["reward"] if answer.status_code == 200 else None
            except (httpx2.TransportError, ValueError):
                reward = None
            return time.perf_counter() - start, reward

        list(map(ask, videos[:8], prompts[:8]))
        start = time.perf_counter()
        with ThreadPoolExecutor(options.clients) as pool:
            answers = list(pool.map(ask, videos, prompts))
        seconds = time.perf_counter() - start
    return Measured(seconds, [one for one, _ in answers], [reward for _, reward in answers])


def server(options: argparse.Namespace, videos: Sequence[str], prompts: Sequence[str]) -> Measured:
    """Load `descore serve`."""
    port, root = str(options.port), str(Path(videos[0]).parent)
    device = ["--device", options.device] if options.device else []
    serve = ["--model", options.model, "--port", port, "--allow-root", root, "--max-queue", "4096", *device]
    with started("descore.cli", "serve", *serve):
        wait_until_ready(f"http://127.0.0.1:{port}/ready")
        return load(f"http://127.0.0.1:{port}/score", options, videos, prompts)


def litserve(options: argparse.Namespace, videos: Sequence[str], prompts: Sequence[str]) -> Measured:
    """Load LitServe."""
    port = str(options.port + 1)
    with started("benchmarks.speed.serving_by_litserve", options.model, port):
        wait_until_ready(f"http://127.0.0.1:{port}/health")
        return load(f"http://127.0.0.1:{port}/predict", options, videos, prompts)


def report(found: dict[str, Measured], number: int) -> int:
    """Print what was measured; return 1 if a request was lost or a reward differs."""
    table = Table("way", "videos/s", "of direct", "lost", "largest difference", "median s", "95 % s")
    plain = found["direct"]
    failed = False
    for name, one in found.items():
        pairs = [(a, b) for a, b in zip(one.rewards, plain.rewards, strict=True) if a is not None and b is not None]
        lost, apart = number - len(pairs), max((abs(a - b) for a, b in pairs), default=0.0)
        times = [f"{np.quantile(one.each, share):.3f}" if one.each else "" for share in (0.5, 0.95)]
        share = f"{plain.seconds / one.seconds:.0%}"
        table.add_row(name, f"{number / one.seconds:.1f}", share, str(lost), f"{apart:.1e}", *times)
        failed = failed or (name == "server" and (lost > 0 or apart > TOLERANCE))
    Console().print(table)
    return int(failed)


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--model", required=True, help="exported folder")
    parser.add_argument("--device", help="device to score on")
    parser.add_argument("--requests", type=int, default=2000, help="number of videos")
    parser.add_argument("--clients", type=int, default=64, help="number of clients")
    parser.add_argument("--port", type=int, default=18_700, help="port of the server; LitServe has the next one")
    options = parser.parse_args()
    ways: dict[str, Callable[..., Measured]] = {"direct": direct, "server": server}
    if find_spec("litserve"):
        ways["litserve"] = litserve
    with tempfile.TemporaryDirectory() as folder:
        clips = write_clips(Path(folder), [1 + index % 4 for index in range(min(options.requests, 64))])
        videos = [clips[index % len(clips)] for index in range(options.requests)]
        prompts = [f"a bar moves, number {index}" for index in range(options.requests)]
        return report({name: way(options, videos, prompts) for name, way in ways.items()}, options.requests)


if __name__ == "__main__":
    sys.exit(main())
