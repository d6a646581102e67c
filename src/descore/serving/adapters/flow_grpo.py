"""flow_grpo: `POST /flow_grpo` with a pickle of plain values, where the server was started for it.

Unpickling runs code that the sender chooses. So the opcodes of a pickle are read first, without running any, and it is
refused unless all of them make plain values: dicts, lists, tuples, text, bytes and numbers.
"""

from __future__ import annotations

import pickle
import pickletools
from base64 import b64encode
from typing import Any

from fastapi import FastAPI, Request, Response

from descore.serving.refusals import Refused
from descore.serving.schemas import VideoSource
from descore.serving.service import Asked, Service

_PLAIN = frozenset({
    "PROTO",
    "FRAME",
    "MARK",
    "STOP",
    "EMPTY_DICT",
    "EMPTY_LIST",
    "EMPTY_TUPLE",
    "DICT",
    "LIST",
    "TUPLE",
    "TUPLE1",
    "TUPLE2",
    "TUPLE3",
    "SETITEM",
    "SETITEMS",
    "APPEND",
    "APPENDS",
    "MEMOIZE",
    "BINPUT",
    "BINGET",
    "LONG_BINGET",
    "NONE",
    "NEWTRUE",
    "NEWFALSE",
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "BINFLOAT",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
    "BINBYTES",
    "SHORT_BINBYTES",
    "BINBYTES8",
})
_MANY = 10_000_000  # opcodes


def add(app: FastAPI, service: Service) -> None:
    """Add the route."""

    @app.post("/flow_grpo")
    async def flow_grpo(request: Request) -> Response:
        """Score the videos of flow_grpo: a pickle of `images`, each the bytes of a file or of frames, and `prompts`."""
        asked = _asked(plain_pickle(await request.body()), service.options.frames_fps)
        records = await service.score(request, asked)
        scores = [float("nan") if record["reward"] is None else record["reward"] for record in records]
        answer = {"scores": scores, "outputs": scores, "errors": [record["error"] for record in records]}
        return Response(pickle.dumps(answer), media_type="application/octet-stream")


def plain_pickle(content: bytes) -> Any:
    """Return the value of a pickle of plain values.

    Raises:
        Refused: If it is none, or would make anything else.

    >>> plain_pickle(pickle.dumps({"prompts": ["a cat"]}))
    {'prompts': ['a cat']}
    """
    try:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(content)):
            large = opcode.name == "LONG_BINPUT" and int(argument or 0) > number  # memory for as many entries
            if (opcode.name not in _PLAIN and opcode.name != "LONG_BINPUT") or large or number > _MANY:
                raise Refused(422, f"expected a pickle of plain values, got one with {opcode.name}")
        return pickle.loads(content)
    except Refused:
        raise
    except Exception as error:  # whatever a damaged pickle leads to
        raise Refused(422, f"expected a pickle, got {type(error).__name__}") from error


def _asked(value: Any, fps: float | None) -> list[Asked]:
    images, prompts = (value.get(name) for name in ("images", "prompts")) if isinstance(value, dict) else (None, None)
    if not isinstance(images, list) or not isinstance(prompts, list) or len(images) != len(prompts):
        raise Refused(422, "expected a dict with lists of as many images as prompts")
    if not all(isinstance(prompt, str) for prompt in prompts):
        raise Refused(422, "prompts: expected text")
    return [Asked(prompt, _video(image, fps)) for image, prompt in zip(images, prompts, strict=True)]


def _video(image: Any, fps: float | None) -> VideoSource:
    if isinstance(image, bytes):
        return VideoSource(base64=b64encode(image).decode())
    if isinstance(image, list | tuple) and all(isinstance(frame, bytes) for frame in image):
        return VideoSource(frames=[b64encode(frame).decode() for frame in image], fps=fps)
    raise Refused(422, f"images: expected the bytes of a video, or of its frames, got {type(image).__name__}")
