"""What was measured is kept, on every database: read back as written, the most of a replica, the newest of a kind."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from stack.core.digest import Digest
from stack.core.names import HostName, ReplicaId
from stack.store.errors import StoreCorrupt
from stack.store.loads import LoadRow
from stack.store.store import Store
from tests.store.values import OTHER, RELEASE, WHEN

ROW = LoadRow(
    replica=ReplicaId("tiny-a-local-0"),
    release=RELEASE.digest,
    host=HostName("local"),
    runtime="llamacpp/xllamacpp",
    lock=RELEASE.runtime.lock,
    artifact=RELEASE.artifact,
    launch={"context": 1024, "parallel": 4, "threads": 1},
    memory="main",
    weights_bytes=1 << 40,
    kv_bytes=1 << 41,
    slots=4,
    predicted_bytes=1 << 43,
    measured_bytes=1 << 42,
    measured_at=WHEN,
)


def test_a_load_reads_back_as_written(store: Store) -> None:
    other = replace(ROW, replica=ReplicaId("tiny-b-local-0"), runtime="vllm/vllm", memory="accelerator")
    with store.transaction() as tx:
        tx.put_load(ROW)
        tx.put_load(other)
    with store.reading() as tx:
        assert tx.loads("llamacpp/xllamacpp") == (ROW,)
        assert (tx.load(ROW.replica), tx.load(other.replica), tx.load("nobody")) == (ROW, other, None)
        assert tx.loads("llamacpp") == ()


def test_of_a_replica_the_most_that_it_took_counts(store: Store) -> None:
    less = replace(ROW, measured_bytes=1, measured_at=WHEN + timedelta(hours=1))
    with store.transaction() as tx:
        tx.put_load(ROW)
        tx.put_load(less)
        assert tx.load(ROW.replica) == replace(less, measured_bytes=ROW.measured_bytes)
        tx.put_load(replace(less, release=OTHER.digest))
        assert tx.load(ROW.replica) == replace(less, release=OTHER.digest)


def test_of_one_configuration_the_newest_stay_and_others_are_left_alone(store: Store) -> None:
    rows = [replace(ROW, replica=ReplicaId(f"r-{n:02}"), measured_at=WHEN + timedelta(hours=n)) for n in range(25)]
    alone = replace(ROW, replica=ReplicaId("alone"), lock=Digest.of(b"another"))
    with store.transaction() as tx:
        tx.put_load(alone)
        for row in rows:
            tx.put_load(row)
    with store.reading() as tx:
        assert {row.replica for row in tx.loads(ROW.runtime)} == {row.replica for row in (*rows[5:], alone)}
        assert tx.loads(ROW.runtime, limit=2) == (rows[24], rows[23])


def test_a_word_that_nobody_wrote_is_refused() -> None:
    body = {name: getattr(ROW, name) for name in ROW.__dataclass_fields__}
    stored = {**body, "lock_digest": ROW.lock, "launch": "{}", "measured_at": "2026-03-04T05:06:07.890123Z"}
    assert LoadRow.from_row(stored).measured_at == WHEN
    with pytest.raises(StoreCorrupt):
        LoadRow.from_row({**stored, "memory": "disk"})
