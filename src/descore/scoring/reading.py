"""Reads what is asked to be scored: videos of any kind and their prompts, each into the prefix that the model reads."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Lock

from descore.inputs.processor import Processor
from descore.inputs.prompts import PromptError, check_prompt
from descore.scoring.asked import Asked, Video
from descore.thinking.conversation import Conversation, begin, converse, said_before
from descore.types import Frames, Prefix, Thought
from descore.video.files import VideoError
from descore.video.memory import read_memory

Decode = Callable[[Video, float | None], Frames]
"""Returns the frames of a video of any kind, which if it is given as frames has a frame rate."""

READ_AHEAD, READERS = 8, 2
"""Videos that are read before they are scored, to bound memory; and how many are read at the same time."""


@dataclass(frozen=True, slots=True)
class Item:
    """A video to score, or two to compare.

    Attributes:
        key: Key of its sampled tokens: the frames that are shown, and the prompt.
        video: Key of the frames alone; of two videos, that of A.
        prefix: Its prefix, that of two videos with A first; None if it has none.
        thought: Thought to score it with; None if the model writes its own.
        text: Text of that thought.
        error: Reason why it has no prefix.
        num_source_frames: Number of frames of the source video.
        source_seconds: Length of the source video.
        swapped: Prefix of two videos with B first; None for a video to score.
        begun: Conversation in which a model with a tool writes its own thought; None for any other item.
    """

    key: str = ""
    video: str = ""
    prefix: Prefix | None = None
    thought: Thought | None = None
    text: str = ""
    error: str | None = None
    num_source_frames: int = 0
    source_seconds: float = 0.0
    swapped: Prefix | None = None
    begun: Conversation | None = None

    @property
    def given(self) -> Thought:
        """All that was said: the given thought, after the earlier turns of a conversation."""
        thought = self.thought or Thought()
        return replace(thought, token_ids=said_before(self.prefix) + thought.token_ids) if self.prefix else thought


class ItemReader:
    """Reads items; one that cannot be read has its reason.

    Args:
        processor: Processor of the model.
        thoughts: Whether the model writes a thought where none is given.
    """

    def __init__(self, processor: Processor, *, thoughts: bool) -> None:
        self.processor, self.thoughts = processor, thoughts

    def read_ahead(self, asked: Iterable[Asked], fps: float | None) -> Iterator[Item]:
        """Read items in threads, a few ahead of those that are taken; the arguments are those of `read`.

        A video that occurs again among the next few is decoded once.
        """
        frames = _Recent(self._frames, READ_AHEAD)
        with ThreadPoolExecutor(READERS) as pool:
            waiting = deque[Future[Item]]()
            for one in asked:
                waiting.append(pool.submit(self.read, one, fps, frames))
                if len(waiting) > READ_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def read(self, asked: Asked, fps: float | None, decode: Decode | None = None) -> Item:
        """Read one item.

        Args:
            asked: What is asked.
            fps: Frame rate of videos that are given as frames.
            decode: Function of a video and fps that returns its frames, if they may be known already.
        """
        decode = decode or self._frames
        processor, own = self.processor, None if self.thoughts else ""
        try:
            check_prompt(asked.prompt)
            videos = [decode(video, fps) for video in asked.videos]
            text = own if asked.thought is None else asked.thought
            count = sum(frames.num_source_frames for frames in videos)
            seconds = sum(frames.num_source_frames / frames.source_fps for frames in videos)
            if processor.settings.tool is not None:
                item = self._converse(asked.prompt, videos[0], text)
                return replace(item, num_source_frames=count, source_seconds=seconds)
            thought = None if text is None else processor.thought(text)
            prefix = processor.prefix(asked.prompt, *videos)
            swapped = processor.prefix(asked.prompt, *reversed(videos)) if len(videos) > 1 else None
            return Item(*_keys(videos, asked.prompt), prefix, thought, text or "", None, count, seconds, swapped)
        except PromptError as error:
            name = f"{asked.video}: " if isinstance(asked.video, str) else ""
            return Item(error=f"{name}{error}")
        except VideoError as error:
            return Item(error=str(error))

    def _converse(self, prompt: str, pool: Frames, text: str | None) -> Item:
        """Return the item of a model with a tool: a conversation that begins, or one in which all is said."""
        if text is None:
            key, begun = _keys([pool], prompt)[0], begin(self.processor, prompt, pool)
            return Item(key, key, begun.prefix, begun=begun)
        key = _keys([pool], repr((prompt, text)))[0]
        return Item(key, key, *converse(self.processor, prompt, pool, text), text)

    def _frames(self, video: Video, fps: float | None) -> Frames:
        processor = self.processor
        if isinstance(video, str) and not (fps is not None and os.path.isdir(video)):
            return processor.read(video)
        return read_memory(video, fps, processor.video_reader, processor.read)


class _Recent:
    """The frames of the last few videos, each decoded once, by the thread that asks first."""

    def __init__(self, decode: Decode, size: int) -> None:
        self._decode, self._size = decode, size
        self._known: dict[str | bytes | int, Future[Frames]] = {}
        self._lock = Lock()

    def __call__(self, video: Video, fps: float | None) -> Frames:
        key = video if isinstance(video, str | bytes) else id(video)  # the caller keeps the video
        with self._lock:
            known = self._known.get(key)
            frames = self._known[key] = known or Future()
            if len(self._known) > self._size:
                del self._known[next(iter(self._known))]
        if known is None:
            try:
                frames.set_result(self._decode(video, fps))
            except Exception as error:  # for every thread that waits for the video
                frames.set_exception(error)
        return frames.result()


def _keys(videos: Sequence[Frames], prompt: str) -> tuple[str, str]:
    """Return a key of what is scored, the frames that are shown and the prompt, and a key of the first frames alone."""
    content = hashlib.blake2b(digest_size=16)
    for number, frames in enumerate(videos, start=1):
        content.update(frames.pixels.contiguous().numpy().data)
        if number == 1:
            alone = content.copy()
            alone.update(repr(frames.seconds).encode())
        content.update(repr((frames.seconds, prompt) if number == len(videos) else frames.seconds).encode())
    return content.hexdigest(), alone.hexdigest()
