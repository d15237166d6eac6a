"""The application: routes, pages, and errors in words."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from coldframe import __version__
from coldframe.errors import ColdframeError
from coldframe.serving.gateway import routes_admin, routes_openai, routes_predict
from coldframe.serving.gateway.bodies import REFUSALS
from coldframe.serving.gateway.guard import NOTE, Guard, extra_headers
from coldframe.serving.gateway.logs import event
from coldframe.serving.gateway.metrics import CONTENT_TYPE
from coldframe.serving.gateway.problems import HttpProblem, body_of, status_of
from coldframe.serving.gateway.routes_predict import Key, TheGateway
from coldframe.serving.gateway.state import Gateway

STATIC = Path(__file__).parents[1] / "static"

_WORDS = {404: "There is nothing at this address", 405: "This address does not take that method"}


def application(gateway: Gateway, hosts: Collection[str] | None = None) -> Guard:
    """The ASGI application of a gateway.

    Args:
        gateway: With its adapters.
        hosts: Names by which it may be called, see :class:`coldframe.serving.gateway.guard.Guard`.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        event("started", adapters=len(gateway.adapters))
        yield
        gateway.close()
        event("stopped")

    app = FastAPI(
        title="coldframe gateway",
        version=__version__,
        description="Plain text in: retrieval, soft tokens and a frozen model answer.",
        lifespan=lifespan,
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
    )
    app.state.gateway = gateway
    app.include_router(routes_predict.routes)
    app.include_router(routes_openai.routes)
    app.include_router(routes_admin.routes)
    _pages(app)
    _errors(app)
    return Guard(app, gateway.settings, gateway.metrics, hosts)


def _pages(app: FastAPI) -> None:
    @app.get("/health", tags=["operation"], responses=REFUSALS)
    async def health() -> dict[str, str]:
        """Whether the process is alive."""
        return {"status": "alive", "version": __version__}

    @app.get("/ready", tags=["operation"], responses=REFUSALS)
    async def ready(gateway: TheGateway) -> dict[str, str]:
        """Whether requests can be answered."""
        if not gateway.ready:
            raise HttpProblem(503, "There is no adapter yet, or the gateway is being stopped", retry_after=5)
        return {"status": "ready"}

    @app.get("/metrics", tags=["operation"], responses=REFUSALS)
    async def metrics(gateway: TheGateway, key: Key) -> Response:
        """Figures for Prometheus."""
        gateway.gate.figures(key)
        return Response(gateway.metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/", include_in_schema=False)
    async def playground() -> FileResponse:
        """The playground."""
        return FileResponse(STATIC / "index.html", media_type="text/html; charset=utf-8")

    app.mount("/static", StaticFiles(directory=STATIC), name="static")


def _errors(app: FastAPI) -> None:
    def words(request: Request, error: Exception) -> JSONResponse:
        request_id = request.scope[NOTE]["request"]
        return JSONResponse(body_of(error, request_id), status_of(error), extra_headers(error))

    async def ours(request: Request, error: Exception) -> JSONResponse:
        return words(request, error)

    async def of_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        problem = _WORDS.get(error.status_code, "The request cannot be read")
        answer = words(request, HttpProblem(error.status_code, problem))
        answer.headers.update(error.headers or {})
        return answer

    async def of_body(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return words(request, _unreadable(list(error.errors())))

    app.add_exception_handler(ColdframeError, ours)
    app.add_exception_handler(Exception, ours)
    app.add_exception_handler(HTTPException, of_http)
    app.add_exception_handler(RequestValidationError, of_body)


def _unreadable(errors: list[dict[str, Any]]) -> HttpProblem:
    """What is wrong with a body, where, and what would have been right."""
    first = errors[0]
    if first["type"] == "json_invalid":
        return HttpProblem(400, "The body is not valid JSON", fix="Check quotes, commas and brackets.")
    where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path")) or "the body"
    fix = None if len(errors) == 1 else f"{len(errors) - 1} more of this request cannot be used."
    value = first.get("input")
    shown = repr(value)[:80] if isinstance(value, str | int | float | bool | None) else type(value).__name__
    return HttpProblem(422, f"{where} cannot be used: {first['msg'][:300]}", got=shown, fix=fix)
