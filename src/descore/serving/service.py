"""Scores what requests ask for: brings in their videos, and lets the workers score them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import IO, Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from descore.serving.metrics import Metrics
from descore.serving.options import MIB, ServerOptions
from descore.serving.pool import Pool
from descore.serving.refusals import Held, Refused
from descore.serving.schemas import CompareItem, ScoreOptions, VideoSource, explain, failed, failed_comparison
from descore.serving.sources import SourceError, Spool, Stored, spool

Record = dict[str, Any]
Schema = TypeVar("Schema", bound=BaseModel)
Answer = TypeVar("Answer")


class Asked(NamedTuple):
    """A video that a request asks to be scored.

    Attributes:
        prompt: Its prompt.
        video: Where it is, or the file that was uploaded, or why there is none.
        thought: Thought to score it with; None if the model writes its own.
    """

    prompt: str
    video: VideoSource | IO[bytes] | SourceError
    thought: str | None = None


class Service:
    """All that routes need.

    Args:
        options: Options of the server.
        on_broken: Called with the reason if the models cannot be loaded.

    Attributes:
        is_stopping: Whether the server only finishes what it accepted.
    """

    def __init__(self, options: ServerOptions, on_broken: Callable[[str], None]) -> None:
        self.options, self.metrics = options, Metrics()
        self.held = Held(int(options.limits.held_mb * MIB), self.metrics)
        self.pool = Pool(options, self.metrics, on_broken)
        self.is_stopping = False

    def why_closed(self) -> str | None:
        """Return why no video is taken now; None if they are."""
        if self.is_stopping:
            return "the server is stopping"
        if not self.pool.models:
            return "the models are being loaded: try again later"
        return None if self.pool.is_ready else "no worker is ready: try again later"

    async def score(self, request: Request, asked: Sequence[Asked], how: ScoreOptions | None = None) -> list[Record]:
        """Score videos, and return a record for each in order; stop if the client has gone.

        Raises:
            Refused: If the request exceeds a limit, or there is no room for it.
        """
        how = how or ScoreOptions()
        self._check(asked, how)
        async with spool(self.options, self.held) as files:
            stored = [await self._store(one, files) for one in asked]
            usable = [(one, video) for one, video in zip(asked, stored, strict=True) if isinstance(video, Stored)]
            messages = [self._message(one, video, how) for one, video in usable]
            records = iter(await _unless_gone(request, self.pool.score(messages)))
        return [next(records) if isinstance(video, Stored) else failed(str(video)) for video in stored]

    async def compare(self, request: Request, pairs: Sequence[CompareItem], how: ScoreOptions) -> list[Record]:
        """Compare the videos of pairs, and return a record for each in order; stop if the client has gone.

        Raises:
            Refused: If the request exceeds a limit, or there is no room for it.
        """
        asked = [Asked(pair.prompt, video) for pair in pairs for video in (pair.video_a, pair.video_b)]
        self._check(asked, how)
        async with spool(self.options, self.held) as files:
            stored = [await self._store(one, files) for one in asked]
            jobs = [self._job(*pair, how) for pair in zip(asked[::2], stored[::2], stored[1::2], strict=True)]
            messages = [job for job in jobs if not isinstance(job, str)]
            records = iter(await _unless_gone(request, self.pool.score(messages)))
        found = [{"error": job} if isinstance(job, str) else next(records) for job in jobs]
        return [record if "verdict" in record else failed_comparison(record["error"]) for record in found]

    def _job(self, one: Asked, a: Stored | SourceError, b: Stored | SourceError, how: ScoreOptions) -> Record | str:
        """Return what a worker is asked about two videos, or why it cannot be asked."""
        if isinstance(a, SourceError) or isinstance(b, SourceError):
            return str(a if isinstance(a, SourceError) else b)
        if a.fps and b.fps and a.fps != b.fps:
            return f"expected one fps for both videos, got {a.fps:g} and {b.fps:g}"
        message = self._message(one, a, how)
        return message | {"fps": a.fps or b.fps, "other": b.path, "other_name": b.name}

    def _check(self, asked: Sequence[Asked], how: ScoreOptions) -> None:
        limits = self.options.limits
        if len(asked) > limits.items:
            raise Refused(422, f"expected at most {limits.items} videos in a request, got {len(asked)}")
        if how.num_thoughts > limits.thoughts:
            raise Refused(422, f"expected num_thoughts of at most {limits.thoughts}, got {how.num_thoughts}")
        if how.model is not None and how.model not in self.options.models:
            raise Refused(422, f"expected a model of {', '.join(self.options.models)}, got {how.model!r:.100}")
        for index, one in enumerate(asked):
            if max(len(one.prompt), len(one.thought or "")) > limits.prompt:
                raise Refused(422, f"video {index}: expected a prompt of at most {limits.prompt} characters")
            if isinstance(one.video, VideoSource) and len(one.video.frames or ()) > limits.frames:
                raise Refused(422, f"video {index}: expected at most {limits.frames} frames")

    @staticmethod
    async def _store(one: Asked, files: Spool) -> Stored | SourceError:
        try:
            if isinstance(one.video, SourceError):
                return one.video
            if isinstance(one.video, VideoSource):
                return await files.store(one.video)
            return await files.store_upload(one.video)
        except SourceError as error:
            return error

    def _message(self, one: Asked, video: Stored, how: ScoreOptions) -> Record:
        return {
            "model": how.model or self.options.default_model,
            "video": video.path,
            "name": video.name,
            "other": None,
            "fps": video.fps,
            "prompt": one.prompt,
            "thought": one.thought,
            "num_thoughts": how.num_thoughts,
            "temperature": how.temperature,
        }


async def read_body(request: Request, schema: type[Schema]) -> Schema:
    """Read a body of JSON.

    Raises:
        Refused: If it is not as the schema says.
    """
    body = await request.body()
    try:
        return await asyncio.to_thread(schema.model_validate_json, body)
    except ValidationError as error:
        raise Refused(422, explain(error)) from error


async def read_upload(request: Request) -> tuple[Asked, ScoreOptions]:
    """Read a multipart form: prompt, video, and the options of a score request.

    Raises:
        Refused: If it is none, or a field is missing or wrong.
    """
    try:
        form = await request.form(max_files=1, max_fields=8, max_part_size=MIB)
    except HTTPException as error:
        raise Refused(422, f"multipart: {error.detail}") from error
    fields = dict(form.multi_items())
    prompt, video, thought = (fields.pop(name, None) for name in ("prompt", "video", "thought"))
    if not isinstance(prompt, str):
        raise Refused(422, "prompt: expected a field of text")
    if not isinstance(video, UploadFile):
        raise Refused(422, "video: expected a file")
    try:
        how = ScoreOptions.model_validate(fields, strict=False)
    except ValidationError as error:
        raise Refused(422, explain(error)) from error
    return Asked(prompt, video.file, thought if isinstance(thought, str) else None), how


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Answer]) -> Answer:
    """Do work for a request, but stop if the client has gone."""
    task, gone = asyncio.create_task(work), asyncio.create_task(_until_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
