"""Prefect's server behind a door: `python -m agentloop_flows.prefect_server PORT [ADDRESS]` instead of `prefect server start`.

Prefect asks for its key in the API alone and takes any Host; the door asks for it wherever something other than the files
of the UI is answered, on WebSockets too, and keeps foreign pages out. `/enter#KEY` hands the key to the UI in the browser.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from prefect.server.api.server import create_app
from prefect.settings import get_current_settings
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from agentloop import settings as configuration
from agentloop_flows import connection, key, reconcile, schedules, telling
from agentloop_vllm.door import Door

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[Any]]

ENTRANCE = "/enter"
_ENTRANCE_PAGE = Path(__file__).with_name("enter.html")
_REPORT_PAGE = Path(__file__).with_name("report.html")
_REPORT_NAME = re.compile(r"/[a-z0-9][a-z0-9-]*\.html")


def application() -> Door:
    """Prefect's application, services and UI included, behind the door. Its key comes from Prefect's own setting."""
    app = create_app(final=True)
    app.router.lifespan_context = _with_heartbeat(app.router.lifespan_context)
    app.router.routes.insert(0, Mount(connection.REPORTS, _reports(configuration.load().paths.reports)))
    public = _outside_of(_closed_paths(app))
    app.router.routes.insert(0, Route(ENTRANCE, lambda request: FileResponse(_ENTRANCE_PAGE)))
    app.router.routes.insert(0, Route(connection.REPORT, lambda request: FileResponse(_REPORT_PAGE)))
    secret = get_current_settings().server.api.auth_string
    if secret is None:
        raise SystemExit(
            "agentloop_flows.prefect_server: PREFECT_SERVER_API_AUTH_STRING is not set; use `agentloop up`"
        )
    auth_string = secret.get_secret_value()
    return Door(app, key.authorization(auth_string), public=public, token=auth_string)


def _reports(folder: Path) -> ASGIApp:
    """The pages of the folder, and nothing else that lies there."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        name = scope["path"].removeprefix(scope.get("root_path", ""))
        file = folder / name[1:]
        found = scope["type"] == "http" and _REPORT_NAME.fullmatch(name) and file.is_file()
        response = FileResponse(file) if found else Response("There is no such report.", 404)
        await response(scope, receive, send)

    return answer


def _with_heartbeat(lifespan: Lifespan) -> Lifespan:
    """Prefect's own start and end, and between them the task of reconcile.py."""

    @asynccontextmanager
    async def extended(app: FastAPI) -> AsyncIterator[Any]:
        async with lifespan(app) as state:
            beating = asyncio.create_task(
                reconcile.heartbeat(also=(schedules.one_overdue, telling.disk_of_the_project))
            )
            try:
                yield state
            finally:
                beating.cancel()

    return extended


def _closed_paths(app: FastAPI) -> tuple[str, ...]:
    """Every path of the application but the UI, which is mounted on the root: the API and its documentation."""
    paths = tuple(route.path for route in app.routes if not (isinstance(route, Mount) and route.name == "ui"))
    assert "/api" in paths and "" not in paths, paths
    return paths


def _outside_of(closed: tuple[str, ...]) -> Callable[[str], bool]:
    def public(path: str) -> bool:
        return path == "/api/health" or not any(path == each or path.startswith(f"{each}/") for each in closed)

    return public


def main(port: int, address: str = "127.0.0.1") -> None:
    """Serve until a signal ends it. `address`: what to listen on; whatever it is, the door takes only a loopback Host."""
    api = get_current_settings().server.api
    # as `prefect server start` does
    uvicorn.run(
        application(),
        host=address,
        port=port,
        timeout_keep_alive=api.keepalive_timeout,
        ws_ping_interval=api.websocket_ping_interval,
        ws_ping_timeout=api.websocket_ping_timeout,
        log_level=get_current_settings().server.logging_level.lower(),
        # the door decides by what the client itself says
        proxy_headers=False,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
