"""Real processes: races for a lease, creation by many at once, and SIGKILL in the middle of writing."""

from __future__ import annotations

import os
import random
import signal
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from stack.audit.append import append
from stack.audit.chain import verify
from stack.audit.record import AuditRecord
from stack.core.clock import SystemClock
from stack.store.store import Store
from tests.store.conftest import Place
from tests.store.values import rollout

ROLLOUT = "ro-aaaaaaaaaa"


def in_child(task: Callable[[int], None]) -> tuple[int, int]:
    """Run ``task`` with the writing end of a pipe in a forked process; its pid and the reading end."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        code = 1
        try:
            task(writing)
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    return pid, reading


def drain(reading: int) -> bytes:
    """Everything until the other end is closed."""
    with os.fdopen(reading, "rb") as pipe:
        return pipe.read()


def test_of_many_processes_one_gets_the_lease(place: Place) -> None:
    Store.open(place.url).close()

    def contend(writing: int) -> None:
        store = Store.open(place.url)
        with store.transaction() as tx:
            lease = tx.acquire_lease("orchestrator", f"process-{os.getpid()}", 600)
        os.write(writing, b"+" if lease else b"-")

    for turn in range(1, 4):
        children = [in_child(contend) for _ in range(5)]
        said = b"".join(drain(reading) for _, reading in children)
        assert [os.waitpid(pid, 0)[1] for pid, _ in children] == [0] * 5
        assert sorted(said) == sorted(b"+----")
        place.let_pass(601)
        store = Store.open(place.url)
        with store.reading() as tx:
            lease = tx.lease("orchestrator")
        store.close()
        assert lease is not None and lease.epoch == turn


def test_many_processes_create_one_database(place: Place) -> None:
    def create(writing: int) -> None:
        store = Store.open(place.url)
        with store.transaction() as tx:
            tx.next_table_version()
        os.write(writing, b"+")

    children = [in_child(create) for _ in range(6)]
    said = b"".join(drain(reading) for _, reading in children)
    assert [os.waitpid(pid, 0)[1] for pid, _ in children] == [0] * 6
    assert said == b"+" * 6
    assert place.count("schema_version") == 1


def test_what_is_read_gates_what_is_written(place: Place) -> None:
    """Each appends after the last row it read: no two processes may have read the same one."""
    Store.open(place.url).close()

    def work(writing: int) -> None:
        store = Store.open(place.url)
        said = AuditRecord(actor=str(os.getpid()), action="step", target="tiny", change="", result="ok")
        for _ in range(10):
            with store.transaction() as tx:
                append(tx, said, SystemClock())
        os.write(writing, b"+")

    children = [in_child(work) for _ in range(4)]
    said = b"".join(drain(reading) for _, reading in children)
    assert [os.waitpid(pid, 0)[1] for pid, _ in children] == [0] * 4
    store = Store.open(place.url)
    with store.reading() as tx:
        report = verify(tx.audit_rows())
    store.close()
    assert (said, report.ok, report.count) == (b"++++", True, 40)


def write_for_ever(store: Store, writing: int) -> None:
    """Transactions of several statements; the number of each is told only after its commit."""
    clock = SystemClock()
    while True:
        with store.transaction() as tx:
            lease = tx.acquire_lease("orchestrator", "writer", 600)
            assert lease
            row = tx.rollout(ROLLOUT)
            tx.add_event(ROLLOUT, "phase", f"version {row.version + 1}")
            tx.save_rollout(row, expected_version=row.version, lease=lease)
            tx.add_evidence(ROLLOUT, "holding", "bulk", {"filling": "x" * random.randrange(20_000)})
            said = AuditRecord(actor="writer", action="step", target="tiny", change=ROLLOUT, result="ok")
            append(tx, said, clock)
        os.write(writing, struct.pack("<q", row.version + 1))


def assert_whole(store: Store) -> int:
    """Every transaction is there whole or not at all; the number of those that are there."""
    with store.reading() as tx:
        version = tx.rollout(ROLLOUT).version
        lease = tx.lease("orchestrator")
        events, evidence = tx.events(ROLLOUT, limit=100_000), tx.evidence(ROLLOUT)
        audit = tx.audit_rows(limit=100_000)
    done = version - 1
    assert [e.seq for e in events] == [e.id for e in evidence] == [a.seq for a in audit] == list(range(1, done + 1))
    assert (lease.epoch if lease else 0) == done
    assert verify(audit).ok or not done
    assert store.check() == "ok"
    return done


@pytest.mark.faults
def test_killed_writers_leave_whole_transactions_only(place: Place) -> None:
    store = Store.open(place.url)
    with store.transaction() as tx:
        tx.insert_rollout(rollout())
    store.close()
    told = 0
    for _ in range(20):
        pid, reading = in_child(lambda writing: write_for_ever(Store.open(place.url), writing))
        with os.fdopen(reading, "rb") as pipe:
            acknowledged = pipe.read(8 * random.randint(1, 4))
            SystemClock().sleep(random.random() * 0.01)
            os.kill(pid, signal.SIGKILL)
            acknowledged += pipe.read()
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL
        (last,) = struct.unpack("<q", acknowledged[-8:])
        after = Store.open(place.url)
        done = assert_whole(after)
        after.close()
        assert done in (last - 1, last), "committed and told, or committed and killed before it could tell"
        told += len(acknowledged) // 8
    print(f"20 kills, {told} transactions acknowledged, {done} whole, 0 lost, 0 half-written")


@pytest.mark.faults
def test_a_torn_log_loses_the_end_only(tmp_path: Path) -> None:
    """Power loss: the write-ahead log is cut anywhere. What is left is a prefix of the transactions."""
    source = tmp_path / "source.db"
    store = Store.open(source)
    with store.transaction() as tx:
        tx.insert_rollout(rollout())
    pid, reading = in_child(lambda writing: write_for_ever(Store.open(source), writing))
    with os.fdopen(reading, "rb") as pipe:
        pipe.read(8 * 12)
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    log = source.with_name("source.db-wal").read_bytes()
    found = []
    for number, cut in enumerate(sorted(random.Random(1).sample(range(len(log)), 30))):
        copy = tmp_path / f"{number}.db"
        copy.write_bytes(source.read_bytes())
        copy.with_name(copy.name + "-wal").write_bytes(log[:cut])
        torn = Store.open(copy)
        with torn.reading() as tx:
            begun = tx.find_rollout(ROLLOUT) is not None
        found.append(assert_whole(torn) if begun else -1)
        torn.close()
    store.close()
    assert found == sorted(found)
    assert found[-1] > found[0]
