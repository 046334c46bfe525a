"""The gates that prompts decide: smoke, the paired eval before any traffic, and smoke on what serves afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from stack.config.stack_yaml import ServiceSettings
from stack.core.clock import Clock
from stack.core.errors import Refused
from stack.core.names import HostName, ServiceName
from stack.evals.absolute import absolute
from stack.evals.compare import compare
from stack.evals.comparison import Comparison, Outcome, QualityThresholds
from stack.evals.endpoint import Endpoint
from stack.evals.load import load_suite
from stack.evals.run import run_suite
from stack.evals.samples import EvalRun
from stack.fleet.values import Host
from stack.rollout.abreast import ASKED, per_host, side_by_side
from stack.rollout.machine import Done, Failed, Judged, Observation
from stack.rollout.state import Placement, RolloutState, Verdict
from stack.rollout.worker import Context, stopped
from stack.store.store import Store

_HOPELESS = 20


@dataclass(frozen=True, kw_only=True)
class GatewayAccess:
    """How the orchestrator itself asks through the gateway: base URL ending in /v1, and its probe key (may pin)."""

    base_url: str
    key: str

    def endpoint(self, service: str, slice_name: str, timeout_s: float) -> Endpoint:
        """One slice of a service, pinned: an answer of any other slice would be no evidence."""
        headers = {"authorization": f"Bearer {self.key}", "x-stack-slice": slice_name}
        return Endpoint(base_url=self.base_url, model=service, headers=headers, timeout_s=timeout_s)


@dataclass(frozen=True, kw_only=True)
class Gates:
    """Runs suites and turns their outcome into observations."""

    store: Store
    services: Mapping[ServiceName, ServiceSettings]
    access: GatewayAccess
    inventory: Mapping[HostName, Host]
    clock: Clock

    def smoke(self, state: RolloutState, context: Context) -> Observation:
        """Every smoke prompt on every new replica must pass, and there must be at least one."""
        problems: list[str] = []

        def smoke_on(places: tuple[Placement, ...]) -> None:
            problems.extend(text for place in places if (text := self._smoke_one(state, place, context)))

        side_by_side(smoke_on, per_host(state.placements), width=ASKED)
        if problems:
            return Failed(reason="; ".join(sorted(problems)))
        return Done() if state.placements else Failed(reason="smoke: there is no replica to ask")

    def _smoke_one(self, state: RolloutState, place: Placement, context: Context) -> str | None:
        run = self._run(self._smoke(state), self._direct(state, place), context, "smoke")
        context.evidence("smoke", {"replica": place.replica, **run.to_json()})
        problem = _problem(run)
        if problem:
            return f"smoke on {place.replica}: {problem}"
        context.tell("evidence", f"smoke on {place.replica}: {len(run.samples)} of {len(run.samples)} passed")
        return None

    def confirm(self, state: RolloutState, context: Context) -> Observation:
        """Smoke through the gateway on what serves now. Nothing serves after a failed first release: nothing to ask."""
        with self.store.reading() as tx:
            service = tx.service(state.service)
        if service.stable is None:
            return Done()
        stable = self.access.endpoint(state.service, "stable", answer_timeout(self.services[state.service]))
        run = self._run(self._smoke(state), stable, context, "smoke on stable")
        context.evidence("smoke-stable", run.to_json())
        problem = _problem(run)
        if problem:
            return Failed(reason=problem)
        context.tell("evidence", f"smoke on stable through the gateway: {len(run.samples)} passed")
        return Done()

    def measure(self, state: RolloutState, context: Context) -> Observation:
        """How well stable does, while it still serves: what a release is compared with that takes its place."""
        baseline = self._baseline(state, context)
        if not baseline.samples or not baseline.complete:
            return Failed(reason="the eval of stable is not complete, so nothing could be compared with it")
        return Done()

    def _baseline(self, state: RolloutState, context: Context) -> EvalRun:
        settings = self.services[state.service]
        stable = self.access.endpoint(state.service, "stable", answer_timeout(settings))
        baseline = self._run(settings.suites.evaluation, stable, context, "eval on stable")
        context.evidence("eval-stable", baseline.to_json())
        return baseline

    def _measured(self, state: RolloutState) -> EvalRun:
        """What ``measure`` kept, in this rollout."""
        with self.store.reading() as tx:
            made = [e.body for e in tx.evidence(state.id) if e.kind == "eval-stable"]
        if not made:
            raise Refused("how well stable does was not measured before it ended")
        return EvalRun.from_json(dict(made[-1]))

    def evaluate(self, state: RolloutState, context: Context) -> Observation:
        """The eval suite on the candidate, paired with stable (or against the floor), before any client sees it."""
        settings = self.services[state.service]
        place = state.placements[0]
        candidate = self._run(settings.suites.evaluation, self._direct(state, place), context, "eval on candidate")
        thresholds = quality_thresholds(settings)
        if state.stable is None:
            comparison = absolute(candidate, thresholds)
        else:
            baseline = self._measured(state) if state.swap else self._baseline(state, context)
            comparison = compare(baseline, candidate, thresholds)
        context.evidence("eval-candidate", candidate.to_json())
        context.evidence("comparison", comparison.to_json())
        context.tell("evidence", f"eval: {comparison.outcome}: {reason_of(comparison)}")
        verdict = {Outcome.PASS: Verdict.PROMOTE, Outcome.WORSE: Verdict.ROLLBACK}.get(
            comparison.outcome, Verdict.INCONCLUSIVE
        )
        return Judged(verdict=verdict, reason=f"eval before traffic: {reason_of(comparison)}")

    def _smoke(self, state: RolloutState) -> Path:
        return self.services[state.service].suites.smoke

    def _direct(self, state: RolloutState, place: Placement) -> Endpoint:
        with self.store.reading() as tx:
            name = tx.release(state.release).served_model
        base = f"http://{self.inventory[place.host].address}:{place.port}/v1"
        limit = answer_timeout(self.services[state.service])
        return Endpoint(base_url=base, model=name, expected_model=name, timeout_s=limit)

    def _run(self, suite: Path, endpoint: Endpoint, context: Context, what: str) -> EvalRun:
        hopeless = Hopeless(progress_teller(context, what))
        run = run_suite(
            load_suite(suite),
            endpoint,
            concurrency=4,
            clock=self.clock,
            progress=hopeless.saw,
            stop=lambda: hopeless.sure or stopped(context),
        )
        context.check()
        if hopeless.sure:
            first = run.failed[0]
            raise Refused(f"{what}: the first {hopeless.done} prompts all failed, e.g. {first.test_id}: {first.reason}")
        return run


class Hopeless:
    """Watches a run's progress for the case that nothing works at all: waiting out the timeouts proves no more."""

    def __init__(self, tell: Callable[[int, int, int], None]) -> None:
        self._tell = tell
        self.done = 0
        self.sure = False

    def saw(self, done: int, total: int, failed: int) -> None:
        """A prompt was answered, or not."""
        self.done = done
        self.sure = self.sure or (done >= _HOPELESS and failed == done)
        self._tell(done, total, failed)


