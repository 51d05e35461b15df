"""The application: routes, the gate before them, and what they work with."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException as StarletteHTTPException

import biovita
from biovita.report.html import TEMPLATES
from biovita.web import api, pages
from biovita.web.answers import Health
from biovita.web.asking import House
from biovita.web.desk import Desk
from biovita.web.gate import Gate, Refusal
from biovita.web.meter import Meter
from biovita.web.settings import Settings

STATIC = Path(__file__).parent / "static"


def create_app(settings: Settings) -> FastAPI:
    """Make the application; its threads and children start and end with it."""
    desk, meter = Desk(settings), Meter()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with desk:
            yield

    app = FastAPI(
        title="BioVITA",
        version=biovita.__version__,
        description="Name animals in sounds and pictures, and search an archive of them.",
        docs_url=None,  # FastAPI's own page loads scripts from elsewhere; ours is /api
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.house = House(settings=settings, desk=desk, meter=meter)
    app.add_middleware(Gate, settings=settings, meter=meter, answer=pages.answer_error)
    app.add_exception_handler(StarletteHTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.include_router(api.router)
    app.include_router(pages.router)

    @app.get("/static/house.css", include_in_schema=False)
    async def house_style() -> Response:
        return Response((TEMPLATES / "style.css").read_text(encoding="utf-8"), media_type="text/css")

    app.mount("/static", StaticFiles(directory=STATIC))

    @app.get("/healthz")
    async def health() -> Health:
        """Say that the server answers."""
        return Health(n_waiting=desk.n_waiting)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> str:
        """Count requests, refusals and seconds, in Prometheus' text format."""
        return meter.text(desk.n_waiting)

    return app


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    if not isinstance(error, HTTPException):
        error = HTTPException(error.status_code, error.detail, dict(error.headers or {}))
    return await pages.answer_error(request, error)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    name = next((str(part) for part in reversed(first["loc"]) if isinstance(part, str)), "the request")
    return await pages.answer_error(request, Refusal(422, "invalid", f"{name}: {first['msg']}"))
