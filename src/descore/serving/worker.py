"""The process that holds the models on one device, run by the server: reads videos, and scores those that are ready.

It speaks lines of JSON over a socket. A batch is formed when the device is free, from the videos that are ready then,
of any requests, up to the scorer's number of tokens.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import traceback
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Condition, Lock, Thread
from typing import Any, NamedTuple

from PIL import Image

from descore.model.sampling import Sampling
from descore.pairwise.comparison import Comparison
from descore.scoring.asked import Asked
from descore.scoring.folder import ScoringError, plain
from descore.scoring.protocol import check_judgement, sampling_of
from descore.scoring.reading import READERS, Item
from descore.scoring.score import Score
from descore.scoring.scorer import Scorer
from descore.serving.schemas import failed
from descore.types import ModelError
from descore.video.checks import MAX_SOURCE_PIXELS, VideoError

Message = dict[str, Any]


class Ready(NamedTuple):
    """A video that was read.

    Attributes:
        job: The message that asked for it.
        item: The video and its prompt, as the scorer reads them.
        sampling: How its thoughts are sampled.
        num_tokens: Number of tokens that it takes in a batch.
    """

    job: Message
    item: Item
    sampling: Sampling
    num_tokens: int

    @property
    def group(self) -> tuple[Any, ...]:
        """What must be equal for two videos to be scored together."""
        return self.job["model"], self.sampling, self.job["thought"] is None


class Worker:
    """Scores what it is asked for.

    Args:
        connection: Socket to the server.
        config: Models by name, device, options of the scorers and limits.

    Raises:
        ModelError: If a model cannot be loaded.
    """

    def __init__(self, connection: socket.socket, config: Message) -> None:
        self._connection, self._sending = connection, Lock()
        self._limits = config["limits"]
        options = config["scorer"] | {"device": config["device"]}
        self.scorers = {name: Scorer(folder, **options) for name, folder in config["models"].items()}
        self._changed = Condition()
        self._waiting: deque[Ready] = deque()
        self._dropped: set[int] = set()

    def run(self, lines: Any) -> None:
        """Score until the server closes the connection."""
        self.send({"ready": {name: self._describe(scorer) for name, scorer in self.scorers.items()}})
        Thread(target=self._listen, args=(lines,), daemon=True).start()
        while True:
            self._score(self._take())

    def send(self, message: Message) -> None:
        """Send one message to the server."""
        with self._sending:
            self._connection.sendall(json.dumps(message, allow_nan=False).encode() + b"\n")

    @staticmethod
    def _describe(scorer: Scorer) -> Message:
        return {"device": str(scorer.device), "dtype": scorer.dtype, "thoughts": scorer.thoughts}

    def _listen(self, lines: Any) -> None:
        with ThreadPoolExecutor(READERS) as pool:
            for line in lines:
                message = json.loads(line)
                if "drop" in message:
                    self._dropped.add(message["drop"])
                else:
                    pool.submit(self._read_or_end, message)
            os._exit(0)  # the server has ended, or wants this process to

    def _read_or_end(self, job: Message) -> None:
        try:
            self._read(job)
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    def _read(self, job: Message) -> None:
        scorer = self.scorers[job["model"]]
        with self._changed:  # what was read and waits is bounded, since it is large
            self._changed.wait_for(lambda: self._num_waiting() < 2 * scorer.max_batch_tokens)
        if self._is_dropped(job):
            return
        self.send({"begin": job["id"]})
        thinks = scorer.thoughts and job["thought"] is None
        videos = [job["video"]] if job["other"] is None else [job["video"], job["other"]]
        try:
            check_judgement(scorer.model.settings, pairwise=len(videos) > 1)
            sampling = sampling_of(job["num_thoughts"], job["temperature"], thoughts=thinks)
            for video in videos:
                if os.path.isdir(video):
                    check_pictures(Path(video))
        except (ScoringError, VideoError) as error:
            self._answer(job, failed(str(error)))
            return
        asked = Asked(job["video"], job["prompt"], job["thought"], job["other"])
        item = scorer.reader.read(asked, job["fps"])
        if complaint := self._complaint(item):
            self._answer(job, failed(complaint))
            return
        with self._changed:
            self._waiting.append(Ready(job, item, sampling, scorer.num_tokens(item, sampling)))
            self._changed.notify_all()

    def _num_waiting(self) -> int:
        return sum(one.num_tokens for one in self._waiting)

    def _is_dropped(self, job: Message) -> bool:
        if job["id"] not in self._dropped:
            return False
        self._dropped.discard(job["id"])
        self._answer(job, failed("dropped"))
        return True

    def _complaint(self, item: Item) -> str | None:
        """Return why an item is not scored: it could not be read, or it is longer than the server takes."""
        videos = 1 if item.swapped is None else 2
        frames, seconds = videos * self._limits["frames"], videos * self._limits["seconds"]
        if item.num_source_frames > frames:
            return f"video: expected at most {frames} frames, got {item.num_source_frames}: shorten it"
        if item.source_seconds > seconds:
            return f"video: expected at most {seconds:g} s, got {item.source_seconds:.1f}: shorten it"
        return item.error

    def _take(self) -> list[Ready]:
        """Wait for a video, and take all that can be scored with the first one, up to the number of tokens."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting)
            first, batch = self._waiting[0], list[Ready]()
            left = self.scorers[first.job["model"]].max_batch_tokens
            for one in self._waiting:
                if one.group == first.group and (not batch or one.num_tokens <= left):
                    batch.append(one)
                    left -= one.num_tokens
            taken = {id(one) for one in batch}
            self._waiting = deque(one for one in self._waiting if id(one) not in taken)
            self._changed.notify_all()
        return [one for one in batch if not self._is_dropped(one.job)]

    def _score(self, batch: list[Ready]) -> None:
        if not batch:
            return
        scorer = self.scorers[batch[0].job["model"]]
        judge = scorer.compare_batch if scorer.model.settings.is_pairwise else scorer.score_batch
        records: Iterable[Score | Comparison] = judge([one.item for one in batch], batch[0].sampling)
        for one, score in zip(batch, records, strict=True):
            self._answer(one.job, _finite(score), len(batch))

    def _answer(self, job: Message, record: Message, batch: int = 0) -> None:
        if record["error"]:
            error = record["error"].replace(job["video"], job["name"])
            record |= {"error": error.replace(job["other"], job["other_name"]) if job["other"] else error}
        self.send({"id": job["id"], "score": record, "batch": batch})


