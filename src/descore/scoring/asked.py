"""What a caller asks to be scored: videos, prompts and thoughts in any number, each different item once."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar

from descore.scoring.folder import ScoringError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from torch import Tensor

Video: TypeAlias = "str | os.PathLike[str] | bytes | Tensor | np.ndarray[Any, Any] | Sequence[Image]"
"""A video: the path of its file, or of a folder of pictures; the bytes of its file; or its frames."""

Several: TypeAlias = "Video | Iterable[Video]"

Found = TypeVar("Found")


class Asked(NamedTuple):
    """One video to score, or two to compare.

    Attributes:
        video: The video, or video A.
        prompt: Its prompt.
        thought: Thought to score it with; None if the model writes its own.
        other: Video B; None for a video to score.
    """

    video: Video
    prompt: str
    thought: str | None = None
    other: Video | None = None

    @property
    def videos(self) -> tuple[Video, ...]:
        """The video, or both."""
        return (self.video,) if self.other is None else (self.video, self.other)


def list_asked(
    videos: Several, prompts: str | Iterable[str], thought: str | Iterable[str] | None = None
) -> tuple[list[Asked], list[int]]:
    """List what is asked, each different item once.

    Args:
        videos: Videos, or one video.
        prompts: Prompt of each video, or one for all.
        thought: Thought of each video, or one for all; None if the model writes its own.

    Returns:
        The items, and for each video the index of its item.

    Raises:
        ScoringError: If the numbers of videos, prompts and thoughts differ.
        TypeError: If one of them is neither a single value nor a list.

    >>> list_asked(["a.mp4", "b.mp4", "a.mp4"], "a cat")[1]
    [0, 1, 0]
    """
    several = [videos] if _is_one(videos) else _listed("videos", videos)
    texts = [prompts] * len(several) if isinstance(prompts, str) else _listed("prompts", prompts)
    given = [thought] * len(several) if thought is None or isinstance(thought, str) else _listed("thought", thought)
    for name, values in (("prompts", texts), ("thoughts", given)):
        if len(values) != len(several):
            single = name.removesuffix("s")
            raise ScoringError(f"expected one {single} per video, got {len(several)} videos and {len(values)} {name}")
    rows = zip(several, texts, given, strict=True)
    return _each_once(Asked(_plain(video), prompt, own) for video, prompt, own in rows)


def list_pairs(videos_a: Several, videos_b: Several, prompts: str | Iterable[str]) -> list[Asked]:
    """List the pairs of videos that are to be compared.

    Args:
        videos_a: Videos A, or one video.
        videos_b: Videos B, as many, or one video that all are compared with.
        prompts: Prompt of each pair, or one for all.

    Raises:
        ScoringError: If the numbers of videos and prompts differ.
        TypeError: If one of them is neither a single value nor a list.

    >>> [pair.videos for pair in list_pairs(["a.mp4", "b.mp4"], "reference.mp4", "a cat")]
    [('a.mp4', 'reference.mp4'), ('b.mp4', 'reference.mp4')]
    """
    first = [videos_a] if _is_one(videos_a) else _listed("videos_a", videos_a)
    second = [videos_b] * len(first) if _is_one(videos_b) else _listed("videos_b", videos_b)
    texts = [prompts] * len(first) if isinstance(prompts, str) else _listed("prompts", prompts)
    if not len(first) == len(second) == len(texts):
        raise ScoringError(
            f"expected a video A, a video B and a prompt for each pair, got {len(first)} videos A, {len(second)} "
            f"videos B and {len(texts)} prompts"
        )
    return [Asked(_plain(a), prompt, None, _plain(b)) for a, b, prompt in zip(first, second, texts, strict=True)]


def _plain(video: Any) -> Any:
    return os.fspath(video) if isinstance(video, str | os.PathLike) else video


def _each_once(asked: Iterable[Asked]) -> tuple[list[Asked], list[int]]:
    """Return each different item once, and for each item given its index; frames in memory always differ."""
    items: list[Asked] = []
    known: dict[Asked, int] = {}
    order = []
    for item in asked:
        usable = isinstance(item.video, str | bytes) and isinstance(item.prompt, str)
        order.append(known.setdefault(item, len(items)) if usable else len(items))
        if order[-1] == len(items):
            items.append(item)
    return items, order


def in_order(scores: Iterator[Found], order: Sequence[int]) -> Iterator[Found]:
    """Yield the record of each index; they come in the order of their first use, and are kept until their last."""
    left, kept = Counter(order), dict[int, Found]()
    for index in order:
        if index not in kept:
            kept[index] = next(scores)
        left[index] -= 1
        yield kept[index] if left[index] else kept.pop(index)


def _is_one(videos: Several) -> bool:
    """Return whether this is one video: a list of pictures is one, a list of paths or of arrays is several."""
    if isinstance(videos, str | os.PathLike | bytes | bytearray | memoryview):
        return True
    if hasattr(videos, "ndim"):  # an array or a tensor; neither package is imported for the question
        return bool(videos.ndim == 4)
    from PIL.Image import Image

    return isinstance(videos, list | tuple) and bool(videos) and all(isinstance(one, Image) for one in videos)


def _listed(name: str, values: Any) -> list[Any]:
    if isinstance(values, str | bytes | dict) or not isinstance(values, Iterable):
        raise TypeError(f"{name}: expected one or a list, got {type(values).__name__} {values!r:.100}")
    return list(values)
