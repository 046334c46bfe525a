"""Drives rollouts: performs the effect of the phase, asks the machine, commits the answer. One transaction a step.

Durability rests on three rules. A transition, its audit row, the service's new view and the replicas' new roles commit
together, or not at all, and only while this orchestrator holds the lease (``save_rollout`` checks version and epoch).
Effects are repeated after a crash, so each is idempotent: host operations by their id and the host's fence, routing
tables by their version. Nothing is remembered in this process that the next one would need.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Protocol

from stack.audit.append import append
from stack.audit.record import AuditRecord
from stack.core.clock import Clock, stamp
from stack.core.errors import Conflict, StackError
from stack.core.names import RolloutId
from stack.rollout import tables
from stack.rollout.machine import Done, Failed, Observation, Requested, ServiceView, Transition, step
from stack.rollout.state import Phase, RolloutState
from stack.rollout.tenure import LEASE, TTL_S, Interrupted, Leadership, Over, Watch
from stack.rollout.together import Together
from stack.store.errors import StoreAway
from stack.store.rows import Lease, RolloutRow, ServiceRow
from stack.store.store import Store, Transaction

log = logging.getLogger(__name__)

REQUEST = "request"
_POLL_S = 0.1
_ASK_S = 0.5
_TICK_S = 2.0


class Context(Protocol):
    """What a performer may do besides its effect: tell people, keep evidence, and see whether to stop."""

    @property
    def epoch(self) -> int:
        """The lease's epoch, for the fence on the hosts."""

    def tell(self, kind: str, text: str, **data: Any) -> None:
        """One line of progress for people."""

    def evidence(self, kind: str, body: Mapping[str, Any]) -> None:
        """Keep evidence with the rollout."""

    def check(self) -> None:
        """Raise Interrupted when this effect should not go on."""

    def writing(self, store: Store) -> AbstractContextManager[Transaction]:
        """A transaction under the lead: Interrupted, and nothing written, once another leads."""


def stopped(context: Context) -> bool:
    """``context.check`` as a question."""
    try:
        context.check()
    except Interrupted:
        return True
    return False


class Performer(Protocol):
    """Carries out the effect of a phase and reports what it saw. Must be idempotent."""

    def perform(self, state: RolloutState, context: Context) -> Observation:
        """Errors of the tree become Failed; Interrupted is passed on."""


class Gate(Protocol):
    """Asked inside the transaction that takes a rollout over a line which policies guard."""

    def admit(self, tx: Transaction, state: RolloutState) -> str | None:
        """None: it may go on, and what allowed it is used up. Otherwise why not."""

    def refused(self, tx: Transaction, state: RolloutState, why: str) -> None:
        """It was turned away before it began: what would be done is not what was asked for."""

    def ended(self, tx: Transaction, state: RolloutState) -> None:
        """The rollout is over: what was still asked for it is asked no more, and the change is reported."""


class Finisher(Protocol):
    """Told once a rollout is over (reports, figures). May be told twice after a crash."""

    def finished(self, state: RolloutState) -> None:
        """Write what is to be kept for people."""


