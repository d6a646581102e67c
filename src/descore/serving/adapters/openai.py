"""OpenAI's chat completions: a message with a prompt and a video is answered by the thought and the reward."""

from __future__ import annotations

import time
import uuid
from typing import Any, Literal

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from descore.serving.adapters.shape import TrainerBody, video_of
from descore.serving.refusals import Refused
from descore.serving.schemas import ScoreOptions, Temperature, VideoSource, body_of
from descore.serving.service import Asked, Record, Service, read_body


class Url(TrainerBody):
    """Data in base64, a URL or a path."""

    url: str


class Part(TrainerBody):
    """A part of a message."""

    type: Literal["text", "video_url", "image_url"]
    text: str | None = None
    video_url: Url | None = None
    image_url: Url | None = None


class ChatMessage(TrainerBody):
    """A message."""

    role: str
    content: str | list[Part] | None = None

    @property
    def parts(self) -> list[Part]:
        """Its parts; a text is one."""
        return [Part(type="text", text=self.content)] if isinstance(self.content, str) else list(self.content or ())


class ChatRequest(TrainerBody):
    """Messages; the texts of the user are the prompt, and their video, or their images as its frames, is scored."""

    model: str | None = None
    messages: list[ChatMessage]
    temperature: Temperature = None
    stream: bool = False


def add(app: FastAPI, service: Service) -> None:
    """Add the routes."""

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """List the models."""
        listed = [{"id": name, "object": "model", "owned_by": "descore"} for name in service.options.models]
        return {"object": "list", "data": listed}

    @app.post("/v1/chat/completions", openapi_extra=body_of(ChatRequest))
    async def chat(request: Request) -> Response:
        """Score the video of a chat. One that fails is refused with 422: an answer in text would be read as one."""
        body = await read_body(request, ChatRequest)
        if body.stream:
            raise Refused(422, "stream: expected false: the reward comes after the thought")
        asked = Asked(_prompt(body), _video(body))
        how = ScoreOptions(model=body.model, temperature=body.temperature)
        (record,) = await service.score(request, [asked], how)
        if record["error"] is not None:
            raise Refused(422, record["error"])
        return JSONResponse(_completion(body.model or service.options.default_model, record))


def _of_user(body: ChatRequest) -> list[Part]:
    return [part for message in body.messages if message.role == "user" for part in message.parts]


def _prompt(body: ChatRequest) -> str:
    return "\n".join(part.text for part in _of_user(body) if part.text)


def _video(body: ChatRequest) -> VideoSource:
    videos = [part.video_url.url for part in _of_user(body) if part.video_url]
    images = [part.image_url.url for part in _of_user(body) if part.image_url]
    if len(videos) == 1 and not images:
        return video_of(videos[0])
    if images and not videos:
        return VideoSource(frames=[url.partition(",")[2] for url in images])
    raise Refused(422, f"messages: expected one video_url, or the image_url of each frame, got {len(videos)} videos")


def _completion(model: str, record: Record) -> dict[str, Any]:
    content = f"{record['thought']}\nFinal Score: {record['reward']!r}"
    tokens = record["num_thought_tokens"]
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content},
                "finish_reason": "length" if record["truncated"] else "stop",
            }
        ],
        "usage": {"prompt_tokens": 0, "completion_tokens": tokens, "total_tokens": tokens},
        "descore": record,
    }
