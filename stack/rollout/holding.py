"""Holds a rung until the evidence decides: watches the gateway's samples while eval replay supplies traffic.

The rung begins anew after a restart of the orchestrator or of the gateway, so a bake is never cut short and no figure
of an earlier process is mixed in. A breach is acted on at the next look, a fifth of a second later,
not when the replay ends.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

from stack.config.stack_yaml import ServiceSettings
from stack.core.clock import Clock
from stack.core.errors import StackError
from stack.core.names import ServiceName
from stack.evals.absolute import absolute
from stack.evals.compare import compare
from stack.evals.comparison import Comparison
from stack.evals.load import load_suite
from stack.evals.run import run_suite
from stack.evals.samples import EvalRun
from stack.evals.stats import clopper_pearson, quantile_interval
from stack.gateway.control import GatewayControl
from stack.gateway.errors import GatewayUnavailable
from stack.rollout.evidence import Window, extended, opened
from stack.rollout.gates import GatewayAccess, progress_teller, quality_thresholds, reason_of
from stack.rollout.machine import Failed, Judged, Observation
from stack.rollout.state import RolloutState, Verdict
from stack.rollout.verdict import Judgement, Limits, Quality, judge
from stack.rollout.worker import Context
from stack.store.store import Store

_LOOK_S = 0.2
_BLIND_S = 15.0
_GROWTH = 1.25


class Replay:
    """Eval replay through both slices of the gateway, side by side, in threads of its own, pass after pass.

    ``quality`` is the latest finished pass's; None until one has finished. A pass that failed to run is no evidence.
    """

    def __init__(
        self, settings: ServiceSettings, access: GatewayAccess, clock: Clock, context: Context, *, paired: bool
    ):
        self._settings, self._access, self._clock, self._context = settings, access, clock, context
        self._paired = paired
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._passes, name="replay", daemon=True)
        self._error: str | None = None
        self.quality: Quality | None = None
        self.comparison: Comparison | None = None

    def __enter__(self) -> Replay:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=30)

    @property
    def error(self) -> str | None:
        """Why replay can't go on, if it can't."""
        return self._error

    def _passes(self) -> None:
        try:
            while not self._stop.is_set():
                self._one_pass()
        except StackError as error:
            self._error = error.message

    def _one_pass(self) -> None:
        runs: dict[str, EvalRun] = {}
        slices = ("candidate", "stable") if self._paired else ("candidate",)
        threads = [threading.Thread(target=self._side, args=(name, runs), daemon=True) for name in slices]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._stop.is_set():
            return
        if set(runs) != set(slices):
            raise StackError("the replay could not be run")
        thresholds = quality_thresholds(self._settings)
        mine = runs["candidate"]
        comparison = compare(runs["stable"], mine, thresholds) if self._paired else absolute(mine, thresholds)
        self.comparison = comparison
        self.quality = Quality(outcome=str(comparison.outcome), reason=reason_of(comparison))

    def _side(self, name: str, runs: dict[str, EvalRun]) -> None:
        try:
            runs[name] = run_suite(
                load_suite(self._settings.suites.evaluation),
                self._access.endpoint(self._settings.name, name),
                concurrency=2 if self._paired else 4,
                clock=self._clock,
                progress=progress_teller(self._context, f"replay on {name}") if name == "candidate" else _silent,
                stop=self._stop.is_set,
            )
        except StackError as error:
            self._error = error.message


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
        paired = state.stable is not None
        if settings.rollout.replay == "off":
            return self._watch(state, context, limits, None)
        with Replay(settings, self.access, self.clock, context, paired=paired) as replay:
            return self._watch(state, context, limits, replay)

    def _watch(self, state: RolloutState, context: Context, limits: Limits, replay: Replay | None) -> Observation:
        window = opened(self.control.samples())
        began = seen_at = self.clock.monotonic()
        look, looked_at, judged_quality = 0, 0, None
        while True:
            context.check()
            self.clock.sleep(_LOOK_S)
            now = self.clock.monotonic()
            further = self._read(window, state)
            if further is None:
                if now - seen_at > _BLIND_S:
                    return Failed(reason=f"blind: the gateway gave no samples for {_BLIND_S:g} s")
                continue
            seen_at = now
            if further.boot_id != window.boot_id:
                context.tell("evidence", "the gateway restarted: this rung begins anew")
                window, began, look, looked_at = further, now, 0, 0
                continue
            window = further
            quality = replay.quality if replay else None
            count = window.of("candidate").requests
            over = now - began >= limits.max_seconds
            if not over and count < max(5, looked_at * _GROWTH) and quality is judged_quality:
                continue
            look, looked_at, judged_quality = look + 1, count, quality
            judgement = self._judge(window, state, quality, limits, now - began, look)
            if judgement.final:
                return self._decided(state, context, judgement, replay)

    def _read(self, window: Window, state: RolloutState) -> Window | None:
        try:
            samples = self.control.samples(since=window.cursor)
        except GatewayUnavailable:
            return None
        with self.store.reading() as tx:
            replicas = [r.id for r in tx.replicas(service=state.service, live_only=True)]
        return extended(window, samples, replicas) or opened(samples)

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


def _silent(done: int, total: int, failed: int) -> None:
    return None
