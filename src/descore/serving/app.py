"""The application: routes, their documentation, and the page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from descore import __version__
from descore.serving import adapters
from descore.serving.guard import Guard, refusal
from descore.serving.options import ServerOptions
from descore.serving.refusals import Refused
from descore.serving.schemas import (
    BatchRequest,
    BatchResponse,
    CompareBatchRequest,
    CompareBatchResponse,
    CompareRequest,
    ComparisonRecord,
    Problem,
    ScoreRecord,
    ScoreRequest,
    body_of,
)
from descore.serving.service import Asked, Service, read_body, read_upload

REFUSALS = {401: "no or wrong key", 408: "body too slow", 413: "too large", 421: "wrong host", 422: "malformed"} | {
    429: "busy, see Retry-After",
    503: "starting or stopping",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data: blob:; media-src blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_BODIES = (ScoreRequest, BatchRequest, CompareRequest, CompareBatchRequest)
_KINDS = {"index.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}


def make_app(options: ServerOptions, on_broken: Callable[[str], None]) -> tuple[Guard, Service]:
    """Build the application and what is behind it.

    Args:
        options: Options of the server.
        on_broken: Called with the reason if the models cannot be loaded.
    """
    service = Service(options, on_broken)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.pool.start()
        try:
            yield
        finally:
            await service.pool.stop()

    app = FastAPI(title="DeScore", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.add_exception_handler(Refused, _refuse)
    app.add_exception_handler(HTTPException, _refuse_route)
    app.add_exception_handler(ClientDisconnect, _nobody)
    _add_scores(app, service)
    _add_state(app, service)
    _add_page(app)
    adapters.add(app, service)
    app.openapi = lambda: _describe(app)  # type: ignore[method-assign]
    return Guard(app, options, service.metrics, service.held, service.why_closed), service


def _add_scores(app: FastAPI, service: Service) -> None:
    refusals: dict[int | str, dict[str, Any]] = {
        status: {"model": Problem, "description": text} for status, text in REFUSALS.items()
    }

    @app.post("/score", response_model=ScoreRecord, responses=refusals, openapi_extra=body_of(ScoreRequest, form=True))
    async def score(request: Request) -> Response:
        """Score one video. One that fails has reward null and an error."""
        if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            asked, how = await read_upload(request)
            return JSONResponse((await service.score(request, [asked], how))[0])
        body = await read_body(request, ScoreRequest)
        asked = Asked(body.prompt, body.video, body.thought)
        return JSONResponse((await service.score(request, [asked], body))[0])

    @app.post("/score/batch", response_model=BatchResponse, responses=refusals, openapi_extra=body_of(BatchRequest))
    async def score_batch(request: Request) -> Response:
        """Score several videos. One that fails has reward null and an error, and the others are scored."""
        body = await read_body(request, BatchRequest)
        asked = [Asked(item.prompt, item.video, item.thought) for item in body.items]
        return JSONResponse({"scores": await service.score(request, asked, body)})

    _add_comparison(app, service, refusals)


def _add_comparison(app: FastAPI, service: Service, refusals: dict[int | str, dict[str, Any]]) -> None:
    body, record = body_of(CompareRequest), ComparisonRecord

    @app.post("/compare", response_model=record, responses=refusals, openapi_extra=body)
    async def compare(request: Request) -> Response:
        """Compare two videos in both orders. Two that cannot be compared have verdict null and an error."""
        asked = await read_body(request, CompareRequest)
        return JSONResponse((await service.compare(request, [asked], asked))[0])

    several, records = body_of(CompareBatchRequest), CompareBatchResponse

    @app.post("/compare/batch", response_model=records, responses=refusals, openapi_extra=several)
    async def compare_batch(request: Request) -> Response:
        """Compare several pairs. One that cannot be compared has verdict null and an error; the others are compared."""
        asked = await read_body(request, CompareBatchRequest)
        return JSONResponse({"comparisons": await service.compare(request, asked.items, asked)})


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get("/health")
    async def health() -> dict[str, str]:
        """Say that the server answers."""
        return {"status": "ok", "version": __version__}

    @app.get("/ready")
    async def ready() -> Response:
        """Say whether videos are taken now, and of which models: 503 while starting or stopping."""
        closed = service.why_closed()
        state = {"ready": closed is None, "models": list(service.options.models), "reason": closed}
        return JSONResponse(state, 200 if closed is None else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        """Return counters in the text format of Prometheus."""
        return PlainTextResponse(service.metrics.text(), media_type="text/plain; version=0.0.4")


def _add_page(app: FastAPI) -> None:
    folder = files("descore.serving").joinpath("page")
    content = {name: folder.joinpath(name).read_bytes() for name in _KINDS}
    headers = {
        "Content-Security-Policy": _POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }

    def add(path: str, name: str) -> None:
        @app.get(path, include_in_schema=False)
        async def page() -> Response:
            return Response(content[name], media_type=_KINDS[name], headers=headers)

    for name in _KINDS:
        add("/" if name == "index.html" else f"/{name}", name)


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return refusal(error)


async def _refuse_route(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)


async def _nobody(_: Request, error: Exception) -> Response:
    return Response(status_code=499)  # the client has gone


def _describe(app: FastAPI) -> dict[str, Any]:
    """Describe the server in OpenAPI, with the bodies that routes read by themselves."""
    if not app.openapi_schema:
        described = FastAPI.openapi(app)
        schemas = [(schema, "validation") for schema in (*_BODIES, *adapters.BODIES)]
        _, definitions = models_json_schema(schemas, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
        described.setdefault("components", {}).setdefault("schemas", {}).update(definitions["$defs"])
        app.openapi_schema = described
    return app.openapi_schema
