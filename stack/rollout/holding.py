"""Holds a rung until the evidence decides: watches the gateway's samples while eval replay supplies traffic.

The rung begins anew after a restart of the orchestrator or of the gateway, so a bake is never cut short and no figure
of an earlier process is mixed in. A breach is acted on a fifth of a second later, also between the looks that an
all-clear needs, and not when the replay ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from stack.config.stack_yaml import ServiceSettings
from stack.core.clock import Clock
from stack.core.names import ServiceName
from stack.evals.comparison import Comparison
from stack.evals.stats import clopper_pearson, quantile_interval
from stack.gateway.control import GatewayControl
from stack.gateway.errors import GatewayUnavailable
from stack.gateway.health import THRESHOLD
from stack.rollout.evidence import Window, extended, opened
from stack.rollout.gates import GatewayAccess, reason_of
from stack.rollout.machine import Failed, Judged, Observation
from stack.rollout.replay import Replay
from stack.rollout.state import RolloutState, Verdict
from stack.rollout.verdict import Judgement, Limits, Observed, Quality, breached, judge
from stack.rollout.worker import Context
from stack.store.store import Store

_LOOK_S = 0.2
_BLIND_S = 15.0
_GROWTH = 1.25
_FIRST = 5


@dataclass(frozen=True, kw_only=True)
class Glance:
    """What there is to look at: requests, the replay's quality, whether the least and the longest time are over."""

    requests: int = 0
    quality: Quality | None = None
    ripe: bool = False
    over: bool = False


def worth_a_look(last: Glance, now: Glance) -> bool:
    """Whether to spend a look (each costs confidence): a quarter more requests, another quality, or a time is over."""
    grown = now.requests >= max(_FIRST, last.requests * _GROWTH)
    return now.over or grown or now.quality is not last.quality or now.ripe is not last.ripe


def in_doubt(before: Observed, now: Observed) -> bool:
    """Whether the candidate has just failed so often that the gateway asks it last: then only the replay, which is
    pinned to it, still brings evidence, and soon."""
    return now.errors - before.errors >= THRESHOLD


@dataclass(frozen=True, kw_only=True)
class Holding:
    """The effect of HOLDING."""

    store: Store
    services: Mapping[ServiceName, ServiceSettings]
    access: GatewayAccess
    control: GatewayControl
    clock: Clock

    def hold(self, state: RolloutState, context: Context) -> Observation:
        """Judged, once the evidence of this rung decides or its time is over."""
        settings = self.services[state.service]
        limits = limits_of(settings)
        paired = state.stable is not None and state.swap is None
        if settings.rollout.replay == "off":
            return self._watch(state, context, limits, None)
        with Replay(settings, self.access, self.clock, context, paired=paired) as replay:
            return self._watch(state, context, limits, replay)

    def _watch(self, state: RolloutState, context: Context, limits: Limits, replay: Replay | None) -> Observation:
        window = opened(self.control.attempts())
        began = seen_at = self.clock.monotonic()
        look, last, doubted = 0, Glance(), Observed()
        known = None if replay else self._before_traffic(state)
        while True:
            context.check()
            self.clock.sleep(_LOOK_S)
            now = self.clock.monotonic()
            quality = replay.quality if replay else known  # before the samples: they prove that the gateway was there
            further = self._read(window, state, limits)
            if further is None:
                if now - seen_at > _BLIND_S:
                    return Failed(reason=f"blind: the gateway gave no samples for {_BLIND_S:g} s")
                continue
            seen_at = now
            if further.boot_id != window.boot_id:
                context.tell("evidence", "the gateway restarted: this rung begins anew")
                window, began, look, last, doubted = further, now, 0, Glance(), Observed()
                if replay:
                    replay.forget()
                continue
            window = further
            glance = Glance(
                requests=window.of("candidate").requests,
                quality=quality,
                ripe=now - began >= limits.min_seconds,
                over=now - began >= limits.max_seconds,
            )
            if not worth_a_look(last, glance):
                breach = self._breached(window, limits, max(look, 1))
                if breach:
                    return self._decided(state, context, breach, replay)
                if replay and in_doubt(doubted, window.of("candidate")):
                    doubted = window.of("candidate")
                    replay.again()
                continue
            last, look = glance, look + 1
            judgement = self._judge(window, state, quality, limits, now - began, look)
            if judgement.final:
                return self._decided(state, context, judgement, replay)
            if replay and quality and glance.ripe:
                replay.again()

    def _before_traffic(self, state: RolloutState) -> Quality | None:
        """Without replay, the eval that this rollout made before any traffic is what there is to say of quality."""
        with self.store.reading() as tx:
            made = [e.body for e in tx.evidence(state.id) if e.kind == "comparison"]
        if not made:
            return None
        latest = Comparison.from_json(dict(made[-1]))
        return Quality(outcome=str(latest.outcome), reason=f"before traffic: {reason_of(latest)}")

    def _read(self, window: Window, state: RolloutState, limits: Limits) -> Window | None:
        try:
            samples = self.control.attempts(since=window.cursor)
        except GatewayUnavailable:
            return None
        with self.store.reading() as tx:
            replicas = tx.live_ids(state.service)
        return extended(window, samples, replicas, limits.max_latency_p95_s) or opened(samples)

    def _judge(
        self,
        window: Window,
        state: RolloutState,
        quality: Quality | None,
        limits: Limits,
        elapsed: float,
        look: int,
    ) -> Judgement:
        return judge(
            window.of("candidate"),
            window.of("stable") if state.stable else None,
            quality,
            limits,
            elapsed=elapsed,
            look=look,
            rate_interval=clopper_pearson,
            quantile_interval=quantile_interval,
        )

    def _breached(self, window: Window, limits: Limits, look: int) -> Judgement | None:
        return breached(
            window.of("candidate"),
            limits,
            look=look,
            rate_interval=clopper_pearson,
            quantile_interval=quantile_interval,
        )

    def _decided(
        self, state: RolloutState, context: Context, judgement: Judgement, replay: Replay | None
    ) -> Observation:
        reason = judgement.reason
        if judgement.verdict is Verdict.INCONCLUSIVE and replay and replay.error:
            reason += f"; replay: {replay.error}"
        body = {"percent": state.percent, **judgement.to_json()}
        if replay and replay.comparison:
            body["comparison"] = replay.comparison.to_json()
        context.evidence("verdict", body)
        context.tell("verdict", f"{judgement.verdict} at {state.percent} %: {reason}", percent=state.percent)
        return Judged(verdict=judgement.verdict, reason=f"at {state.percent} %: {reason}")


def limits_of(settings: ServiceSettings) -> Limits:
    """From the stack file's rollout settings."""
    hold, shown = settings.rollout.hold, settings.rollout.thresholds
    return Limits(
        min_requests=hold.min_requests,
        min_seconds=hold.min_seconds,
        max_seconds=hold.max_seconds,
        max_error_rate=shown.max_error_rate,
        max_latency_p95_s=shown.max_latency_p95_s,
        max_ttft_p95_s=shown.max_ttft_p95_s,
        max_latency_ratio=shown.max_latency_ratio,
        confidence=shown.confidence,
    )
