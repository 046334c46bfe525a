"""The gateway's end of the control socket: one JSON object per line, one reply per line.

Whoever reaches the socket (mode 0600) is the control plane. A connection that breaks off leaves no trace: a table is
taken only from a whole line, stored durably first, then swapped in.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from pathlib import Path
from typing import Any

import orjson

from stack.core.errors import StackError
from stack.gateway.control import short
from stack.gateway.core import GatewayCore
from stack.gateway.errors import GatewayRunning, TableRefused
from stack.gateway.table import RoutingTable
from stack.gateway.table_file import save_table

LINE_MAX = 64 << 20


class ControlServer:
    """Listens on a unix socket; holds a lock beside it for as long as it lives, so that there is only one."""

    def __init__(self, core: GatewayCore, path: Path, table_path: Path) -> None:
        self.core, self.path, self.table_path = core, path, table_path
        self._server: asyncio.Server | None = None
        self._lock: int | None = None

    def claim(self) -> None:
        """Become the one gateway of this home, or ``GatewayRunning``."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise GatewayRunning(path=self.path) from error

    async def start(self) -> None:
        """Listen; a socket file left behind by a dead gateway is replaced."""
        self.path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            with short(self.path) as address:
                self._server = await asyncio.start_unix_server(self._serve, address, limit=LINE_MAX)
        finally:
            os.umask(before)

    def close(self) -> None:
        """Stop listening and give the place free."""
        if self._server is not None:
            self._server.close()
        self.path.unlink(missing_ok=True)
        if self._lock is not None:
            os.close(self._lock)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (line := await reader.readline()).endswith(b"\n"):
                writer.write(orjson.dumps(self._reply(line)) + b"\n")
                await writer.drain()
        except (OSError, ValueError):
            pass  # the peer has gone, or sent an endless line
        finally:
            writer.close()

    def _reply(self, line: bytes) -> dict[str, Any]:
        try:
            question = orjson.loads(line)
            operation = question["op"]
            if operation == "put-table":
                return {"ok": True, "version": self._put(RoutingTable.from_json(question["table"]))}
            if operation == "samples":
                since, part = int(question.get("since", 0)), str(question.get("part", "all"))
                return {"ok": True, **self.core.books.samples(since, self.core.health.failures, part)}
            if operation == "table":
                return {"ok": True, "table": self.core.table.to_json() if self.core.table else None}
            if operation == "health":
                ready, report = self.core.ready()
                return {"ok": True, "ready": ready, "pid": os.getpid(), **report}
        except StackError as error:
            return {"ok": False, "code": error.code, "detail": error.detail, "facts": dict(error.facts)}
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            return {"ok": False, "code": "BadControlRequest", "detail": f"{type(error).__name__}: {error}"}
        except OSError as error:
            return {"ok": False, "code": "NotStored", "detail": f"the table could not be stored: {error}"}
        return {"ok": False, "code": "BadControlRequest", "detail": f"unknown op {operation!r}"}

    def _put(self, table: RoutingTable) -> int:
        current = self.core.table
        if table == current:
            return table.version
        if table.version <= self.core.version:
            raise TableRefused(current=self.core.version, offered=table.version)
        save_table(self.table_path, table)
        self.core.use(table)
        return table.version
