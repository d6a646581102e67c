"""What a caller asks to be scored: videos, prompts and thoughts in any number, each different item once."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from descore.scoring.folder import ScoringError
from descore.scoring.score import Score

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from torch import Tensor

Video: TypeAlias = "str | os.PathLike[str] | bytes | Tensor | np.ndarray[Any, Any] | Sequence[Image]"
"""A video: the path of its file, or of a folder of pictures; the bytes of its file; or its frames."""

Several: TypeAlias = "Video | Iterable[Video]"


class Asked(NamedTuple):
    """One video to score.

    Attributes:
        video: The video.
        prompt: Its prompt.
        thought: Thought to score it with; None if the model writes its own.
    """

    video: Video
    prompt: str
    thought: str | None = None


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
    items: list[Asked] = []
    known: dict[Asked, int] = {}
    order = []
    for video, prompt, own in zip(several, texts, given, strict=True):
        item = Asked(os.fspath(video) if isinstance(video, str | os.PathLike) else video, prompt, own)
        usable = isinstance(item.video, str | bytes) and isinstance(prompt, str)
        order.append(known.setdefault(item, len(items)) if usable else len(items))
        if order[-1] == len(items):
            items.append(item)
    return items, order


def in_order(scores: Iterator[Score], order: Sequence[int]) -> Iterator[Score]:
    """Yield the score of each index; scores come in the order of their first use, and are kept until their last."""
    left, kept = Counter(order), dict[int, Score]()
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
