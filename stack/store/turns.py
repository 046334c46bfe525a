"""A lock whose waiters get it in the order in which they asked.

Python's own hands it to whoever is running: a thread that writes again and again would keep it from one that must renew
a lease.
"""

from __future__ import annotations

import threading
from collections import deque


class Turns:
    """As ``threading.Lock``, without surprises about who is next."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._held = False

    def acquire(self, timeout: float) -> bool:
        """True once it is ours; False after ``timeout`` seconds without it."""
        with self._guard:
            if not self._held:
                self._held = True
                return True
            mine = threading.Lock()
            mine.acquire()
            self._waiting.append(mine)
        if mine.acquire(timeout=timeout):
            return True
        with self._guard:
            if mine in self._waiting:
                self._waiting.remove(mine)
                return False
        return True  # it was handed over in the last moment

    def release(self) -> None:
        """The one that has waited longest is next."""
        with self._guard:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._held = False
