"""The gates that prompts decide: smoke, the paired eval before any traffic, and smoke on what serves afterwards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from stack.config.stack_yaml import ServiceSettings
from stack.core.clock import Clock
from stack.core.digest import Digest
from stack.core.names import HostName, ServiceName
from stack.evals.absolute import absolute
from stack.evals.compare import compare
from stack.evals.comparison import Comparison, Outcome, QualityThresholds
from stack.evals.endpoint import Endpoint
from stack.evals.load import load_suite
from stack.evals.run import run_suite
from stack.evals.samples import EvalRun
from stack.fleet.values import Host
from stack.rollout.machine import Done, Failed, Judged, Observation
from stack.rollout.state import RolloutState, Verdict
from stack.rollout.worker import Context, Interrupted
from stack.store.store import Store


@dataclass(frozen=True, kw_only=True)
class GatewayAccess:
    """How the orchestrator itself asks through the gateway: base URL ending in /v1, and its probe key (may pin)."""

    base_url: str
    key: str

    def endpoint(self, service: str, slice_name: str) -> Endpoint:
        """One slice of a service, pinned: an answer of any other slice would be no evidence."""
        headers = {"authorization": f"Bearer {self.key}", "x-stack-slice": slice_name}
        return Endpoint(base_url=self.base_url, model=service, headers=headers)


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
        for place in state.placements:
            run = self._run(self._smoke(state), self._direct(state.release, place.host, place.port), context, "smoke")
            context.evidence("smoke", {"replica": place.replica, **run.to_json()})
            problem = _problem(run)
            if problem:
                return Failed(reason=f"smoke on {place.replica}: {problem}")
            context.tell("evidence", f"smoke on {place.replica}: {len(run.samples)} of {len(run.samples)} passed")
        return Done() if state.placements else Failed(reason="smoke: there is no replica to ask")

    def confirm(self, state: RolloutState, context: Context) -> Observation:
        """Smoke through the gateway on what serves now. Nothing serves after a failed first release: nothing to ask."""
        with self.store.reading() as tx:
            service = tx.service(state.service)
        if service.stable is None:
            return Done()
        run = self._run(self._smoke(state), self.access.endpoint(state.service, "stable"), context, "smoke on stable")
        context.evidence("smoke-stable", run.to_json())
        problem = _problem(run)
        if problem:
            return Failed(reason=problem)
        context.tell("evidence", f"smoke on stable through the gateway: {len(run.samples)} passed")
        return Done()

    def evaluate(self, state: RolloutState, context: Context) -> Observation:
        """The eval suite on the candidate, paired with stable (or against the floor), before any client sees it."""
        settings = self.services[state.service]
        place = state.placements[0]
        mine = self._direct(state.release, place.host, place.port)
        candidate = self._run(settings.suites.evaluation, mine, context, "eval on candidate")
        thresholds = quality_thresholds(settings)
        if state.stable is None:
            comparison = absolute(candidate, thresholds)
        else:
            theirs = self._stable_endpoint(state)
            baseline = self._run(settings.suites.evaluation, theirs, context, "eval on stable")
            context.evidence("eval-stable", baseline.to_json())
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

    def _direct(self, release: Digest, host: HostName, port: int) -> Endpoint:
        with self.store.reading() as tx:
            name = tx.release(release).served_model
        base = f"http://{self.inventory[host].address}:{port}/v1"
        return Endpoint(base_url=base, model=name, expected_model=name)

    def _stable_endpoint(self, state: RolloutState) -> Endpoint:
        return self.access.endpoint(state.service, "stable")

    def _run(self, suite: Path, endpoint: Endpoint, context: Context, what: str) -> EvalRun:
        run = run_suite(
            load_suite(suite),
            endpoint,
            concurrency=4,
            clock=self.clock,
            progress=progress_teller(context, what),
            stop=stopper(context),
        )
        context.check()
        return run


def stopper(context: Context) -> Callable[[], bool]:
    """``context.check`` as a question."""

    def stop() -> bool:
        try:
            context.check()
        except Interrupted:
            return True
        return False

    return stop


def progress_teller(context: Context, what: str) -> Callable[[int, int, int], None]:
    """Tells at each fifth of the way."""

    def tell(done: int, total: int, failed: int) -> None:
        if total and (done == total or done % max(1, total // 5) == 0):
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