def answer_timeout(settings: ServiceSettings) -> float:
    """How long to wait for one answer, in seconds: twice what a good release may take is no answer."""
    return 2 * settings.rollout.thresholds.max_latency_p95_s


def progress_teller(context: Context, what: str) -> Callable[[int, int, int], None]:
    """Tells at each fifth of the way, and of short suites only the end."""

    def tell(done: int, total: int, failed: int) -> None:
        if total and (done == total or (total > 40 and done % (total // 5) == 0)):
            context.tell("progress", f"{what}: {done} of {total}, {failed} failed", done=done, total=total)

    return tell


def quality_thresholds(settings: ServiceSettings) -> QualityThresholds:
    """From the stack file's rollout settings."""
    limits = settings.rollout.thresholds
    return QualityThresholds(
        max_drop=limits.max_quality_drop, min_pass_rate=limits.min_pass_rate, alpha=1.0 - limits.confidence
    )


def reason_of(comparison: Comparison) -> str:
    """The comparison's reasons in one line, with the first failing cases."""
    return "; ".join(comparison.reasons)


def _problem(run: EvalRun) -> str | None:
    """Why a smoke run is no pass; None when every prompt passed."""
    if not run.samples:
        return "no prompt was asked"
    failed = run.failed
    if not failed:
        return None if run.complete else "the run is not complete"
    first = failed[0]
    return f"{len(failed)} of {len(run.samples)} prompts failed, first {first.test_id}: {first.reason}"