class Runner:
    """One rollout, from where it stands to its end, in the calling thread."""

    def __init__(
        self,
        store: Store,
        performer: Performer,
        gate: Gate,
        finisher: Finisher,
        clock: Clock,
        lead: Leadership,
        rollout: RolloutId,
    ) -> None:
        self._store = store
        self._performer = performer
        self._gate = gate
        self._finisher = finisher
        self._clock = clock
        self._lead = lead
        self._id = rollout

    def run(self) -> None:
        """Until the rollout is final or leadership is gone. Stale writes end it: somebody else has it now."""
        while not self._lead.gone.is_set():
            row = self._row()
            if row.closed:
                return
            state = RolloutState.from_json(dict(row.state))
            seen = self._request(state) or self._perform(row, state)
            if seen is not None:
                self._commit(row, state, seen)

    def _row(self) -> RolloutRow:
        with self._store.reading() as tx:
            return tx.rollout(self._id)

    def _request(self, state: RolloutState) -> Requested | None:
        with self._store.reading() as tx:
            events = tx.events(self._id, after=state.requests_seen, limit=1, kind=REQUEST)
        for event in events:
            body = event.data
            return Requested(what=body["what"], by=body["by"], reason=body.get("reason", ""), seq=event.seq)
        return None

    def _perform(self, row: RolloutRow, state: RolloutState) -> Observation | None:
        context = _RunContext(self, state)
        try:
            return self._performer.perform(state, context)
        except Interrupted:
            return None
        except StoreAway:
            raise  # says nothing about the candidate: the effect is repeated once the database is back
        except StackError as error:
            return Failed(reason=error.message)
        except Exception as error:
            # A bug must not leave traffic on an unproven candidate: go back first, then let it be seen.
            self._commit(row, state, Failed(reason=f"internal error: {type(error).__name__}: {error}"))
            raise

    def _commit(self, row: RolloutRow, before: RolloutState, seen: Observation) -> None:
        now = self._clock.now()
        with self._store.transaction() as tx:
            service = tx.service(before.service)
            view = ServiceView(
                stable=service.stable, candidate=service.candidate, lkg=service.lkg, weights=service.weights
            )
            if isinstance(seen, Done) and before.phase in (Phase.PLANNED, Phase.AWAITING):
                refusal = self._gate.admit(tx, before)
                if refusal is not None and before.phase is Phase.AWAITING:
                    return
                seen = seen if refusal is None else Failed(reason=refusal)
            elif isinstance(seen, Failed) and before.phase is Phase.PLANNED:
                self._gate.refused(tx, before, seen.reason)
            transition = step(before, view, seen)
            state = replace(transition.state, entered_at=transition.state.entered_at or stamp(now))
            moved = replace(
                row,
                phase=str(state.phase),
                state=state.to_json(),
                lease_epoch=self._lead.lease.epoch,
                updated_at=now,
                closed=state.phase.final,
            )
            tx.save_rollout(moved, expected_version=row.version, lease=self._lead.lease)
            self._write_service(tx, service, transition)
            self._write_replicas(tx, before.phase, state)
            append(tx, _record(before, transition), self._clock)
            if state.phase.final:
                self._gate.ended(tx, state)
            tx.add_event(
                self._id,
                "phase",
                _words(state, transition),
                {"from": str(before.phase), "to": str(state.phase), "weights": dict(transition.service.weights)},
            )
        if state.phase.final:
            self._finisher.finished(state)

    def _write_service(self, tx: Transaction, service: ServiceRow, transition: Transition) -> None:
        view = transition.service
        tx.put_service(
            replace(
                service,
                stable=view.stable,
                candidate=None if transition.state.phase.final else view.candidate,
                lkg=view.lkg,
                weights=dict(view.weights),
                updated_at=self._clock.now(),
            )
        )

    def _write_replicas(self, tx: Transaction, before: Phase, state: RolloutState) -> None:
        rows = tx.replicas(service=state.service)
        if state.phase is Phase.PLACING:
            for fresh in tables.placed(state, rows, self._clock.now()):
                tx.put_replica(fresh)
        for changed in tables.recast(before, state, rows):
            tx.put_replica(replace(changed, updated_at=self._clock.now()))


class _RunContext:
    """The Context of one effect of one runner."""

    def __init__(self, runner: Runner, state: RolloutState) -> None:
        self._runner = runner
        self._state = state
        self._together = Together(lambda: self.writing(runner._store))

    @property
    def epoch(self) -> int:
        return self._runner._lead.lease.epoch

    def tell(self, kind: str, text: str, **data: Any) -> None:
        self._together.write(lambda tx: tx.add_event(self._state.id, kind, text, data))

    def evidence(self, kind: str, body: Mapping[str, Any]) -> None:
        phase, kept = str(self._state.phase), dict(body)
        self._together.write(lambda tx: tx.add_evidence(self._state.id, phase, kind, kept))

    def writing(self, store: Store) -> AbstractContextManager[Transaction]:
        return self._runner._lead.writing(store)

    def check(self) -> None:
        if self._runner._lead.gone.is_set() or self._runner._request(self._state) is not None:
            raise Interrupted()


