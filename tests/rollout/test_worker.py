"""The worker over a real store: one transaction a step, whatever dies in between."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stack.audit.chain import verify
from stack.core.clock import SystemClock
from stack.core.digest import Digest
from stack.core.errors import StackError, Unavailable
from stack.core.names import HostName, ReplicaId, RolloutId, ServiceName
from stack.core.release import Launch, Release, RuntimeVersion
from stack.rollout.machine import Done, Judged, Observation
from stack.rollout.reconcile import Reconciler
from stack.rollout.state import Phase, Placement, RolloutState, Verdict
from stack.rollout.worker import LEASE, REQUEST, Context, Interrupted, Leadership, Runner, Worker
from stack.store.rows import RolloutRow, ServiceRow
from stack.store.store import Store, Transaction

CLOCK = SystemClock()
LOCK = Digest.of(b"lock")


def release(model: str) -> Release:
    runtime = RuntimeVersion(engine="llamacpp", distribution="xllamacpp", version="1", lock=LOCK)
    artifact = Digest.of(model.encode())
    return Release(
        service="tiny", model=model, artifact=artifact, artifact_format="gguf", runtime=runtime, launch=Launch()
    )


OLD, NEW = release("tiny@1.0"), release("tiny@1.1")


class Killed(BaseException):
    """Stands for SIGKILL: nothing after it runs."""


class Script:
    """A performer that succeeds, or does as told for a phase; remembers every operation that took effect."""

    def __init__(self, **special: object) -> None:
        self.special = special
        self.performed: list[str] = []
        self.done: list[str] = []

    def perform(self, state: RolloutState, context: Context) -> Observation:
        self.performed.append(str(state.phase))
        act = self.special.get(str(state.phase))
        if isinstance(act, BaseException):
            raise act
        if callable(act):
            return act(state, context)  # type: ignore[no-any-return]
        operation = str(state.operation(str(state.phase)))
        if operation not in self.done:
            self.done.append(operation)
        while state.phase is Phase.PAUSED:
            context.check()
            CLOCK.sleep(0.02)
        if state.phase in (Phase.EVALUATING, Phase.HOLDING):
            return Judged(verdict=Verdict.PROMOTE, reason="shown")
        place = Placement(replica=ReplicaId(f"tiny-{state.id}"), host=HostName("local"), port=20001)
        return Done(placements=(place,)) if state.phase is Phase.PREFLIGHT else Done()


class Open:
    """A gate that lets everybody pass; or not, and says so."""

    def __init__(self, refusal: str | None = None) -> None:
        self.refusal = refusal
        self.over: list[str] = []

    def admit(self, tx: Transaction, state: RolloutState) -> str | None:
        return self.refusal

    def refused(self, tx: Transaction, state: RolloutState, why: str) -> None:
        self.over.append(why)

    def ended(self, tx: Transaction, state: RolloutState) -> None:
        self.over.append(str(state.id))


class Nobody:
    def finished(self, state: RolloutState) -> None:
        return None


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "state.db", CLOCK)
    yield opened
    opened.close()


def begin(store: Store, name: str = "ro-a") -> RolloutId:
    now = CLOCK.now()
    state = RolloutState(
        id=RolloutId(name),
        service=ServiceName("tiny"),
        kind="deploy",
        plan=Digest.of(b"plan"),
        release=NEW.digest,
        stable=OLD.digest,
        lkg=None,
        ladder=(5, 100),
    )
    with store.transaction() as tx:
        tx.put_release(OLD)
        tx.put_release(NEW)
        tx.put_service(ServiceRow(name=state.service, stable=OLD.digest, weights={"stable": 100}, updated_at=now))
        tx.insert_rollout(
            RolloutRow(
                id=state.id,
                service=state.service,
                kind="deploy",
                phase="planned",
                state=state.to_json(),
                created_at=now,
                updated_at=now,
            )
        )
    return state.id


def lead(store: Store, holder: str = "a") -> Leadership:
    with store.transaction() as tx:
        lease = tx.acquire_lease(LEASE, holder, 60)
    assert lease is not None
    return Leadership(lease=lease, gone=threading.Event())


def run(store: Store, script: Script, rollout: RolloutId, leadership: Leadership | None = None) -> None:
    Runner(store, script, Open(), Nobody(), CLOCK, leadership or lead(store), rollout).run()


def outcome(store: Store, rollout: RolloutId) -> tuple[str, str | None, str | None, dict[str, int]]:
    with store.reading() as tx:
        service = tx.service("tiny")
        return tx.rollout(rollout).phase, service.stable, service.candidate, dict(service.weights)


def audit_is_whole(store: Store, rollout: RolloutId) -> int:
    with store.reading() as tx:
        rows = tx.audit_rows(1, 10_000)
        moves = [e for e in tx.events(rollout, limit=10_000) if e.kind == "phase"]
    assert verify(rows).ok
    assert len(rows) == len(moves), "every transition has its audit row, and no row stands for nothing"
    return len(rows)


def test_a_rollout_is_driven_to_its_end_and_replicas_change_roles_with_it(store: Store) -> None:
    rollout = begin(store)
    run(store, Script(), rollout)
    assert outcome(store, rollout) == ("promoted", NEW.digest, None, {"stable": 100})
    with store.reading() as tx:
        assert [(r.slice, r.state) for r in tx.replicas()] == [("stable", "ready")]
    assert audit_is_whole(store, rollout) > 8


def test_an_error_of_the_tree_takes_it_back_and_says_why(store: Store) -> None:
    rollout = begin(store)
    run(store, Script(placing=Unavailable("no disk left on local")), rollout)
    assert outcome(store, rollout) == ("rolled_back", OLD.digest, None, {"stable": 100})
    with store.reading() as tx:
        assert "no disk left" in tx.rollout(rollout).state["reason"]
        assert [(r.slice, r.state) for r in tx.replicas()] == [("retired", "stopped")]


def test_a_bug_takes_traffic_back_before_it_is_seen(store: Store) -> None:
    rollout = begin(store)
    leadership = lead(store)
    with pytest.raises(ZeroDivisionError):
        run(store, Script(holding=ZeroDivisionError("bug")), rollout, leadership)
    assert outcome(store, rollout)[3] == {"stable": 100}
    run(store, Script(), rollout, leadership)
    assert outcome(store, rollout)[0] == "rolled_back"


def test_killed_anywhere_any_number_of_times_it_ends_with_nothing_twice(store: Store) -> None:
    rng = random.Random(11)
    killed = 0
    for number in range(30):
        name = f"ro-{number}"
        rollout = begin(store, name)
        script = Script()
        while outcome(store, rollout)[0] != "promoted":
            fuse = rng.randrange(1, 9)

            def perform(state: RolloutState, context: Context, script: Script = script) -> Observation:
                nonlocal fuse, killed
                fuse -= 1
                seen = script.perform(state, context)
                if fuse == 0:
                    killed += 1
                    raise Killed
                return seen

            dying = Script()
            dying.perform = perform  # type: ignore[method-assign]
            try:
                run(store, dying, rollout, lead(store, "again"))
            except Killed:
                continue
        assert len(script.done) == len(set(script.done))
        assert outcome(store, rollout)[1:] == (NEW.digest, None, {"stable": 100})
    assert killed > 60
    with store.reading() as tx:
        assert verify(tx.audit_rows(1, 100_000)).ok


def test_who_lost_the_lease_writes_nothing_more(store: Store) -> None:
    rollout = begin(store)
    old = lead(store, "old")

    def overtaken(state: RolloutState, context: Context) -> Observation:
        with store.transaction() as tx:
            tx.release_holder(LEASE, "old")
        lead(store, "new")
        return Done()

    with pytest.raises(StackError) as refused:
        run(store, Script(warming=overtaken), rollout, old)
    assert refused.value.code == "LeaseLost"
    assert outcome(store, rollout)[0] == "warming"
    run(store, Script(), rollout, lead(store, "new"))
    assert outcome(store, rollout)[0] == "promoted"


def test_requests_are_heard_once_and_interrupt_the_effect(store: Store) -> None:
    rollout = begin(store)

    def ask(state: RolloutState, context: Context) -> Observation:
        with store.transaction() as tx:
            tx.add_event(rollout, REQUEST, "abort", {"what": "abort", "by": "ann", "reason": "enough"})
        context.check()
        raise AssertionError("not interrupted")

    script = Script(holding=ask)
    run(store, script, rollout)
    assert outcome(store, rollout) == ("rolled_back", OLD.digest, None, {"stable": 100})
    with store.reading() as tx:
        assert "aborted by ann: enough" in tx.rollout(rollout).state["reason"]


def test_silence_pauses_until_somebody_says_resume(store: Store) -> None:
    rollout = begin(store)
    answers = iter([Verdict.INCONCLUSIVE, Verdict.PROMOTE, Verdict.PROMOTE])
    script = Script(holding=lambda state, context: Judged(verdict=next(answers), reason="?"))
    worker = Worker(store, script, Open(), Nobody(), CLOCK, holder="w")
    thread = threading.Thread(target=worker.run, args=(lambda lead: None, lambda: None))
    thread.start()
    try:
        assert reached(store, rollout, "paused")
        with store.transaction() as tx:
            tx.add_event(rollout, REQUEST, "resume", {"what": "resume", "by": "ann"})
        assert reached(store, rollout, "promoted")
    finally:
        worker.stop()
        thread.join(30)
    with store.reading() as tx:
        lease = tx.lease(LEASE)
    assert lease is not None and lease.expires_at < CLOCK.now(), "the lease was given back"


def test_a_take_over_that_fails_is_tried_again(store: Store) -> None:
    rollout = begin(store)
    failures = iter([Unavailable("the disk is full")])

    def on_lead(lead: Leadership) -> None:
        for failure in failures:
            raise failure

    worker = Worker(store, Script(), Open(), Nobody(), CLOCK, holder="w")
    thread = threading.Thread(target=worker.run, args=(on_lead, lambda: None))
    thread.start()
    try:
        assert reached(store, rollout, "promoted")
    finally:
        worker.stop()
        thread.join(30)


def test_a_stable_release_without_a_replica_is_not_in_order(store: Store) -> None:
    begin(store)
    routes: Any = SimpleNamespace(converge=lambda: False)
    nothing: Any = None
    reconciler = Reconciler(store=store, hosts=nothing, routes=routes, authority=nothing, inventory={}, clock=CLOCK)
    assert reconciler.restore("tiny", lambda: None) == ("it has none",)


def reached(store: Store, rollout: RolloutId, phase: str) -> bool:
    for _ in range(600):
        if outcome(store, rollout)[0] == phase:
            return True
        CLOCK.sleep(0.05)
    return False


def test_interrupted_effects_are_begun_again(store: Store) -> None:
    rollout = begin(store)
    once = iter([Interrupted()])

    def flaky(state: RolloutState, context: Context) -> Observation:
        for interruption in once:
            raise interruption
        return Done()

    script = Script(smoking=flaky)
    run(store, script, rollout)
    assert script.performed.count("smoking") == 2
    assert outcome(store, rollout)[0] == "promoted"
