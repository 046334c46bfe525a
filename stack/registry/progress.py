"""How far a registration, verification or scrub is: values handed to a callback, from one thread at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Progress:
    """``file`` is being worked on; ``done_bytes`` of ``total_bytes`` of the whole job are done."""

    file: str
    done_bytes: int
    total_bytes: int


ProgressCallback = Callable[[Progress], None]


class Tally:
    """Adds up the bytes of several workers. The callback may raise to stop the job."""

    def __init__(self, total_bytes: int, callback: ProgressCallback | None) -> None:
        self._total = total_bytes
        self._callback = callback
        self._done = 0
        self._lock = threading.Lock()

    def add(self, file: str, count: int) -> None:
        """``count`` more bytes of ``file`` are done."""
        if self._callback is None:
            return
        with self._lock:
            self._done = min(self._done + count, self._total)  # bytes done twice don't count twice
            self._callback(Progress(file=file, done_bytes=self._done, total_bytes=self._total))
