"""Connections from clients: HTTP/1.1 in, answers out, strictly in order; limits on everything a client may cost.

Parsing is httptools'; the refusals of ambiguous framing stand here as well, whatever the parser tolerates. Requests
are sent on re-assembled from what was understood, never as the bytes that came in. What the paths mean is in
``paths``; a completion's way to a replica is in ``exchange``.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import httptools

from stack.gateway import answers
from stack.gateway.answers import Problem
from stack.gateway.core import GatewayCore
from stack.gateway.exchange import Exchange
from stack.gateway.table import Key

HEADERS_MAX = 100
HEADERS_READ = frozenset(
    (b"authorization", b"content-length", b"transfer-encoding", b"host", b"x-stack-slice", b"expect", b"traceparent",
     b"x-request-id")
)  # fmt: skip
LENGTHS_READ = frozenset(map(len, HEADERS_READ))
UNKNOWN_BODY = 65_536  # what is read of a body whose sender has no key
QUEUE_MAX = 16
LINGER_S = 2.0
UNSET = -1.0  # idle since less than a tick: the next one sets the deadline, so that answers don't ask for the time


class Request:
    """One request as far as it has arrived."""

    __slots__ = (
        "authorization", "codings", "declared", "expects", "headers", "hosts", "http10", "keep", "key", "method",
        "parts", "path", "pin", "problem", "ready", "size", "trace",
    )  # fmt: skip

    def __init__(self) -> None:
        self.path = self.trace = b""
        self.method = b""
        self.authorization: bytes | None = None
        self.pin: bytes | None = None
        self.declared: int | None = None
        self.codings = self.headers = self.hosts = self.size = 0
        self.parts: list[bytes] = []
        self.problem: Problem | None = None
        self.key: Key | None = None
        self.ready = self.expects = self.http10 = False
        self.keep = True


class Stop(Exception):
    """Ends parsing: the request holds the problem."""


class Downstream(asyncio.Protocol):
    """One connection from a client."""

    __slots__ = (
        "core", "deadline", "exchange", "fed", "fresh", "full", "handle", "keys", "known", "lingering", "open",
        "parser", "phase", "queue", "raw", "registry", "request", "said", "serving", "slow", "stopped", "transport",
        "turning",
    )  # fmt: skip

    transport: asyncio.Transport

    def __init__(
        self, core: GatewayCore, registry: set[Downstream], handle: Callable[[Downstream, Request], None]
    ) -> None:
        self.core, self.registry, self.handle = core, registry, handle
        self.exchange: Exchange | None = None
        self.request: Request | None = None
        self.serving: Request | None = None
        self.queue: deque[Request] = deque()
        self.said, self.keys = b"", core.keys
        self.known: Key | None = None
        self.open = self.slow = self.full = self.stopped = self.lingering = self.turning = False
        self.phase, self.fed, self.raw, self.fresh = "idle", 0, 0, True

    @property
    def http10(self) -> bool:
        """The client asked in HTTP/1.0: no chunks."""
        return self.serving is not None and self.serving.http10

    # -- the transport's side
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        self.parser = httptools.HttpRequestParser(self)
        self.open = True
        self.deadline = self.core.now() + self.core.limits.head_timeout_s
        self.registry.add(self)

    def data_received(self, data: bytes) -> None:
        if self.stopped:
            return
        self.fresh = True
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.stopped = True
        except httptools.HttpParserError:
            self._unreadable()
        if self.request is not None and not self.stopped:
            self._measure(self.request, len(data))
        if len(self.queue) > QUEUE_MAX and not self.full:  # also in the middle of a request
            self.full = True
            self.transport.pause_reading()
        self._turn()

    def pause_writing(self) -> None:
        self.slow = True
        if self.exchange is not None:
            self.exchange.client_slow(True)

    def resume_writing(self) -> None:
        self.slow = False
        if self.exchange is not None:
            self.exchange.client_slow(False)
        else:
            self._turn()

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        self.registry.discard(self)
        self.queue.clear()
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.cancel()

    # -- the parser's side
    def on_message_begin(self) -> None:
        self.request, self.fed, self.raw = Request(), 0, 0

    def on_url(self, url: bytes) -> None:
        if self.request is not None:
            self.request.path += url
            if len(self.request.path) > self.core.limits.max_head:
                self._stop(answers.HEAD_TOO_LARGE)

    def on_header(self, name: bytes, value: bytes) -> None:
        request = self.request
        if request is None:
            return
        request.headers += 1
        self.fed += len(name) + len(value) + 4
        if request.headers > HEADERS_MAX or self.fed > self.core.limits.max_head:
            self._stop(answers.HEAD_TOO_LARGE)
        if len(name) not in LENGTHS_READ or request.ready:  # a trailer is counted, never believed
            return
        name = name.lower()
        if name == b"host":
            request.hosts += 1
        elif name == b"authorization":
            if request.authorization is not None:
                self._stop(answers.MALFORMED)
            request.authorization = value
        elif name == b"content-length":
            if request.declared is not None or not value.isdigit() or len(value) > 18:
                self._stop(answers.BAD_FRAMING)
            request.declared = int(value)
        elif name == b"transfer-encoding":
            request.codings += 1
            if value.strip().lower() != b"chunked":
                self._stop(answers.BAD_FRAMING)
        elif name == b"x-stack-slice":
            request.pin = value
        elif name == b"expect":
            request.expects = value.lower() == b"100-continue"
        elif name in (b"traceparent", b"x-request-id") and len(value) <= 200 and value.isascii():
            request.trace += b"%s: %s\r\n" % (name, value)

    def on_headers_complete(self) -> None:
        request = self.request
        if request is None:
            return
        parser = self.parser
        request.ready = True
        request.method = parser.get_method()
        request.http10 = parser.get_http_version() != "1.1"
        request.keep = parser.should_keep_alive() and not request.http10
        if request.authorization is not None:
            request.key = self._key(request.authorization)
        if request.codings and (request.codings > 1 or request.declared is not None or request.http10):
            self._stop(answers.BAD_FRAMING)
        if request.hosts != 1 and (request.hosts > 1 or not request.http10):
            self._stop(answers.BAD_HOST)
        if parser.should_upgrade():  # the parser would skip the body
            self._stop(answers.NO_UPGRADE)
        if request.declared is not None:
            self._check_size(request, request.declared)
        if request.expects and self.serving is None and not self.queue:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        request = self.request
        if request is not None:
            request.parts.append(body)
            if request.declared is None:
                request.size += len(body)
                self._check_size(request, request.size)

    def on_message_complete(self) -> None:
        request, self.request = self.request, None
        self.fresh = False
        if request is not None:
            self.phase = "idle"
            self.queue.append(request)

    def _key(self, authorization: bytes) -> Key | None:
        """The key; a connection that says the same again, under the same table, is not hashed again."""
        core = self.core
        if authorization != self.said or core.keys is not self.keys:
            self.known, self.said, self.keys = core.key(authorization), authorization, core.keys
        return self.known

    def _check_size(self, request: Request, size: int) -> None:
        if size > self.core.limits.max_body:
            self._stop(answers.BODY_TOO_LARGE)
        if size > UNKNOWN_BODY and request.key is None:
            self._stop(answers.BAD_KEY if request.authorization else answers.NO_KEY)

    def _stop(self, problem: Problem) -> None:
        if self.request is not None:
            self.request.problem = problem
        raise Stop

    def _unreadable(self) -> None:
        """Nothing after this can be understood: answer what came before, then this, then close."""
        request, self.request = self.request or Request(), None
        request.problem = request.problem or answers.MALFORMED
        self.stopped = True
        self.queue.append(request)

    def _measure(self, request: Request, size: int) -> None:
        """A request has arrived in part: how large is its head, how long may the rest take?"""
        limits = self.core.limits
        if not request.ready:
            self.raw += size if self.fresh else 0  # what came together with an earlier request is not counted
            if self.raw > limits.max_head:
                request.problem = answers.HEAD_TOO_LARGE
                self._unreadable()
                return
        phase = "body" if request.ready else "head"
        if phase != self.phase:
            self.phase = phase
            self.deadline = self.core.now() + (limits.body_timeout_s if request.ready else limits.head_timeout_s)

    # -- answering, in order
    def _turn(self) -> None:
        """Serve what waits, one at a time. Not re-entered: an answer given at once is followed by the next here."""
        if self.turning:
            return
        self.turning = True
        while self.queue and self.serving is None and self.open and not self.lingering and not self.slow:
            self.serving = self.queue.popleft()
            if self.serving.problem is not None:
                self.refuse(self.serving.problem)
            else:
                self.handle(self, self.serving)
        self.turning = False
        if self.full and len(self.queue) <= QUEUE_MAX and self.open:
            self.full = False
            self.phase, self.deadline = "", UNSET  # we made the client wait: what it owes begins anew
            self.transport.resume_reading()

    def write(self, data: bytes) -> None:
        """Send to the client."""
        self.transport.write(data)

    def keeps(self) -> bool:
        """Whether the connection stays open after the answer under way."""
        request = self.serving
        if request is None or request.problem is not None or self.core.draining:
            return False
        return request.keep and not (self.stopped and not self.queue)

    def refuse(self, problem: Problem, extra: bytes = b"") -> None:
        """Answer the request in turn with a problem."""
        self.core.books.refuse(problem.code)
        self.reply(answers.refusal(problem, keep=self.keeps(), extra=extra))

    def reply(self, data: bytes) -> None:
        """Answer the request in turn with these bytes."""
        self.transport.write(data)
        self.finished()

    def finished(self, *, whole: bool = True) -> None:
        """The answer in turn has been written, or can't be."""
        keep, request = self.keeps(), self.serving
        self.exchange = self.serving = None
        if not whole and (self.slow or (request is not None and request.http10)):
            self.transport.abort()
        elif whole and not keep and request is not None and request.problem is not None:
            self._linger()
        elif not (whole and keep):
            self._close()
        else:
            if self.request is None:
                self.deadline = UNSET
            if self.queue or self.full:
                self._turn()

    def _linger(self) -> None:
        """Let the client read the refusal before the connection goes: closing on unread bytes could destroy it."""
        self.lingering = self.stopped = True
        self.queue.clear()
        self.deadline = self.core.now() + LINGER_S
        if self.open and self.transport.can_write_eof():
            self.transport.write_eof()

    def _close(self) -> None:
        self.stopped = True
        self.queue.clear()
        self.deadline = self.core.now() + self.core.limits.stall_timeout_s
        self.transport.close()

    def close_if_idle(self) -> None:
        """Nothing is under way here: close (the gateway is going)."""
        if self.serving is None and not self.queue and self.request is None and not self.lingering:
            self._close()

    def tick(self, now: float) -> None:
        """Time has passed: end what takes too long."""
        if self.exchange is not None:
            self.exchange.tick(now)
        elif self.deadline == UNSET:
            self.deadline = now + self.core.limits.idle_timeout_s
        elif now >= self.deadline and self.serving is None:
            if self.stopped or self.slow:
                self.transport.abort()
            elif self.request is None:
                self._close()
            else:
                self.request.problem = answers.TOO_SLOW
                self._unreadable()
                self._turn()
