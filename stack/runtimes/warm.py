"""Waits until a replica is ready, and warms it with real completions whose times are evidence.

Ready means healthy by all three checks, so a port that merely answers is not ready. A warm-up that fails at any
prompt length is a refusal: the replica gets no traffic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from stack.core.clock import Clock
from stack.core.errors import Refused
from stack.core.release import Release
from stack.runtimes.engine import Driver, Traits
from stack.runtimes.health import TIMEOUT_S, Health, check_health, request
from stack.runtimes.sanity import Streamed, read_stream
from stack.runtimes.wire import exchange

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 1.0
ANSWER_TOKENS = 16
_INSTRUCTION = "Hello"


class NeverReady(Refused):
    """{model} did not become ready within {seconds} s: {detail}."""

    hint = "Read the replica's engine.log on its host; nothing was routed to it."


class WarmUpFailed(Refused):
    """The warm-up of {model} failed at about {tokens} prompt tokens: {detail}."""

    hint = (
        "The replica answers, but not soundly; nothing was routed to it. Compare the artifact's digest and the context."
    )


@dataclass(frozen=True, kw_only=True)
class WarmStep:
    """One prompt length: the first answer (cold) and the next (warm), in seconds to the first text."""

    target_tokens: int
    prompt_tokens: int | None
    cold_ttft_s: float
    warm_ttft_s: float
    cold_total_s: float
    warm_total_s: float


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """The evidence: one step for each prompt length, shortest first."""

    model: str
    steps: tuple[WarmStep, ...]
    seconds: float

    @property
    def cold_ttft_s(self) -> float:
        """The very first text this replica gave."""
        return self.steps[0].cold_ttft_s

    @property
    def warm_ttft_s(self) -> float:
        """The slowest first text once warm."""
        return max(step.warm_ttft_s for step in self.steps)

    @property
    def summary(self) -> str:
        """One line for people."""
        lengths = "/".join(str(step.target_tokens) for step in self.steps)
        return f"first text cold {self.cold_ttft_s:.3f} s, warm {self.warm_ttft_s:.3f} s ({lengths} prompt tokens)"

    def to_json(self) -> dict[str, Any]:
        """JSON scalars and lists only."""
        return {
            "model": self.model,
            "steps": [asdict(step) for step in self.steps],
            "cold_ttft_s": self.cold_ttft_s,
            "warm_ttft_s": self.warm_ttft_s,
            "seconds": self.seconds,
        }


def wait_ready(
    base_url: str,
    driver: Driver,
    release: Release,
    *,
    deadline_s: float,
    clock: Clock,
    still_alive: Callable[[], bool] | None = None,
) -> Health:
    """The first healthy answer; raises `NeverReady` with the last reason when time or the process ends."""
    began, pause = clock.monotonic(), FIRST_PAUSE_S
    reason = "it was never asked"
    while (left := deadline_s - (clock.monotonic() - began)) > 0:
        health = check_health(base_url, driver, release, clock=clock, timeout_s=min(TIMEOUT_S, max(left, 0.1)))
        if health.ok:
            return health
        reason = health.reason
        if still_alive is not None and not still_alive():
            raise NeverReady(f"its process has ended; last: {reason}", **_facts(release, deadline_s))
        clock.sleep(min(pause, max(left, 0.0)))
        pause = min(2 * pause, LONGEST_PAUSE_S)
    raise NeverReady(reason, **_facts(release, deadline_s))


def warm_up(
    base_url: str,
    driver: Driver,
    release: Release,
    *,
    clock: Clock,
    timeout_s: float,
    lengths: Sequence[int] | None = None,
) -> WarmUp:
    """Stream real completions at several prompt lengths, each twice; raises `WarmUpFailed`. `timeout_s` is for all."""
    began = clock.monotonic()
    traits = driver.traits(release.runtime.distribution)
    steps = []
    for tokens in lengths or default_lengths(release.launch.context):
        times = []
        for variant in (0, 1):
            left = timeout_s - (clock.monotonic() - began)
            streamed = _ask(base_url, traits, release, prompt_of(tokens, variant), clock, left)
            if streamed.problem is not None:
                raise WarmUpFailed(streamed.problem, model=release.served_model, tokens=tokens)
            times.append(streamed)
        steps.append(_step(tokens, times[0], times[1]))
    return WarmUp(model=release.served_model, steps=tuple(steps), seconds=clock.monotonic() - began)


def default_lengths(context: int) -> tuple[int, ...]:
    """About 8, 64, and half of the context, as far as they fit, each once."""
    return tuple(sorted({max(1, min(tokens, context // 2)) for tokens in (8, 64, context // 2)}))


def prompt_of(tokens: int, variant: int) -> str:
    """A prompt of at most `tokens` tokens in any tokenizer (one for each character), at least a third of that."""
    filler = f"{1 + variant} {3 + variant} "
    room = max(0, tokens - len(_INSTRUCTION))
    return (filler * (room // len(filler) + 1))[:room] + _INSTRUCTION


def _ask(base_url: str, traits: Traits, release: Release, prompt: str, clock: Clock, left: float) -> Streamed:
    if left <= 0:
        return Streamed(problem="the time for the whole warm-up is over")
    payload = {**request(traits, release.served_model, prompt, max_tokens=ANSWER_TOKENS), "stream": True}
    if traits.streams_usage:
        payload["stream_options"] = {"include_usage": True}
    url = base_url.rstrip("/") + "/v1/chat/completions"
    return read_stream(exchange("POST", url, clock=clock, timeout_s=left, payload=payload), release.served_model)


def _step(tokens: int, cold: Streamed, warm: Streamed) -> WarmStep:
    return WarmStep(
        target_tokens=tokens,
        prompt_tokens=warm.prompt_tokens,
        cold_ttft_s=cold.ttft_s or 0.0,
        warm_ttft_s=warm.ttft_s or 0.0,
        cold_total_s=cold.total_s or 0.0,
        warm_total_s=warm.total_s or 0.0,
    )


def _facts(release: Release, seconds: float) -> dict[str, Any]:
    return {"model": release.served_model, "seconds": f"{seconds:g}"}
