"""Does a busy replica still work? A counter of the engine's own decode steps, read from its metrics.

For `check_health(progress=...)`. What can't be read counts as no step, so silence never excuses anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from stack.core.clock import Clock
from stack.core.release import Release
from stack.runtimes.engine import Driver
from stack.runtimes.wire import exchange


def heartbeat(
    base_url: str, driver: Driver, release: Release, *, clock: Clock, timeout_s: float = 2.0
) -> Callable[[], int]:
    """A function that gives the steps so far; always 0 for an engine that counts none."""
    traits = driver.traits(release.runtime.distribution)
    name, path = traits.metrics.get("steps"), traits.metrics_path

    def steps() -> int:
        if name is None or path is None:
            return 0
        reply = exchange("GET", base_url.rstrip("/") + path, clock=clock, timeout_s=timeout_s)
        return counter(reply.body.decode("utf-8", "replace"), name) if reply.status == 200 and not reply.error else 0

    return steps


def counter(text: str, name: str) -> int:
    """The value of a counter in Prometheus text, summed over its labels; 0 when it is not there, or no number."""
    values = re.findall(rf"^{re.escape(name)}(?:{{[^\n]*}})? (\d{{1,18}})(?:\.0*)?$", text, re.MULTILINE)
    return sum(int(value) for value in values)
