"""What travels over HTTP: the single truth of the server, of its OpenAPI description and of the client."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from descore.serving.options import MAX_FPS

Fps = Annotated[float, Field(gt=0, le=MAX_FPS, description="Frame rate in frames per second.")]
NumThoughts = Annotated[int, Field(ge=1, description="Number of thoughts; the reward is the mean over them.")]
Temperature = Annotated[
    float | None, Field(ge=0, description="Sampling temperature; 0 for one thought, 1 for several if not given.")
]
ModelName = Annotated[str | None, Field(description="Name of the model; the first one of the server if not given.")]
GivenThought = Annotated[
    str | None, Field(description="Thought to score with, instead of the model's own; empty for none: the fast mode.")
]


class Body(BaseModel):
    """A body that is taken literally: no further keys, no text in place of a number, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class VideoSource(Body):
    """A video; exactly one of path, base64, url and frames."""

    path: str | None = Field(default=None, description="File under a folder that the server allows.")
    base64: str | None = Field(default=None, description="Bytes of a video file.", repr=False)
    url: str | None = Field(default=None, description="Address on a host that the server allows.")
    frames: list[str] | None = Field(default=None, description="PNG, JPEG or WebP of each, in base64.", repr=False)
    fps: Fps | None = None

    @model_validator(mode="after")
    def _is_one(self) -> VideoSource:
        given = [name for name in ("path", "base64", "url", "frames") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"expected one of path, base64, url and frames, got {' and '.join(given) or 'none'}")
        return self


class ScoreItem(Body):
    """A video and its prompt."""

    prompt: str
    video: VideoSource
    thought: GivenThought = None


class ScoreOptions(Body):
    """How videos are scored."""

    num_thoughts: NumThoughts = 1
    temperature: Temperature = None
    model: ModelName = None


class ScoreRequest(ScoreItem, ScoreOptions):
    """One video to score."""


class BatchRequest(ScoreOptions):
    """Several videos to score."""

    items: list[ScoreItem]


class CompareItem(Body):
    """Two videos of one prompt."""

    prompt: str
    video_a: VideoSource
    video_b: VideoSource


class CompareRequest(CompareItem, ScoreOptions):
    """Two videos of one prompt to compare, in both orders."""


class CompareBatchRequest(ScoreOptions):
    """Several pairs of videos to compare, each in both orders."""

    items: list[CompareItem]


class OrderRecord(BaseModel):
    """What the model says of two videos in one order."""

    p_a: float | None
    p_tie: float | None
    p_b: float | None
    thoughts: list[str] = []
    num_thought_tokens: list[int] = []
    errors: list[str | None] = []


class ComparisonRecord(BaseModel):
    """Comparison record of two videos; `verdict` is null if and only if `error` says why."""

    p_a: float | None
    p_tie: float | None
    p_b: float | None
    verdict: Literal["A", "tie", "B"] | None = None
    order_disagreement: float | None = None
    verdict_changes: bool | None = None
    orders: list[OrderRecord] = []
    error: str | None = None


class CompareBatchResponse(BaseModel):
    """Comparison record of each pair, in the order of the request."""

    comparisons: list[ComparisonRecord]


class ScoreRecord(BaseModel):
    """Score record of a video; `reward` is null if and only if `error` says why."""

    reward: float | None
    rewards: dict[str, float | None] = {}
    thought: str = ""
    dimension_scores: dict[str, int | Literal["N/A"]] | None = None
    overall_score: float | None = None
    num_thought_tokens: int = 0
    truncated: bool = False
    reward_std: float | None = None
    each: list[ScoreRecord] = []
    normalised_reward: float | None = None
    error: str | None = None


class BatchResponse(BaseModel):
    """Score record of each video, in the order of the request."""

    scores: list[ScoreRecord]


class Problem(BaseModel):
    """Why a request was refused."""

    error: str


def failed(error: str) -> dict[str, Any]:
    """Return the record of a video that has no reward.

    >>> failed("gone")["reward"], failed("gone")["error"]
    (None, 'gone')
    """
    return ScoreRecord(reward=None, error=error).model_dump()


def failed_comparison(error: str) -> dict[str, Any]:
    """Return the record of two videos that have no verdict.

    >>> failed_comparison("gone")["verdict"], failed_comparison("gone")["error"]
    (None, 'gone')
    """
    return ComparisonRecord(p_a=None, p_tie=None, p_b=None, error=error).model_dump()


def explain(error: ValidationError) -> str:
    """Say in one line what is wrong with a body: the place, what was expected, and a little of what was got."""
    first, *more = error.errors(include_url=False, include_context=False)
    place = ".".join(map(str, first["loc"])) or "body"
    got = "" if first["type"] in {"missing", "json_invalid"} else f", got {first['input']!r:.60}"
    others = f" (and {len(more)} more)" if more else ""
    return f"{place}: {first['msg'].removeprefix('Value error, ')}{got}{others}"


def body_of(schema: type, *, form: bool = False) -> dict[str, Any]:
    """Document the body of a route that reads it by itself."""
    content: dict[str, Any] = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema.__name__}"}}}
    if form:
        fields = {"prompt": {"type": "string"}, "video": {"type": "string", "format": "binary"}}
        more = {"thought": {"type": "string"}, "num_thoughts": {"type": "integer"}, "model": {"type": "string"}}
        content["multipart/form-data"] = {
            "schema": {"type": "object", "properties": fields | more, "required": ["prompt", "video"]}
        }
    return {"requestBody": {"required": True, "content": content}}
