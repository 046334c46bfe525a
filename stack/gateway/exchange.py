"""One client request and the attempts at replicas that it takes.

1. The body is read, the model looked up, the replicas to try are picked.
2. An attempt sends the request to one replica. Until the client has been sent a byte, a failed attempt is followed by
   one at the next replica: no connection, connection lost, no first byte in time, an overloaded or failing engine, an
   answer that makes no sense, an answer from another model than the one asked for.
3. Plain answers up to ``HOLD`` bytes are looked at whole before the client sees any of it; streams from their first
   event on. After that the bytes go through as they come.
4. What can't be completed is cut off, so that it can't be mistaken for a whole answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from stack.gateway import answers
from stack.gateway.answers import JSON, Problem
from stack.gateway.bigbody import BIG
from stack.gateway.client import Client
from stack.gateway.core import GatewayCore
from stack.gateway.metrics import BROKEN, CANCELLED
from stack.gateway.request import BadRequest, Completion, read_completion
from stack.gateway.routing import pick
from stack.gateway.table import Key, Service, Slice, Target
from stack.gateway.upstream import Upstream
from stack.gateway.usage import TAIL, WHOLE, StreamWatch, Usage, read_answer, read_ends

HOLD = 1 << 20
CONNECT_S = 2.0
_HEAD = b"POST %b HTTP/1.1\r\nhost: replica\r\ncontent-type: application/json\r\naccept: %b\r\n"
_HEAD += b"%bcontent-length: %d\r\n\r\n%b"
RETRIED = frozenset((429, 500, 502, 503, 504))
EVENTS = b"text/event-stream"
_LAST_WORDS = {"timeout": answers.UPSTREAM_TIMEOUT, "busy": answers.UPSTREAM_BUSY}
_LAST_WORDS |= dict.fromkeys(("bad_answer", "wrong_model", "stream_error"), answers.BAD_ANSWER)


class Exchange:
    """See the module."""

    mode: Callable[[Exchange, Upstream], None]

    __slots__ = (
        "attempted", "client", "completion", "core", "deadline", "extra", "first", "fresh", "held", "index", "key",
        "mode", "path", "pin", "size", "started", "t0", "tail", "target", "targets", "task", "up", "watch",
    )  # fmt: skip

    def __init__(
        self, core: GatewayCore, client: Client, *, path: bytes, key: Key, pin: Slice | None, extra: bytes
    ) -> None:
        self.core, self.client, self.path, self.key, self.pin, self.extra = core, client, path, key, pin, extra
        self.up: Upstream | None = None
        self.task: asyncio.Task[None] | None = None
        self.deadline = float("inf")
        self.started = self.attempted = False

    # -- 1. what is asked for
    def start(self, body: bytes) -> None:
        """Begin with the request's whole body."""
        if len(body) > BIG:
            self._await(self._read_big(body))
            return
        try:
            completion = read_completion(body)
        except BadRequest as error:
            self._refuse(error.problem)
        else:
            self._route(completion)

    def _await(self, work: Coroutine[Any, Any, None]) -> None:
        self.task = self.core.loop.create_task(work)
        self.task.add_done_callback(self._awaited)

    def _awaited(self, task: asyncio.Task[None]) -> None:
        """A mistake of ours must not leave the client waiting."""
        if not task.cancelled() and task.exception() is not None:
            self.core.loop.call_exception_handler({"message": "exchange failed", "exception": task.exception()})
            self.task = None
            self.cancel()
            self.client.finished(whole=False)

    async def _read_big(self, body: bytes) -> None:
        try:
            completion = await self.core.big_bodies.read(body)
        except BadRequest as error:
            self.task = None
            self._refuse(error.problem)
        else:
            self.task = None
            self._route(completion)

    def _route(self, completion: Completion) -> None:
        core = self.core
        route = core.routes.get(completion.model)
        if route is None or (self.key.models is not None and route.service.name not in self.key.models):
            self._refuse(answers.unknown_model(completion.model))
            return
        self.completion = completion
        self.targets = pick(route, pin=self.pin, roll=core.roll(), load=core.books.inflight, down=core.health.down)
        self.index = 0
        if self.targets:
            self._attempt()
        elif self.pin is not None or not self._waits(route.service):
            self._refuse(answers.NO_TARGET)

    def _waits(self, service: Service) -> bool:
        """One is about to come: wait for it."""
        entered = service.hold_s > 0 and self.core.waiting.enter(self, service.name, len(self.completion.rest))
        if entered:
            self.deadline = self.core.now() + service.hold_s
        return entered

    def again(self) -> None:
        """There is a replica again."""
        self._route(self.completion)

    def give_up(self) -> None:
        """There is none, and this request has waited long enough."""
        self._refuse(answers.NO_TARGET)

    # -- 2. attempts
    def _attempt(self) -> None:
        core = self.core
        self.target = target = self.targets[self.index]
        core.books.began(target.id, self.completion.model, target.slice)
        self.t0 = core.now()
        self.deadline = self.t0 + core.limits.first_byte_timeout_s
        self.attempted, self.fresh = True, False
        self.first: float | None = None
        self.mode = Exchange._judge_head  # a function, not a bound method: a cycle per request would cost more
        self.held: list[bytes] = []
        self.size, self.tail = 0, b""
        up = core.pool(target).take()
        if up is None:
            self._connect()
        else:
            self._send(up)

    def _connect(self) -> None:
        self.fresh = True
        self._await(self._connected(self.target))

    async def _connected(self, target: Target) -> None:
        try:
            up = await self.core.pool(target).connect(CONNECT_S)
        except OSError:
            self.task = None
            self._fail("connect")
        else:
            self.task = None
            self._send(up)

    def _send(self, up: Upstream) -> None:
        completion = self.completion
        first, rest = completion.body_for(self.target.served_model)
        kind = EVENTS if completion.stream else JSON
        self.up = up
        up.begin(self, _HEAD % (self.path, kind, self.extra, len(first) + len(rest), first), rest)

    def _fail(self, outcome: str, status: int = BROKEN) -> None:
        """This attempt gave nothing that counts: on to the next, or tell the client."""
        up, self.up = self.up, None
        if up is not None:
            up.abort()
        self.core.health.failed(self.target.id)
        self._book(status, None, outcome)
        if self.started:
            self._cut()
        elif self.index + 1 < len(self.targets):
            self.index += 1
            self._attempt()
        else:
            self._refuse(_LAST_WORDS.get(outcome, answers.UPSTREAM_FAILED))

    def _book(self, status: int, usage: Usage | None, outcome: str) -> None:
        self.attempted = False
        latency = self.core.now() - self.t0
        self.core.books.ended(self.target.id, status, latency, self.first, usage, self.pin is not None, outcome)

    # -- 3. the answer; called by the upstream connection
    def up_data(self, up: Upstream) -> None:
        """Bytes have arrived from the replica."""
        self.mode(self, up)

    def up_lost(self, up: Upstream, reason: str) -> None:
        """The connection to the replica is gone."""
        if up.done:
            self.mode(self, up)
        elif up.reused and not up.ready and not self.fresh and reason == "closed":
            self.up = None  # the replica had closed this idle connection: once more on a fresh one
            self._connect()
        else:
            self._fail(reason)

    def _judge_head(self, up: Upstream) -> None:
        status = up.status
        if status in RETRIED and self.index + 1 < len(self.targets):
            self._fail("busy", status)
            return
        wanted = EVENTS if status == 200 and self.completion.stream else JSON
        kind = up.kind if up.kind == wanted else up.kind.partition(b";")[0].strip().lower()
        if kind != wanted or not (status == 200 or status >= 400):
            self._fail("busy" if status in RETRIED else "bad_answer", status if status in RETRIED else BROKEN)
            return
        if wanted is EVENTS:
            self.watch = StreamWatch(drop_usage=self.completion.added_usage)
            self.mode = Exchange._stream
            self._stream(up)
        elif up.done:
            self._judge(up, self._take(up))
        else:
            self.deadline = self.core.now() + self.core.limits.stall_timeout_s
            self.mode = Exchange._hold
            self._hold(up)

    def _hold(self, up: Upstream) -> None:
        body = self._take(up)
        self.size += len(body)
        self.held.append(body)
        if up.done:
            self._judge(up, b"".join(self.held))
        elif self.size > HOLD:
            body = b"".join(self.held)
            self.held = [body[:WHOLE]]
            self.mode = Exchange._pass
            self._begin_chunks(up)
            self._chunk(up, body)

    def _judge(self, up: Upstream, body: bytes) -> None:
        status, usage, client = up.status, None, self.client
        if status == 200:
            sound, model, usage = read_answer(body)
            if not sound or (model is not None and model != self.target.served_model):
                self._fail("wrong_model" if sound else "bad_answer")
                return
        self._settle(up, status, usage)
        keep = client.keeps()
        if status == 200 and keep and not up.extra:  # as nearly every answer
            client.write(b"%b%d\r\n\r\n%b" % (up.pool.good, len(body), body))
        else:
            client.write(answers.plain(status, body, keep=keep, extra=up.pool.stamp + up.extra))
        client.finished()

    def _settle(self, up: Upstream, status: int, usage: Usage | None) -> None:
        """The replica has done its part: book it, give the connection back."""
        self.up = None
        if status in RETRIED:
            self.core.health.failed(self.target.id)
        else:
            self.core.health.succeeded(self.target.id)
        self._book(status, usage, "ok" if status == 200 else "refused")
        up.release()

    def _stream(self, up: Upstream) -> None:
        watch = self.watch
        out = watch.feed(self._take(up))
        if up.done:
            out += watch.rest()
        if not self.started:
            self.held.append(out)
            if not self._may_begin(up, watch):
                return
            out = b"".join(self.held)
            self.held = []
            self._begin_chunks(up)
        else:
            self.deadline = self.core.now() + self.core.limits.stall_timeout_s
        if not up.done:
            if out:
                self._chunk(up, out)
        elif watch.sound:
            self._settle(up, 200, watch.usage)
            self._finish_chunks(out)
        else:
            self._broken_stream(out, told=watch.failed)

    def _may_begin(self, up: Upstream, watch: StreamWatch) -> bool:
        """A stream may begin with its first event, unless that event already says that it failed."""
        if watch.failed or (up.done and not watch.sound):
            self._fail("stream_error")
        elif watch.model not in (None, self.target.served_model):
            self._fail("wrong_model")
        else:
            if watch.seen and self.first is None:
                self.first = self.core.now() - self.t0
            return watch.seen
        return False

    def _broken_stream(self, out: bytes, *, told: bool) -> None:
        """The replica finished a stream that is none: the client knows by the error event, or by the cut."""
        if told:
            up, self.up = self.up, None
            if up is not None:
                up.abort()
            self.core.health.failed(self.target.id)
            self._book(BROKEN, None, "stream_error")
            self._finish_chunks(out)
            return
        if out:
            self.client.write(self._framed(out))
        self._fail("stream_error")

    def _pass(self, up: Upstream) -> None:
        self.deadline = self.core.now() + self.core.limits.stall_timeout_s
        body = self._take(up)
        if not up.done:
            self._chunk(up, body)
            return
        self.tail = (self.tail + body)[-TAIL:]
        reading = read_ends(self.held[0], self.tail)
        if reading.sound:
            self._settle(up, up.status, reading.usage)
            self._finish_chunks(body)
        else:
            self._fail("bad_answer")

    # -- 4. towards the client
    def _take(self, up: Upstream) -> bytes:
        parts, up.parts = up.parts, []
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _begin_chunks(self, up: Upstream) -> None:
        self.started = True
        self.deadline = self.core.now() + self.core.limits.stall_timeout_s
        kind = EVENTS if self.completion.stream else JSON
        framing = b"" if self.client.http10 else b"transfer-encoding: chunked\r\n"
        if self.completion.stream:
            framing += b"cache-control: no-cache\r\n"
        extra = up.pool.stamp + up.extra
        self.client.write(answers.head(up.status, kind, extra, framing, keep=self.client.keeps()))

    def _framed(self, data: bytes) -> bytes:
        return data if self.client.http10 else b"%x\r\n%b\r\n" % (len(data), data)

    def _chunk(self, up: Upstream, data: bytes) -> None:
        if not self.completion.stream:
            self.tail = (self.tail + data)[-TAIL:]
        self.client.write(self._framed(data))
        if self.client.slow:
            up.pause()

    def _finish_chunks(self, data: bytes) -> None:
        end = b"" if self.client.http10 else b"0\r\n\r\n"
        self.client.write((self._framed(data) if data else b"") + end)
        self.client.finished()

    def _cut(self) -> None:
        if self.completion.stream:
            self.client.write(self._framed(answers.error_event(answers.STREAM_CUT)))
        self.core.books.refuse(answers.STREAM_CUT.code)
        self.client.finished(whole=False)

    def _refuse(self, problem: Problem) -> None:
        self.core.books.refuse(problem.code)
        self.client.write(answers.refusal(problem, keep=self.client.keeps()))
        self.client.finished()

    # -- called by the client's connection
    def client_slow(self, slow: bool) -> None:
        """The client reads slower than we write, or has caught up."""
        if self.up is not None and self.started:
            if slow:
                self.up.pause()
            else:
                self.deadline = self.core.now() + self.core.limits.stall_timeout_s
                self.up.resume()

    def cancel(self) -> None:
        """The client has gone: stop the replica's work too."""
        self.core.waiting.leave(self)
        if self.task is not None:
            self.task.cancel()
        up, self.up = self.up, None
        if up is not None:
            up.abort()
        if self.attempted:
            self._book(CANCELLED, None, "cancelled")

    def tick(self, now: float) -> None:
        """Time has passed."""
        if now < self.deadline:
            return
        if not self.attempted:
            if self.core.waiting.leave(self):
                self.give_up()
            return
        if self.started and self.client.slow:
            self.cancel()
            self.client.finished(whole=False)
            return
        if self.task is not None:
            self.task.cancel()
            self.task = None
        self._fail("timeout")
