"""Reads the gateway's books as time goes by, and finds afterwards when they first proved a breach."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Any

from bench.stage import BenchFailed
from stack.evals.stats import clopper_pearson, quantile_interval
from stack.gateway.control import GatewayControl
from stack.rollout.evidence import Window, extended, opened
from stack.rollout.verdict import Limits, breached

EVERY_S = 0.02


class Books:
    """A context: from its begin to its end the books are read every 20 ms. The window begins with it."""

    def __init__(self, control: GatewayControl) -> None:
        self._control = control
        self._over = threading.Event()
        self._readings: list[tuple[float, dict[str, Any]]] = []
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Books:
        self._begin = opened(self._control.samples())
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(timeout=30)

    def first_bad(self, replica: str, slow_s: float) -> float:
        """When the books first showed an answer of ``replica`` that failed or took longer than ``slow_s``."""
        for at, window in self._windows(replica):
            seen = window.of("candidate")
            if seen.errors or any(s > slow_s for s in seen.latencies):
                return at
        raise BenchFailed("the books show no bad answer")

    def first_proof(self, replica: str, limits: Limits) -> float | None:
        """When they first proved a breach to the product's own ``breached``; None if they never did."""
        for at, window in self._windows(replica):
            candidate = window.of("candidate")
            if breached(candidate, limits, look=1, rate_interval=clopper_pearson, quantile_interval=quantile_interval):
                return at
        return None

    def _windows(self, replica: str) -> Iterable[tuple[float, Window]]:
        window = self._begin
        for at, samples in self._readings:
            further = extended(window, samples, [replica], 60.0)
            if further is None:
                raise BenchFailed("the gateway restarted")
            window = further
            yield at, window

    def _read(self) -> None:
        cursor = self._begin.cursor
        while not self._over.wait(EVERY_S):
            samples = self._control.samples(since=cursor)
            cursor = int(samples["cursor"])
            self._readings.append((time.clock_gettime(time.CLOCK_REALTIME), samples))
