"""Connections to replicas: one exchange at a time each, kept in pools between exchanges.

An ``Upstream`` parses what arrives and tells the exchange; it decides nothing. How an answer ended is told
truly: ``up_lost`` says whether the end of the connection was the end of the body.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

import httptools

from stack.gateway import answers
from stack.gateway.table import Target

IDLE_MAX = 256
SMALL = 65_536
FRAMING = frozenset((b"content-length", b"transfer-encoding"))
FORWARDED = frozenset((b"retry-after", b"x-request-id"))
READ = frozenset(len(n) for n in (*FRAMING, *FORWARDED, b"content-type"))


class Exchange(Protocol):
    """What an upstream connection talks to."""

    def up_data(self, up: Upstream) -> None:
        """Something arrived: look at ``status``, ``kind``, ``extra``, ``parts`` and ``done``."""

    def up_lost(self, up: Upstream, reason: str) -> None:
        """The connection is gone (or spoke no HTTP); ``up.done`` is True if its end was the body's end."""


class Pool:
    """The idle connections to one replica."""

    __slots__ = ("closed", "good", "host", "idle", "port", "stamp")

    def __init__(self, target: Target) -> None:
        self.host, self.port = target.host, target.port
        self.idle: deque[Upstream] = deque()
        self.closed = False
        self.stamp = f"x-stack-release: {target.release}\r\nx-stack-slice: {target.slice}\r\n".encode()
        self.stamp += f"x-stack-replica: {target.id}\r\n".encode()
        self.good = answers.good(self.stamp)

    async def connect(self, within_s: float) -> Upstream:
        """A fresh connection, or OSError (TimeoutError included)."""
        async with asyncio.timeout(within_s):
            _, up = await asyncio.get_running_loop().create_connection(lambda: Upstream(self), self.host, self.port)
        return up

    def take(self) -> Upstream | None:
        """The connection used last, if one is left."""
        while self.idle:
            up = self.idle.pop()
            if up.alive:
                return up
        return None

    def give(self, up: Upstream) -> None:
        """Take a connection back."""
        if self.closed or len(self.idle) >= IDLE_MAX:
            up.close()
        else:
            self.idle.append(up)

    def drop(self, up: Upstream) -> None:
        """This idle connection has ended."""
        if up in self.idle:
            self.idle.remove(up)

    def close(self) -> None:
        """End the idle connections; those in use end when they come back."""
        self.closed = True
        while self.idle:
            self.idle.pop().close()


class Upstream(asyncio.Protocol):
    """One connection to a replica."""

    __slots__ = (
        "alive", "done", "exchange", "extra", "framed", "keep", "kind", "parser", "parts", "paused", "pool", "ready",
        "reused", "status", "transport",
    )  # fmt: skip

    transport: asyncio.Transport

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.exchange: Exchange | None = None
        self.alive = self.reused = self.paused = False
        self.ready = self.done = self.framed = self.keep = False
        self.status = 0
        self.kind = self.extra = b""
        self.parts: list[bytes] = []

    # -- the exchange's side
    def begin(self, exchange: Exchange, first: bytes, rest: bytes) -> None:
        """Send a request, in two parts, for this exchange."""
        self.exchange = exchange
        self.status = 0
        self.kind = self.extra = b""
        self.parts = []
        self.ready = self.done = self.framed = False
        self.keep = True
        if len(rest) < SMALL:  # one buffer costs less than two, unless it must be copied
            self.transport.write(first + rest)
        else:
            self.transport.writelines((first, rest))

    def release(self) -> None:
        """The answer is complete: back into the pool, if the connection is good for another."""
        self.exchange = None
        if self.paused:
            self.resume()
        if self.keep and self.alive and self.done:
            self.reused = True
            self.pool.give(self)
        else:
            self.close()

    def abort(self) -> None:
        """End it now: the rest of the answer is not wanted."""
        self.exchange, self.alive = None, False
        self.transport.abort()

    def close(self) -> None:
        """End an idle connection."""
        self.alive = False
        self.transport.close()

    def pause(self) -> None:
        """The client reads slower than the replica writes."""
        if self.alive and not self.paused:
            self.paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """The client has caught up."""
        if self.paused:
            self.paused = False
            if self.alive:
                self.transport.resume_reading()

    # -- the transport's side
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.parser = httptools.HttpResponseParser(self)
        self.alive = True

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:  # bytes that nobody asked for: the next answer could not be trusted
            self.close()
            return
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.done = False
            self.abort()
            exchange.up_lost(self, "garbled")
            return
        if self.ready:
            exchange.up_data(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.alive = False
        exchange, self.exchange = self.exchange, None
        if exchange is None:
            self.pool.drop(self)
            return
        self.keep = False
        self.done = self.ready and not self.framed and exc is None
        exchange.up_lost(self, "closed")

    # -- the parser's side
    def on_message_begin(self) -> None:
        if self.done:
            self.keep = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(name) not in READ or self.ready:  # of no interest; a trailer, or a second answer
            return
        name = name.lower()
        if name in FRAMING:
            self.framed = True
        elif name == b"content-type":
            self.kind = self.kind or value
        elif name in FORWARDED:
            self.extra += b"%s: %s\r\n" % (name, value)

    def on_headers_complete(self) -> None:
        status = self.parser.get_status_code()
        if self.done or status < 200:
            return
        self.status = status
        self.ready = True
        self.keep = self.keep and self.parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        if not self.done:
            self.parts.append(body)

    def on_message_complete(self) -> None:
        if self.ready:
            self.done = True
        else:  # 1xx
            self.kind = self.extra = b""
            self.framed = False