def check_pictures(folder: Path) -> None:
    """Check the headers of a folder's pictures.

    Raises:
        VideoError: If a picture is too large, or is none, or there are no two of one size.
    """
    files, sizes = sorted(folder.iterdir()), set[tuple[int, int]]()
    for file in files:
        try:
            with Image.open(file, formats=("PNG", "JPEG", "WEBP")) as picture:
                width, height = picture.size
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise VideoError(folder, f"frame {file.stem} cannot be read: {error}".replace(str(file), "it")) from error
        if width * height > MAX_SOURCE_PIXELS:
            raise VideoError(folder, f"expected at most {MAX_SOURCE_PIXELS} pixels a frame, got {width}x{height}")
        sizes.add((width, height))
    if len(files) < 2 or len(sizes) > 1:
        raise VideoError(folder, f"expected at least 2 frames of one size, got {len(files)} of {len(sizes)} sizes")


def _finite(score: Score | Comparison) -> Message:
    record: Message = plain(score.to_json())
    return record


def main(number: int) -> None:
    """Serve the socket that the server left open as a file descriptor."""
    for stop in (signal.SIGINT, signal.SIGTERM):  # only the server decides when to stop
        signal.signal(stop, signal.SIG_IGN)
    connection = socket.socket(fileno=number)
    lines = connection.makefile("rb")
    config = json.loads(lines.readline())
    try:
        worker = Worker(connection, config)
    except (ModelError, OSError, ImportError) as error:
        connection.sendall(json.dumps({"failed": str(error)}).encode() + b"\n")
        return
    worker.run(lines)


if __name__ == "__main__":
    main(int(sys.argv[1]))
