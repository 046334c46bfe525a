"""Copying a store into another: every row of every table, order and collation aside, or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from stack.store.copying import TABLES, CopyDiffers, Heap, copy_rows, counts
from stack.store.schema import metadata
from stack.store.store import Store
from tests.store.conftest import Place
from tests.store.values import RELEASE, WHEN, replica, rollout


def filled(path: Path) -> Store:
    """A row in every table that rollouts use; texts that sort differently elsewhere."""
    store = Store.open(path)
    with store.transaction() as tx:
        tx.put_release(RELEASE)
        for number, name in enumerate(("ro-b", "ro-a", "ro-1", "ro-a_b", "ro-a.b")):
            tx.insert_rollout(rollout(name, service=f"s{number}", closed=True))
            tx.add_event(name, "progress", f"ünïcode 🦙 {number}", {"x": [1.5, None, "é"]})
            tx.add_evidence(name, "holding", "verdict", {"rate": 0.1 + 0.2})
        tx.put_replica(replica())
        tx.put_table(tx.next_table_version(), {"services": []})
        tx.acquire_lease("orchestrator", "a", 60)
        tx.raise_alert("X-1", "info", "t", "s", {}, WHEN)
    return store


def test_every_table_of_the_schema_is_copied() -> None:
    assert {t.name for t in TABLES} == set(metadata.tables) - {"schema_version"}


def test_all_of_it_arrives(place: Place, tmp_path: Path) -> None:
    source, target = filled(tmp_path / "from.db"), Store.open(place.url)
    said: list[str] = []
    with source.reading() as old, target.transaction() as new:
        copied = copy_rows(old, new, said.append)
        assert copied == counts(old) == counts(new)
        assert old.lease("orchestrator") == new.lease("orchestrator")
        assert old.events("ro-a.b") == new.events("ro-a.b") and old.rollouts(10) == new.rollouts(10)
    assert copied["rollouts"] == 5 and len(said) == len(TABLES)
    source.close()
    target.close()


@pytest.mark.parametrize("change", ["UPDATE events SET text = 'x' WHERE seq = 1", "DELETE FROM evidence"])
def test_what_differs_on_arrival_is_not_kept(place: Place, tmp_path: Path, change: str, monkeypatch: object) -> None:
    source, target = filled(tmp_path / "from.db"), Store.open(place.url)
    import stack.store.copying as copying

    real = copying._heap

    def damaged(tx: object, table: object) -> Heap:
        if getattr(table, "name", "") == change.split()[1 if change.startswith("UPDATE") else 2]:
            tx._connection.execute(text(change))  # type: ignore[attr-defined]
        return real(tx, table)  # type: ignore[arg-type]

    monkeypatch.setattr(copying, "_heap", damaged)  # type: ignore[attr-defined]
    with pytest.raises(CopyDiffers), source.reading() as old, target.transaction() as new:
        copy_rows(old, new, lambda _: None)
    with target.reading() as tx:
        assert sum(counts(tx).values()) == 0
    source.close()
    target.close()


@given(st.lists(st.tuples(st.integers(), st.sampled_from(["a", "b", None])), max_size=8))
def test_a_heap_knows_no_order_and_misses_nothing(pairs: list[tuple[int, str | None]]) -> None:
    def heap(of: list[tuple[int, str | None]]) -> Heap:
        found = Heap()
        for number, word in of:
            found = found.with_row({"number": number, "word": word})
        return found

    assert heap(pairs) == heap(pairs[::-1])
    if pairs:
        assert heap(pairs) != heap(pairs[1:])
        assert heap(pairs) != heap([(pairs[0][0] + 1, pairs[0][1]), *pairs[1:]])
