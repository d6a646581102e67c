"""Flow-Factory: `POST /compute` with a prompt and the frames of each video."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from descore.serving.adapters.shape import TrainerBody, check_same_number
from descore.serving.refusals import Refused
from descore.serving.schemas import Fps, VideoSource, body_of
from descore.serving.service import Asked, Service, read_body


class ComputeRequest(TrainerBody):
    """Prompts, and the frames of each video as PNG in base64; `fps` is their rate, or else that of the server."""

    prompt: list[str]
    video: list[list[str]] | None = None
    fps: Fps | None = None


def add(app: FastAPI, service: Service) -> None:
    """Add the route."""

    @app.post("/compute", openapi_extra=body_of(ComputeRequest))
    async def compute(request: Request) -> Response:
        """Score the videos of Flow-Factory: a reward each, null for one that failed, with the reasons in `errors`."""
        body = await read_body(request, ComputeRequest)
        if body.video is None:
            raise Refused(422, "video: expected the frames of each video; images are not scored")
        check_same_number(prompt=body.prompt, video=body.video)
        asked = [
            Asked(prompt, VideoSource(frames=frames, fps=body.fps or service.options.frames_fps))
            for prompt, frames in zip(body.prompt, body.video, strict=True)
        ]
        records = await service.score(request, asked)
        return JSONResponse({
            "rewards": [record["reward"] for record in records],
            "errors": [record["error"] for record in records],
        })
