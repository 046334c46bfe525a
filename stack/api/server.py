"""The admin API as one uvicorn process on loopback. Pid files and daemons are the command line's business."""

from __future__ import annotations

import logging
import socket
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import uvicorn
from fastapi import FastAPI

from stack.api import audit_routes, desk_routes, document, errors, routes
from stack.api.flood import Flood, Ledger
from stack.api.guard import MAX_BODY, Guard
from stack.api.operator import Operator
from stack.api.permissions import actions_of
from stack.core.clock import Clock, SystemClock
from stack.core.errors import Unavailable

LOOPBACK = "127.0.0.1"
HEADS: Mapping[str, Any] = MappingProxyType({"http": "h11", "h11_max_incomplete_event_size": 64 << 10})
"""How uvicorn reads a request's head: by the parser that bounds it; the other one does not."""


class PortInUse(Unavailable):
    """Port {port} on {host} is in use by another program."""

    hint = "Stop that program, or set STACK_ADMIN_PORT to a free port."


def create_app(operator: Operator, max_body: int = MAX_BODY, clock: Clock | None = None) -> FastAPI:
    """The ASGI application. Refuses to exist with a route that asks for no action."""
    app = FastAPI(
        title="inference-stack admin API",
        version="1",
        description=document.DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    app.state.operator = operator
    app.state.ledger = Ledger(Flood(tell=operator.access.refused, clock=clock or SystemClock()))
    app.add_middleware(Guard, access=operator.access, ledger=app.state.ledger, max_body=max_body)
    for router in (routes.health, routes.router, desk_routes.router, audit_routes.router, document.router):
        app.router.routes.extend(router.routes)
    actions_of(app)
    errors.install(app)
    return app


def bind(port: int, host: str = LOOPBACK) -> socket.socket:
    """A listening socket, or ``PortInUse``."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise PortInUse(port=port, host=host) from error
    listener.listen(128)
    return listener


def serve(operator: Operator, port: int, listener: socket.socket | None = None) -> None:
    """Serve until SIGTERM or SIGINT; running requests get five seconds to finish."""
    app = create_app(operator)
    config = uvicorn.Config(
        app,
        **HEADS,
        access_log=False,
        log_config=None,
        lifespan="off",
        server_header=False,
        timeout_graceful_shutdown=5,
        limit_concurrency=200,
    )
    sock = listener or bind(port)
    logging.getLogger("stack.api").info("admin API on http://%s:%d", *sock.getsockname()[:2])
    try:
        uvicorn.Server(config).run(sockets=[sock])
    finally:
        app.state.ledger.flush()
