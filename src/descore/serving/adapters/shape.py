"""What the shapes of several trainers have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from descore.serving.refusals import Refused
from descore.serving.schemas import VideoSource


class TrainerBody(BaseModel):
    """A body of a trainer, which may have further keys."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False, frozen=True)


def video_of(text: str) -> VideoSource:
    """Return the video that a text stands for: data in base64, a URL, or else a path.

    >>> video_of("data:video/mp4;base64,AAAA").base64, video_of("a.mp4").path, video_of("https://example.org/a.mp4").url
    ('AAAA', 'a.mp4', 'https://example.org/a.mp4')
    """
    if text.startswith("data:"):
        return VideoSource(base64=text.partition(",")[2])
    if text.startswith(("http://", "https://")):
        return VideoSource(url=text)
    return VideoSource(path=text)


def check_same_number(**lists: Sequence[Any]) -> None:
    """Check that lists are equally long.

    Raises:
        Refused: If they are not.
    """
    if len({len(values) for values in lists.values()}) > 1:
        found = ", ".join(f"{len(values)} of {name}" for name, values in lists.items())
        raise Refused(422, f"expected one prompt per video, got {found}")
