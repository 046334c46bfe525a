"""What every store promises, on every database."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import timedelta

import pytest

from stack.core.clock import ManualClock
from stack.core.digest import Digest
from stack.core.errors import Conflict, InvalidInput, StackError
from stack.store import errors
from stack.store.rows import AuditRow
from stack.store.store import Store
from tests.store.conftest import Place
from tests.store.values import OTHER, RELEASE, WHEN, replica, rollout, service


def test_a_transaction_that_raises_leaves_nothing(store: Store, place: Place) -> None:
    with pytest.raises(KeyError), store.transaction() as tx:
        tx.put_release(RELEASE)
        tx.insert_rollout(rollout())
        tx.add_event("ro-aaaaaaaaaa", "phase", "begun")
        raise KeyError
    assert [place.count(t) for t in ("releases", "rollouts", "events")] == [0, 0, 0]


def test_everything_reads_back_as_written_after_reopening(store: Store, place: Place, clock: ManualClock) -> None:
    body = {"model": "tiny@1.0", "ladder": [5, 25, 100], "é": "\u2028\x00"}
    plan = Digest.of_value(body)
    with store.transaction() as tx:
        assert tx.put_release(RELEASE) == tx.put_release(RELEASE) == RELEASE.digest
        tx.put_service(service(stable=RELEASE.digest, weights={"stable": 100}))
        tx.put_replica(replica(observed_digest=RELEASE.digest))
        tx.insert_rollout(rollout(wake_at=WHEN))
        tx.put_plan(plan, body)
        tx.put_plan(plan, body)
        tx.put_table(tx.next_table_version(), {"version": 1})
    store.close()
    again = Store.open(place.url, clock)
    with again.reading() as tx:
        assert tx.release(RELEASE.digest) == RELEASE
        assert tx.services() == (service(stable=RELEASE.digest, weights={"stable": 100}),) == (tx.service("tiny"),)
        assert tx.replicas() == (replica(observed_digest=RELEASE.digest),)
        assert tx.rollout("ro-aaaaaaaaaa") == rollout(wake_at=WHEN)
        assert tx.plan(plan) == body
        assert tx.latest_table() == {"version": 1}
    again.close()


def test_what_is_not_there(store: Store) -> None:
    with store.reading() as tx:
        assert tx.plan(RELEASE.digest) is None
        assert tx.latest_table() is None
        assert tx.last_audit() is None
        assert tx.find_rollout("ro-none") is None
        assert tx.lease("orchestrator") is None
        for ask in (tx.release, tx.service, tx.rollout):
            with pytest.raises(InvalidInput):
                ask("nothing\ud800")  # type: ignore[operator]


def test_a_second_open_rollout_is_refused_with_the_first_ones_name(store: Store) -> None:
    with store.transaction() as tx:
        tx.insert_rollout(rollout())
        tx.insert_rollout(rollout("ro-bbbbbbbbbb", "another"))
    with pytest.raises(errors.RolloutOpen, match="ro-aaaaaaaaaa"), store.transaction() as tx:
        tx.insert_rollout(rollout("ro-cccccccccc"))
    with store.transaction() as tx:
        lease = tx.acquire_lease("orchestrator", "me", 60)
        assert lease
        tx.save_rollout(replace(rollout(), closed=True), expected_version=1, lease=lease)
        tx.insert_rollout(rollout("ro-cccccccccc", created_at=WHEN.replace(year=2027)))
    with store.reading() as tx:
        assert [r.id for r in tx.rollouts(10)] == ["ro-cccccccccc", "ro-bbbbbbbbbb", "ro-aaaaaaaaaa"]
        assert [r.id for r in tx.rollouts(10, service="tiny", open_only=True)] == ["ro-cccccccccc"]
        assert [r.id for r in tx.rollouts(1)] == ["ro-cccccccccc"]


def test_what_came_later_is_the_newest_though_the_clock_was_set_back(store: Store) -> None:
    names = ["ro-cccccccccc", "ro-bbbbbbbbbb", "ro-aaaaaaaaaa"]
    with store.transaction() as tx:
        lease = tx.acquire_lease("orchestrator", "me", 60)
        assert lease
        for hours, name in enumerate(names):
            made = tx.insert_rollout(rollout(name, created_at=WHEN - timedelta(hours=hours)))
            assert tx.rollout(name) == made
            tx.save_rollout(replace(made, closed=True), expected_version=1, lease=lease)
        assert [r.id for r in tx.rollouts(10, service="tiny")] == names[::-1]


def test_a_rollout_is_saved_only_from_its_latest_version_and_under_the_lease(store: Store, place: Place) -> None:
    with store.transaction() as tx:
        tx.insert_rollout(rollout())
        old = tx.acquire_lease("orchestrator", "me", 60)
        lease = tx.acquire_lease("orchestrator", "me", 60)
        assert old and lease and lease.epoch == old.epoch + 1
        saved = tx.save_rollout(replace(rollout(), phase="placing"), expected_version=1, lease=lease)
        assert (saved.version, saved.lease_epoch) == (2, lease.epoch)
    attempts = [(1, lease, errors.StaleWrite), (3, lease, errors.StaleWrite), (2, old, errors.LeaseLost)]
    for version, held, refusal in attempts:
        with pytest.raises(refusal), store.transaction() as tx:
            tx.add_event("ro-aaaaaaaaaa", "phase", "never seen")
            tx.save_rollout(replace(saved, phase="promoted"), expected_version=version, lease=held)
    place.let_pass(61)
    with pytest.raises(errors.LeaseLost), store.transaction() as tx:
        tx.save_rollout(replace(saved, phase="promoted"), expected_version=2, lease=lease)
    with store.reading() as tx:
        assert tx.rollout("ro-aaaaaaaaaa") == saved
    assert place.count("events") == 0


def test_a_closed_rollout_stays_as_it_is(store: Store) -> None:
    with store.transaction() as tx:
        tx.insert_rollout(rollout())
        lease = tx.acquire_lease("orchestrator", "me", 60)
        assert lease
        closed = tx.save_rollout(replace(rollout(), closed=True), expected_version=1, lease=lease)
    with pytest.raises(errors.RolloutClosed), store.transaction() as tx:
        tx.save_rollout(replace(closed, closed=False), expected_version=2, lease=lease)
    with pytest.raises(errors.UnknownRollout), store.transaction() as tx:
        tx.save_rollout(rollout("ro-bbbbbbbbbb"), expected_version=1, lease=lease)


def test_leases(store: Store, place: Place) -> None:
    with store.transaction() as tx:
        first = tx.acquire_lease("orchestrator", "a", 60)
        assert first and first.epoch == 1
        assert tx.acquire_lease("orchestrator", "b", 60) is None
        assert tx.acquire_lease("another", "b", 60) is not None
        renewed = tx.renew_lease(first, 120)
        assert renewed.epoch == 1 and renewed.expires_at > first.expires_at
        tx.check_lease(first)
    place.let_pass(121)
    with store.transaction() as tx:
        with pytest.raises(errors.LeaseLost):
            tx.renew_lease(first, 60)
        second = tx.acquire_lease("orchestrator", "b", 60)
        assert second and second.epoch == 2
        with pytest.raises(errors.LeaseLost):
            tx.check_lease(first)
        assert not tx.release_lease(first)
        assert tx.release_lease(second)
        third = tx.acquire_lease("orchestrator", "a", 60)
        assert third and third.epoch == 3
        assert not tx.release_holder("orchestrator", "b")
        assert tx.release_holder("orchestrator", "a")
        assert tx.acquire_lease("orchestrator", "b", 60)


def test_a_lease_that_was_seen_unrenewed_is_free_only_while_it_is_exactly_that(store: Store, place: Place) -> None:
    """The clock was set back by an hour: what is left of the lease is an hour, and its holder is dead."""
    with store.transaction() as tx:
        tx.acquire_lease("orchestrator", "a", 60)
    place.let_pass(-3600)
    with store.transaction() as tx:
        seen = tx.lease("orchestrator")
        assert seen
        assert tx.acquire_lease("orchestrator", "b", 60) is None
        for other in (replace(seen, epoch=2), replace(seen, holder="c"), replace(seen, expires_at=WHEN)):
            assert tx.acquire_lease("orchestrator", "b", 60, unmoved=other) is None
        renewed = tx.renew_lease(seen, 60)
        assert tx.acquire_lease("orchestrator", "b", 60, unmoved=seen) is None
        taken = tx.acquire_lease("orchestrator", "b", 60, unmoved=renewed)
        assert taken and taken.epoch == 2
        assert (taken.expires_at - renewed.expires_at).total_seconds() < 30


def test_replicas_and_ports(store: Store) -> None:
    with store.transaction() as tx:
        tx.put_release(RELEASE)
        for number, state in enumerate(("starting", "ready", "draining", "stopped", "failed")):
            tx.put_replica(replica(f"r{number}", 20000 + number, state=state))
        assert [r.id for r in tx.replicas(service="tiny", live_only=True)] == ["r0", "r1", "r2"]
        assert tx.replicas(service="none") == ()
        assert tx.live_ids("tiny") == {"r0", "r1", "r2"} and tx.live_ids("none") == frozenset()
        assert tx.free_port("local", 20000, 20009) == 20003
        assert tx.free_port("elsewhere", 20000, 20009) == 20000
        with pytest.raises(errors.NoPort):
            tx.free_port("local", 20000, 20002)
        tx.put_replica(replica("r3", 20003, state="ready"))
        assert tx.free_port("local", 20000, 20009) == 20004


def test_what_refers_to_nothing_is_refused(store: Store, place: Place) -> None:
    with pytest.raises(errors.BrokenReference), store.transaction() as tx:
        tx.put_service(service(stable=OTHER.digest))
    with pytest.raises(errors.BrokenReference), store.transaction() as tx:
        tx.put_replica(replica(release=OTHER.digest))
    with pytest.raises(errors.BrokenReference), store.transaction() as tx:
        tx.add_event("ro-none", "phase", "text")
    assert [place.count(t) for t in ("services", "replicas", "events")] == [0, 0, 0]


def test_table_versions_rise_and_an_older_table_is_refused(store: Store, place: Place) -> None:
    with pytest.raises(KeyError), store.transaction() as tx:
        assert tx.next_table_version() == 1
        raise KeyError
    with store.transaction() as tx:
        assert [tx.next_table_version() for _ in range(3)] == [1, 2, 3]
        tx.put_table(3, {"version": 3})
        for version in (2, 3):
            with pytest.raises(errors.OldTable):
                tx.put_table(version, {"version": version})
        for _ in range(250):
            version = tx.next_table_version()
            tx.put_table(version, {"version": version})
        assert tx.latest_table() == {"version": 253}
    assert place.count("routing_tables") == 200


def test_events_and_evidence_count_per_rollout(store: Store, clock: ManualClock) -> None:
    with store.transaction() as tx:
        tx.insert_rollout(rollout())
        tx.insert_rollout(rollout("ro-bbbbbbbbbb", "another"))
        assert [tx.add_event("ro-aaaaaaaaaa", k, f"{k}\x00\ud800", {"n": 1}) for k in "xyx"] == [1, 2, 3]
        assert tx.add_event("ro-bbbbbbbbbb", "x", "text") == 1
        assert [tx.add_evidence("ro-aaaaaaaaaa", "holding", "verdict", {"n": n}) for n in (0.5, None)] == [1, 2]
    with store.reading() as tx:
        assert [e.seq for e in tx.events("ro-aaaaaaaaaa", after=1, limit=5)] == [2, 3]
        assert [e.seq for e in tx.events("ro-aaaaaaaaaa", kind="x", limit=1)] == [1]
        first = tx.events("ro-aaaaaaaaaa")[0]
        assert (first.text, first.data, first.created_at) == ("x\ufffd?", {"n": 1}, clock.now())
        assert [e.body for e in tx.evidence("ro-aaaaaaaaaa")] == [{"n": 0.5}, {"n": None}]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, object()])
def test_what_is_no_json_is_no_evidence(store: Store, place: Place, value: object) -> None:
    with store.transaction() as tx:
        tx.insert_rollout(rollout())
    with pytest.raises(errors.NotStorable), store.transaction() as tx:
        tx.add_evidence("ro-aaaaaaaaaa", "holding", "verdict", {"value": value})
    assert place.count("evidence") == 0


def test_a_plan_under_another_plans_digest_is_refused(store: Store) -> None:
    with pytest.raises(errors.NotStorable), store.transaction() as tx:
        tx.put_plan(Digest.of_value({"a": 1}), {"a": 2})


def test_audit_rows_have_no_gaps(store: Store) -> None:
    words = dict.fromkeys(("time", "actor", "action", "target", "change", "result", "prev_hash", "hash"), "x")
    rows = [AuditRow(seq=seq, body_json="{}", **words) for seq in (1, 2, 3)]
    with store.transaction() as tx:
        for row in rows:
            tx.insert_audit(row)
        assert tx.last_audit() == rows[-1]
        assert tx.audit_rows(2, 1) == (rows[1],)
    for seq in (1, 3, 5):
        with pytest.raises(errors.AuditGap), store.transaction() as tx:
            tx.insert_audit(replace(rows[0], seq=seq))
    assert AuditRow(**rows[0].to_json()) == rows[0]


def test_a_reader_sees_one_moment(store: Store) -> None:
    with store.reading() as before:
        assert before.rollouts(10) == ()
        with store.transaction() as tx:
            tx.insert_rollout(rollout())
        assert before.rollouts(10) == ()
    with store.reading() as after:
        assert len(after.rollouts(10)) == 1


def test_threads_write_one_after_the_other(store: Store) -> None:
    def write() -> None:
        for _ in range(25):
            with store.transaction() as tx:
                tx.put_table(tx.next_table_version(), {})

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.transaction() as tx:
        assert tx.next_table_version() == 201


def test_a_transaction_inside_a_transaction_is_a_bug_that_shows(store: Store) -> None:
    with pytest.raises(RuntimeError), store.transaction(), store.transaction():
        pass
    with store.transaction() as tx:
        tx.insert_rollout(rollout())


def test_every_refusal_says_what_to_do_in_one_line() -> None:
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, StackError)]
    mine = [k for k in kinds if k.__module__ == errors.__name__]
    assert len(mine) > 15
    assert all(k.exit_code in (2, 4, 5) for k in mine)
    assert all(issubclass(k, Conflict) for k in (errors.LeaseLost, errors.StaleWrite, errors.RolloutOpen))
