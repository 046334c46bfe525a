"""Clients that ask all the while, and keep what they saw."""

from __future__ import annotations

import http.client
import json
import threading
from dataclasses import dataclass, field

from running_stack import RunningStack


@dataclass
class PlainClients:
    """Threads with short non-streamed requests, as a context. ``failures`` is what a client would complain about."""

    stack: RunningStack
    threads: int = 2
    pause_s: float = 0.05
    answered: int = 0
    releases: set[str] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _running: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> PlainClients:
        for _ in range(self.threads):
            self._running.append(threading.Thread(target=self._ask_on, daemon=True))
            self._running[-1].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._running:
            thread.join(90)

    def _ask_on(self) -> None:
        while not self._stop.wait(self.pause_s):
            try:
                status, headers, body = self.stack.ask()
                problem = "" if status == 200 and body["choices"][0]["message"]["content"] else f"{status}: {body}"
            except (OSError, http.client.HTTPException, json.JSONDecodeError, KeyError, IndexError) as error:
                problem, headers = f"{type(error).__name__}: {error}", {}
            with self._lock:
                if problem:
                    self.failures.append(problem[:300])
                else:
                    self.answered += 1
                    self.releases.add(headers["x-stack-release"])