class Worker:
    """Holds the orchestrator's lease and keeps one runner thread for each open rollout."""

    def __init__(
        self,
        store: Store,
        performer: Performer,
        gate: Gate,
        finisher: Finisher,
        clock: Clock,
        *,
        holder: str,
        ttl_s: float = TTL_S,
    ) -> None:
        self._store = store
        self._performer = performer
        self._gate = gate
        self._finisher = finisher
        self._clock = clock
        self._holder = holder
        self._ttl = ttl_s
        self._watch = Watch(clock, ttl_s)
        self._stop = threading.Event()
        self._lead: Leadership | None = None
        self._runners: dict[RolloutId, threading.Thread] = {}

    def stop(self) -> None:
        """Ask it to end; ``run`` returns soon, releasing the lease."""
        self._stop.set()

    def lead(self, within_s: float = 0.0) -> Leadership | None:
        """The lead that this process has, or gets within that time; None while another one leads."""
        deadline = self._clock.monotonic() + within_s
        while True:
            lead = self._lead
            if lead is not None and not lead.gone.is_set():
                return lead
            if self._clock.monotonic() >= deadline:
                return None
            self._clock.sleep(_POLL_S)

    def run(self, on_lead: LeadHook, tick: Callable[[], None]) -> None:
        """Until stopped: acquire the lease, tell ``on_lead``, drive open rollouts; again when it was lost.

        ``tick`` is called every few seconds while leading: small convergence that must not wait for a rollout.
        """
        while not self._stop.is_set():
            over = Over(self._clock, self._ttl, self._clock.monotonic())
            lease = self._acquire()
            if lease is None:
                self._stop.wait(_ASK_S)
                continue
            self._lead = lead = Leadership(lease=lease, gone=over)
            keeper = threading.Thread(target=self._keep, args=(lead, over), name="lease", daemon=True)
            keeper.start()
            try:
                on_lead(lead)
                self._drive(lead, tick)
            except StackError as error:
                log.warning("could not take the lead yet: %s", error.message)
                self._stop.wait(1.0)
            finally:
                lead.gone.set()
                keeper.join(timeout=self._ttl)
                for thread in self._runners.values():
                    thread.join(timeout=self._ttl)
                self._runners.clear()
        self._release()

    def _acquire(self) -> Lease | None:
        try:
            with self._store.transaction() as tx:
                unmoved = self._watch.unmoved(tx.lease(LEASE))
                return tx.acquire_lease(LEASE, self._holder, self._ttl, unmoved=unmoved)
        except StackError as error:
            log.warning("could not ask for the lease yet: %s", error.message)
            return None

    def _release(self) -> None:
        try:
            with self._store.transaction() as tx:
                tx.release_holder(LEASE, self._holder)
        except StackError as error:
            log.warning("could not give the lease back, it runs out by itself: %s", error.message)

    def _keep(self, lead: Leadership, over: Over) -> None:
        """Renew until it is gone. A database that can't be asked is waited for as long as the lease lasts."""
        while not over.wait(self._ttl / 4) and not over.is_set():
            asked_at = self._clock.monotonic()
            try:
                with self._store.transaction() as tx:
                    tx.renew_lease(lead.lease, self._ttl)
                over.renewed(asked_at)
            except Conflict:
                log.warning("lost the orchestrator lease; stepping back")
                over.set()
            except StackError as error:
                log.warning("could not renew the lease yet: %s", error.message)

    def _drive(self, lead: Leadership, tick: Callable[[], None]) -> None:
        ticked = self._clock.monotonic()
        while not self._stop.wait(_POLL_S) and not lead.gone.is_set():
            try:
                self._start_runners(lead)
                if self._clock.monotonic() - ticked > _TICK_S:
                    ticked = self._clock.monotonic()
                    tick()
            except StackError as error:
                log.warning("not yet: %s", error.message)

    def _start_runners(self, lead: Leadership) -> None:
        self._runners = {i: t for i, t in self._runners.items() if t.is_alive()}
        with self._store.reading() as tx:
            waiting = [row.id for row in tx.rollouts(limit=100, open_only=True)]
        for rollout in waiting:
            if rollout not in self._runners:
                runner = Runner(self._store, self._performer, self._gate, self._finisher, self._clock, lead, rollout)
                thread = threading.Thread(target=_quietly, args=(runner,), name=f"rollout-{rollout}", daemon=True)
                self._runners[rollout] = thread
                thread.start()


class LeadHook(Protocol):
    """Called with each new leadership, before any rollout is driven: bring reality up to what is stored."""

    def __call__(self, lead: Leadership) -> None: ...


def _quietly(runner: Runner) -> None:
    """A runner that lost the lease or the row to somebody else, or can't reach the database, ends; another begins."""
    try:
        runner.run()
    except StackError as lost:
        log.warning("rollout runner ends: %s", lost.message)


def _record(before: RolloutState, transition: Transition) -> AuditRecord:
    return AuditRecord(
        actor="orchestrator",
        action=transition.action,
        target=str(before.service),
        change=before.change or str(before.id),
        result=transition.result,
        body={**transition.facts, "rollout": str(before.id), "release": str(before.release), "plan": str(before.plan)},
    )


def _words(state: RolloutState, transition: Transition) -> str:
    weights = transition.service.weights
    share = f", candidate at {weights.get('candidate', 0)} %" if state.phase in (Phase.SHIFTING, Phase.HOLDING) else ""
    reason = f": {transition.result}" if transition.result != "ok" else ""
    return f"{state.phase}{share}{reason}"
