"""OpenRLHF: `POST /get_reward`, whose queries name the videos."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from descore.serving.adapters.shape import TrainerBody, check_same_number, video_of
from descore.serving.schemas import body_of
from descore.serving.service import Asked, Service, read_body


class RewardRequest(TrainerBody):
    """Videos, each as a path, a URL or data in base64, and their prompts."""

    query: list[str]
    prompts: list[str]


def add(app: FastAPI, service: Service) -> None:
    """Add the route."""

    @app.post("/get_reward", openapi_extra=body_of(RewardRequest))
    async def get_reward(request: Request) -> Response:
        """Score the videos of OpenRLHF: a reward each, null for one that failed, with the reasons in `errors`."""
        body = await read_body(request, RewardRequest)
        check_same_number(query=body.query, prompts=body.prompts)
        asked = [Asked(prompt, video_of(video)) for video, prompt in zip(body.query, body.prompts, strict=True)]
        records = await service.score(request, asked)
        rewards = [record["reward"] for record in records]
        extra = {"num_thought_tokens": [record["num_thought_tokens"] for record in records]}
        errors = [record["error"] for record in records]
        return JSONResponse({"rewards": rewards, "scores": rewards, "extra_logs": extra, "errors": errors})
