"""Calls that are refused before anybody is known, told to the access desk: one by one while they are few.

Telling costs a durable write, so a flood is told as one call with a count: at most ``singly`` per second alone, one
write at a time, and the rest of that second together. What can't be told now is counted and told with the next.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.concurrency import run_in_threadpool

from stack.core.clock import Clock
from stack.core.errors import StackError

WINDOW_S = 1.0
_LOG = logging.getLogger("stack.api")
Tell = Callable[[str, str, str], None]


@dataclass(frozen=True, kw_only=True)
class RefusedCall:
    """``what``: method and path. ``peer``: where it came from."""

    what: str
    why: str
    peer: str


@dataclass(kw_only=True)
class Flood:
    """Thread-safe. ``refused`` returns at once or after one write; ``flush`` tells what was only counted."""

    tell: Tell
    clock: Clock
    singly: int = 5
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _began: float = float("-inf")
    _told: int = 0
    _telling: bool = False
    _held: list[RefusedCall] = field(default_factory=list)
    _more: int = 0

    @property
    def held(self) -> int:
        """How many are counted and not told yet."""
        with self._lock:
            return len(self._held) + self._more

    def refused(self, call: RefusedCall) -> bool:
        """True: told. False: counted, and a ``flush`` is due a second later."""
        if not self._may_tell():
            self._hold(call, 1)
            return False
        return self._tell(call, 1)

    def flush(self) -> bool:
        """Tell what was counted, as one call; False when that failed and is due again."""
        with self._lock:
            first, count = (self._held[0] if self._held else None), len(self._held) + self._more
            if first is None or self._telling:
                return first is None
            self._held, self._more, self._telling = [], 0, True
        return self._tell(first, count)

    def _may_tell(self) -> bool:
        with self._lock:
            now = self.clock.monotonic()
            if now - self._began >= WINDOW_S:
                self._began, self._told = now, 0
            if self._telling or self._told >= self.singly:
                return False
            self._told, self._telling = self._told + 1, True
            return True

    def _tell(self, call: RefusedCall, count: int) -> bool:
        more = f" (and {count - 1} more such calls since)" if count > 1 else ""
        try:
            self.tell(call.what, call.why + more, call.peer)
        except StackError as error:
            _LOG.error("a refused call could not be recorded: %s", error.message)
            self._hold(call, count)
            return False
        finally:
            with self._lock:
                self._telling = False
        return True

    def _hold(self, call: RefusedCall, count: int) -> None:
        """One call stands for all: the first is kept, the others are counted."""
        with self._lock:
            self._more += count if self._held else count - 1
            if not self._held:
                self._held.append(call)


class Ledger:
    """A ``Flood`` for the event loop: writes in a thread, and sees that what was counted is told."""

    def __init__(self, flood: Flood) -> None:
        self._flood = flood
        self._due: asyncio.Task[None] | None = None

    async def refused(self, call: RefusedCall) -> None:
        """Account for one."""
        if not await run_in_threadpool(self._flood.refused, call) and (self._due is None or self._due.done()):
            self._due = asyncio.create_task(self._later())

    def flush(self) -> None:
        """What is still only counted, at the end of the process."""
        self._flood.flush()

    async def _later(self) -> None:
        while self._flood.held:
            await asyncio.sleep(WINDOW_S)
            await run_in_threadpool(self._flood.flush)
