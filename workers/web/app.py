"""The application: its routes, what it says about errors, and what it takes at most."""

from __future__ import annotations

import html
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse
from fastapi_offline import FastAPIOffline

from tasks.runtime import runtime
from workers.web import admin, explanations, jobs, money, problems, settings, webhooks
from workers.web.bodies import BoundedBodies
from workers.web.waiting import Endings

DESCRIPTION = """
Submit generation jobs and be billed for what they used. Every request needs a key: `Authorization: Bearer cm_...`.
Amounts are in credits, instants are ISO 8601 with their zone. Errors are problem details (RFC 9457) with a stable code.
"""


def make_app() -> FastAPI:
    """The application of a process that is connected and has its runtime."""
    # Its documentation is all of this machine: no browser asks anybody else for a script.
    app = FastAPIOffline(
        title="Creditmill",
        version=version("creditmill"),
        description=DESCRIPTION,
        lifespan=_listening,
        redoc_url=None,
        responses=problems.told(),
        separate_input_output_schemas=False,
    )
    app.state.endings = Endings()
    app.openapi = lambda: _described(app)  # type: ignore[method-assign]
    for error, handler in problems.HANDLERS.items():
        app.add_exception_handler(error, handler)
    for module in (jobs, money, settings, webhooks, admin):
        app.include_router(module.router)
    app.add_api_route("/errors", errors, include_in_schema=False, response_class=HTMLResponse)
    app.add_api_route("/health", health, include_in_schema=False)
    app.add_middleware(BoundedBodies)
    return app


def _described(app: FastAPI) -> dict[str, Any]:
    """The description of the API, with problem details in the place of the framework's own errors."""
    if app.openapi_schema is None:
        found = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes, tags=None
        )
        schemas = found["components"]["schemas"]
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        schemas["Problem"] = problems.Problem.model_json_schema()
        for methods in found["paths"].values():
            for operation in methods.values():
                if "HTTPValidationError" in str(operation["responses"].get("422")):
                    del operation["responses"]["422"]
        app.openapi_schema = found
    return app.openapi_schema


async def errors() -> str:
    """What each code of an error means."""
    rows = (
        f'<dt id="{code}"><code>{code}</code> ({status})</dt><dd>{html.escape(told)}</dd>'
        for code, (status, told) in explanations.CODES.items()
    )
    return f"<!doctype html><html lang=en><title>Errors</title><h1>Errors</h1><dl>{''.join(rows)}</dl></html>"


async def health() -> dict[str, str]:
    """That this process answers."""
    return {"status": "ok"}


@asynccontextmanager
async def _listening(app: FastAPI) -> AsyncIterator[None]:
    async with app.state.endings.listening(runtime().settings.broker_url.get_secret_value()):
        yield
