"""Turns a video of any kind into what the server reads, without loss."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import Any


def to_source(video: Any, fps: float | None, *, send_paths: bool) -> dict[str, Any]:
    """Return a video as the value of `video` in a request.

    Args:
        video: Any kind of video that `Scorer.score` takes.
        fps: Frame rate of a video that is given as frames.
        send_paths: Whether the server reads paths itself; otherwise the files are sent.

    Raises:
        ValueError, TypeError, OSError: If it cannot be read.

    >>> to_source(b"...", None, send_paths=False)
    {'base64': 'Li4u'}
    """
    if isinstance(video, str | os.PathLike):
        path = os.fspath(video)
        if send_paths:
            return {"path": path}
        return _pictures(path, fps) if os.path.isdir(path) else {"base64": _text(Path(path).read_bytes())}
    if isinstance(video, bytes | bytearray | memoryview):
        return {"base64": _text(bytes(video))}
    return _pictures(video, fps)


def _pictures(video: Any, fps: float | None) -> dict[str, Any]:
    from descore.video.memory import as_pictures, pictures_of

    if fps is None:
        raise ValueError("expected the frame rate of a video that is given as frames, such as fps=8")
    frames = pictures_of(Path(video)) if isinstance(video, str) else as_pictures(video)
    return {"frames": [_png(frames[index]) for index in range(len(frames))], "fps": float(fps)}


def _png(frame: Any) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(frame).save(file, "PNG", compress_level=1)
    return _text(file.getvalue())


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()
