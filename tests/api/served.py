"""The admin API on a free port, in a thread of this process, as ``uvicorn`` really serves it."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn
from fake_desks import TOKEN

from stack.api.operator import Operator
from stack.api.server import HEADS, bind, create_app
from stack.core.clock import Clock


@dataclass(frozen=True)
class Answer:
    """A response as it came."""

    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)


@dataclass(frozen=True)
class Served:
    """A running API."""

    port: int

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One request; the right token and host unless other headers are given."""
        content = json.dumps(body).encode() if body is not None and not isinstance(body, bytes) else body
        sent = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json", **headers}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, body=content, headers={k: v for k, v in sent.items() if v})
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()


@contextmanager
def served(operator: Operator, clock: Clock | None = None) -> Iterator[Served]:
    """Serve ``operator`` while the block runs."""
    listener = bind(0)
    app = create_app(operator, clock=clock)
    config = uvicorn.Config(app, log_config=None, access_log=False, lifespan="off", **HEADS)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield Served(listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
