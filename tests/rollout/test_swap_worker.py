"""A swap over a real store, killed anywhere: each effect once, replicas in their roles, the audit log whole."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_worker import CLOCK, NEW, OLD, Killed, Script, audit_is_whole, begin, lead, outcome, run

from stack.core.names import HostName, ReplicaId, ServiceName
from stack.rollout.machine import Done, Observation
from stack.rollout.pause import waits
from stack.rollout.state import Phase, Placement, RolloutState, Swap
from stack.rollout.worker import Context
from stack.store.rows import ReplicaRow
from stack.store.store import Store

OLD_PLACE = Placement(replica=ReplicaId("tiny-old"), host=HostName("local"), port=20000)
NEW_PLACE = Placement(replica=ReplicaId("tiny-new"), host=HostName("local"), port=20001)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(tmp_path / "state.db", CLOCK)
    yield opened
    opened.close()


def served_by_old(store: Store) -> None:
    row = ReplicaRow(
        id=OLD_PLACE.replica, service=ServiceName("tiny"), release=OLD.digest, host=OLD_PLACE.host,
        port=OLD_PLACE.port, state="ready", slice="stable", updated_at=CLOCK.now(),
    )  # fmt: skip
    with store.transaction() as tx:
        tx.put_replica(row)


def chosen(state: RolloutState, context: Context) -> Observation:
    return Done(placements=(NEW_PLACE,), swap=Swap(ends=(OLD_PLACE,), predicted_s=5.0, longest_s=30.0))


@pytest.mark.parametrize(("fails", "end"), [("", "promoted"), ("starting", "rolled_back"), ("holding", "rolled_back")])
@pytest.mark.parametrize("seed", range(4))
def test_killed_anywhere_it_ends_with_nothing_twice(store: Store, fails: str, end: str, seed: int) -> None:
    rng = random.Random(seed)
    rollout = begin(store)
    served_by_old(store)
    script = Script(preflight=chosen)
    killed = 0
    while outcome(store, rollout)[0] != end:
        fuse = rng.randrange(1, 5)

        def perform(state: RolloutState, context: Context) -> Observation:
            nonlocal fuse, killed
            fuse -= 1
            looked_after(store, state)
            seen = script.perform(state, context)
            if fuse == 0:
                killed += 1
                raise Killed
            if state.phase == fails:
                raise ZeroDivisionError
            return seen

        dying = Script()
        dying.perform = perform  # type: ignore[method-assign]
        try:
            run(store, dying, rollout, lead(store, "again"))
        except (Killed, ZeroDivisionError):
            continue
    assert killed > 2
    assert len(script.done) == len(set(script.done))
    assert outcome(store, rollout)[1:] == ((NEW if end == "promoted" else OLD).digest, None, {"stable": 100})
    with store.reading() as tx:
        rows = {str(r.id): (r.slice, r.state) for r in tx.replicas()}
    assert rows == (
        {"tiny-old": ("lkg", "stopped"), "tiny-new": ("stable", "ready")}
        if end == "promoted"
        else {"tiny-old": ("stable", "ready"), "tiny-new": ("retired", "stopped")}
    )
    audit_is_whole(store, rollout)


def looked_after(store: Store, state: RolloutState) -> None:
    """While nobody serves, nobody is routed to or revived, no port is given away, and requests wait."""
    with store.reading() as tx:
        old = tx.replica(OLD_PLACE.replica)
    assert old is not None
    swapped = (Phase.PROMOTING, Phase.RETIRING)
    began = state.swap is not None and (state.swap.began or state.phase in (Phase.QUEUEING, Phase.RESTORING))
    if state.phase in swapped:
        assert old.state == "stopped"
    elif not began or state.phase in (Phase.REVERTING, Phase.CONFIRMING, Phase.CLEANING):
        assert old.state == "ready"
    else:
        assert old.state == "draining" and old.live
        assert bool(waits([state])) is (state.phase not in (Phase.HOLDING,))
