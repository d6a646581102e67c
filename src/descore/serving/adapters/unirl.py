"""UniRL's reward service: `POST /unirl/score`, with a history that ends in a video and the models that are asked."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from descore.serving.adapters.shape import TrainerBody
from descore.serving.refusals import Refused
from descore.serving.schemas import ScoreOptions, VideoSource, body_of
from descore.serving.service import Asked, Record, Service, read_body


class Turn(TrainerBody):
    """A turn of a history: a text, a video or both."""

    text: str | None = None
    video_b64: str | None = None
    video_path: str | None = None

    @property
    def video(self) -> VideoSource | None:
        """The video of the turn; None if it has none."""
        if self.video_b64 is not None:
            return VideoSource(base64=self.video_b64)
        return None if self.video_path is None else VideoSource(path=self.video_path)


class RewardItem(TrainerBody):
    """A history, and the names of the models that are to score its last video."""

    history: list[Turn]
    required_rewards: list[str]


class UniRLRequest(TrainerBody):
    """Several histories."""

    requests: list[RewardItem]


def add(app: FastAPI, service: Service) -> None:
    """Add the routes; the address of the service is that of the server with /unirl behind it."""

    @app.get("/unirl/health")
    async def unirl_health() -> dict[str, str]:
        """Say that the server answers."""
        return {"status": "ok"}

    @app.get("/unirl/rewards")
    async def unirl_rewards() -> dict[str, list[str]]:
        """List the models."""
        return {"rewards": list(service.options.models)}

    @app.post("/unirl/score", openapi_extra=body_of(UniRLRequest))
    async def unirl_score(request: Request) -> Response:
        """Score the videos of UniRL: for each, and each model, its rewards by name, or else its error."""
        body = await read_body(request, UniRLRequest)
        asked = [_asked(index, item) for index, item in enumerate(body.requests)]
        results: list[Record] = [{} for _ in asked]
        errors: list[dict[str, str]] = [{} for _ in asked]
        names = dict.fromkeys(name for item in body.requests for name in item.required_rewards)
        for name in names:
            chosen = [index for index, item in enumerate(body.requests) if name in item.required_rewards]
            records = await service.score(request, [asked[index] for index in chosen], ScoreOptions(model=name))
            for index, record in zip(chosen, records, strict=True):
                if record["error"] is None:
                    results[index][name] = _numbers(record)
                else:
                    errors[index][name] = record["error"]
        return JSONResponse({"results": results, "errors": errors})


def _asked(index: int, item: RewardItem) -> Asked:
    """Return the last video of a history, and the last text up to it."""
    text: str | None = None
    found: Asked | None = None
    for turn in item.history:
        text = turn.text or text
        if turn.video is not None:
            found = Asked(text or "", turn.video)
    if found is None:
        raise Refused(422, f"requests.{index}.history: expected a turn with video_b64 or video_path, found none")
    return found


def _numbers(record: Record) -> dict[str, float]:
    named: dict[str, Any] = {"reward": record["reward"], **record["rewards"]}
    named |= {name: record[name] for name in ("normalised_reward", "overall_score", "reward_std")}
    return {name: float(value) for name, value in named.items() if value is not None}
