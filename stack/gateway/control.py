"""The control plane's end of the gateway's control socket: push a table, read the samples. Synchronous.

One JSON object per line each way. Paths longer than a socket address may be are reached through an open directory.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stack.gateway.errors import GatewayUnavailable, InvalidTable, TableRefused
from stack.gateway.table import RoutingTable

LONGEST = 100
REPLY_MAX = 256 << 20


@contextmanager
def short(path: Path) -> Iterator[str]:
    """An address for this socket that fits into the kernel's limit, valid while the context lasts."""
    if len(os.fsencode(path)) < LONGEST:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


class GatewayControl:
    """Talks to the gateway behind this socket; each call is a connection of its own."""

    def __init__(self, path: Path, timeout: float = 5.0) -> None:
        self.path, self.timeout = Path(path), timeout

    def put_table(self, table: RoutingTable) -> int:
        """Make the gateway route by this table; returns its version once it is stored and in use."""
        return int(self._ask({"op": "put-table", "table": table.to_json()})["version"])

    def table(self) -> RoutingTable | None:
        """The table in use."""
        found = self._ask({"op": "table"})["table"]
        return None if found is None else RoutingTable.from_json(found)

    def samples(self, since: int = 0) -> dict[str, Any]:
        """The books (see ``metrics``): counters since the process started, and single attempts after ``since``."""
        return self._ask({"op": "samples", "since": since})

    def attempts(self, since: int = 0) -> dict[str, Any]:
        """Of ``samples`` only the single attempts after ``since``, and only of replicas that have some."""
        return self._ask({"op": "samples", "since": since, "part": "attempts"})

    def counters(self) -> dict[str, Any]:
        """Of ``samples`` what a look at every replica's health needs."""
        return self._ask({"op": "samples", "part": "counters"})

    def health(self) -> dict[str, Any]:
        """What ``/health`` says, with ``ready``."""
        return self._ask({"op": "health"})

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        try:
            line = self._exchange(json.dumps(question).encode() + b"\n")
            reply = json.loads(line)
        except (OSError, ValueError) as error:
            raise GatewayUnavailable(str(error) or type(error).__name__, path=self.path) from error
        if not isinstance(reply, dict):
            raise GatewayUnavailable("the reply is not an object", path=self.path)
        if reply.get("ok") is True:
            return reply
        facts = reply.get("facts") or {}
        if reply.get("code") == "TableRefused":
            raise TableRefused(current=facts.get("current"), offered=facts.get("offered"))
        if reply.get("code") == "InvalidTable":
            raise InvalidTable(str(reply.get("detail")), problems=facts.get("problems", []))
        raise GatewayUnavailable(str(reply.get("detail")), path=self.path)

    def _exchange(self, line: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as wire, short(self.path) as address:
            wire.settimeout(self.timeout)
            wire.connect(address)
            wire.sendall(line)
            with wire.makefile("rb") as source:
                reply = source.readline(REPLY_MAX)
        if not reply.endswith(b"\n"):
            raise ValueError("the connection ended before the reply did")
        return reply
