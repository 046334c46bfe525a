"""Is a replica healthy? Three checks, all needed: it lives, it lists the release's model, it completes a prompt.

A replica too busy to answer the prompt in time is not sick while it emits tokens: `progress`, a counter of them, may
stand in for the answer, but only for lateness. A wrong or empty answer has no excuse.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from stack.core.clock import Clock, SystemClock
from stack.core.release import Release
from stack.runtimes.engine import Driver, Traits
from stack.runtimes.sanity import completion_problem, listing_problem, liveness_problem
from stack.runtimes.wire import Reply, exchange

PROBE = "Hello"
PROBE_TOKENS = 16
TIMEOUT_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Health:
    """What the three checks said; `reasons` has one entry for each that failed, `notes` what was let pass and why."""

    live: bool
    listed: bool
    answered: bool
    reasons: tuple[str, ...]
    notes: tuple[str, ...] = ()
    seconds: float

    @property
    def ok(self) -> bool:
        """All three."""
        return self.live and self.listed and self.answered

    @property
    def reason(self) -> str:
        """Why not, in one line; empty when healthy."""
        return "; ".join(self.reasons)

    def to_json(self) -> dict[str, Any]:
        """JSON scalars and lists only."""
        body = asdict(self)
        return {**body, "ok": self.ok, "reasons": list(self.reasons), "notes": list(self.notes)}


def check_health(
    base_url: str,
    driver: Driver,
    release: Release,
    *,
    clock: Clock | None = None,
    timeout_s: float = TIMEOUT_S,
    progress: Callable[[], int] | None = None,
) -> Health:
    """Ask the replica at `base_url` (without `/v1`). Never raises for what the replica does."""
    clock = clock or SystemClock()
    traits, expected = driver.traits(release.runtime.distribution), release.served_model
    started, base = clock.monotonic(), base_url.rstrip("/")
    emitted = progress() if progress else 0
    live = liveness_problem(exchange("GET", base + traits.liveness_path, clock=clock, timeout_s=timeout_s))
    listed: str | None = "not asked: it does not live"
    answered = listed
    notes: tuple[str, ...] = ()
    if live is None:
        rows = exchange("GET", base + traits.models_path, clock=clock, timeout_s=timeout_s)
        listed = listing_problem(rows, expected)
        reply = complete(base, traits, expected, clock=clock, timeout_s=timeout_s)
        answered = completion_problem(reply, expected)
        if reply.timed_out and progress and progress() > emitted:
            answered, notes = None, (f"busy, but emitting tokens: {reply.error}",)
    found = (("liveness", live), ("model list", listed), ("completion", answered))
    return Health(
        live=live is None,
        listed=listed is None,
        answered=answered is None,
        reasons=tuple(f"{name}: {problem}" for name, problem in found if problem is not None),
        notes=notes,
        seconds=clock.monotonic() - started,
    )


def complete(base: str, traits: Traits, model: str, *, clock: Clock, timeout_s: float) -> Reply:
    """One small greedy completion."""
    payload = request(traits, model, PROBE, max_tokens=PROBE_TOKENS)
    return exchange("POST", base + "/v1/chat/completions", clock=clock, timeout_s=timeout_s, payload=payload)


def request(traits: Traits, model: str, prompt: str, *, max_tokens: int) -> dict[str, Any]:
    """The body of a greedy completion; the name is left out where the engine then proves its own."""
    body: dict[str, Any] = {
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
        "seed": 1,
        "max_tokens": max_tokens,
    }
    return body if traits.names_itself else {**body, "model": model}
