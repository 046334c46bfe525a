"""Watches a candidate that already has traffic while the rollout waits for people: a breach must not wait with it.

Only the gateway's samples of clients' requests are looked at; silence says nothing here, for nothing is decided by it.
The figures begin anew every ten minutes, so that a good night does not hide a bad morning.
"""

from __future__ import annotations

from stack.config.stack_yaml import ServiceSettings
from stack.core.clock import Clock
from stack.evals.stats import clopper_pearson, quantile_interval
from stack.gateway.control import GatewayControl
from stack.gateway.errors import GatewayUnavailable
from stack.rollout.evidence import Window, extended, opened
from stack.rollout.holding import limits_of
from stack.rollout.state import RolloutState
from stack.rollout.verdict import breached
from stack.store.store import Store

_WINDOW_S = 600.0


class Sentry:
    """For one wait of one rollout."""

    def __init__(self, store: Store, control: GatewayControl, settings: ServiceSettings, clock: Clock) -> None:
        self._store = store
        self._control = control
        self._limits = limits_of(settings)
        self._clock = clock
        self._window: Window | None = None
        self._began = 0.0

    def look(self, state: RolloutState) -> str | None:
        """Why the candidate must go back now; None while nothing says so."""
        if not state.exposed:
            return None
        try:
            samples = self._control.attempts(since=self._window.cursor if self._window else 0)
        except GatewayUnavailable:
            return None
        with self._store.reading() as tx:
            replicas = tx.live_ids(state.service)
        now = self._clock.monotonic()
        further = extended(self._window, samples, replicas, self._limits.max_latency_p95_s) if self._window else None
        if further is None or now - self._began > _WINDOW_S:
            self._window, self._began = opened(samples), now
            return None
        self._window = further
        judgement = breached(
            further.of("candidate"),
            self._limits,
            look=1,
            rate_interval=clopper_pearson,
            quantile_interval=quantile_interval,
        )
        return f"at {state.percent} %, while it waited: {judgement.reason}" if judgement else None
