"""Checkpoints are signed in time, of what was checked, and reach every sink that comes back."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from stack.app.records import RecordsDesk
from stack.audit.append import append
from stack.audit.checkpointer import ALERT, SIGNING, Checkpointer, LogRewritten
from stack.audit.exported import kept_elsewhere
from stack.audit.keys import signer_of
from stack.audit.note import Checkpoint, open_checkpoint
from stack.audit.record import AuditRecord
from stack.audit.sinks import Delivery, FileSink, SinkFailed
from stack.core.clock import ManualClock
from stack.store.store import Store
from tests.audit.logs import KEY, SIGNER, fill, split


@dataclass
class Shelf:
    """A sink that fails as told."""

    name: str = "shelf"
    off_host: bool = True
    broken: bool = False
    kept: list[int] = field(default_factory=list)
    tries: int = 0

    def deliver(self, delivery: Delivery) -> None:
        self.tries += 1
        if self.broken:
            raise SinkFailed("it is broken", sink=self.name)
        assert open_checkpoint(delivery.note, KEY) == delivery.checkpoint
        self.kept.append(delivery.checkpoint.size)


@dataclass
class Place:
    """A store, its clock, and a sink."""

    store: Store
    clock: ManualClock
    shelf: Shelf
    path: Path

    def checkpointer(self, *more: FileSink, every_s: float = 60, every_records: int = 10) -> Checkpointer:
        sinks = (self.shelf, *more)
        return Checkpointer(
            self.store, SIGNER, sinks, self.clock, every_s=every_s, every_records=every_records, poll_s=0.01
        )


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """An empty log."""
    clock = ManualClock()
    store = Store.open(tmp_path / "state.db", clock)
    yield Place(store, clock, Shelf(), tmp_path)
    store.close()


def fill_at_once(place: Place, count: int) -> None:
    """Records, without time passing for the checkpointer."""
    fill(place.store, count, ManualClock())


def test_it_signs_by_number_and_by_time(place: Place) -> None:
    signing = place.checkpointer()
    signing.tick()
    assert place.shelf.kept == []
    fill_at_once(place, 3)
    signing.tick()
    place.clock.advance(59)
    signing.tick()
    assert place.shelf.kept == []
    place.clock.advance(1)
    signing.tick()
    assert place.shelf.kept == [3]
    place.clock.advance(1000)
    signing.tick()
    assert place.shelf.kept == [3], "nothing new, nothing signed"
    fill_at_once(place, 10)
    signing.tick()
    assert place.shelf.kept == [3, 13]


def test_a_sink_that_fails_is_told_and_gets_the_newest_later(place: Place) -> None:
    other = FileSink("file", place.path / "kept.log", place.path)
    signing = place.checkpointer(other)
    place.shelf.broken = True
    for _ in range(3):
        fill_at_once(place, 10)
        signing.tick()
    assert place.shelf.tries == 1, "it waits before it tries again"
    head = RecordsDesk(place.store, KEY, (place.shelf, other)).head()
    assert [(s["sink"], s["size"], bool(s["error"])) for s in head["sinks"]] == [
        ("shelf", 0, True),
        ("file", 30, False),
    ]
    for _ in range(20):
        place.clock.advance(61)
        signing.tick()
    place.shelf.broken = False
    place.clock.advance(61)
    signing.tick()
    assert place.shelf.kept == [30]
    head = RecordsDesk(place.store, KEY, (place.shelf, other)).head()
    assert not any(s["error"] for s in head["sinks"])
    assert sorted(kept_elsewhere(split((place.path / "kept.log").read_bytes()), KEY)) == [10, 20, 30]


def test_what_a_crash_left_undelivered_goes_out(place: Place) -> None:
    fill_at_once(place, 4)
    Checkpointer(place.store, SIGNER, (), place.clock).sign()
    place.checkpointer().tick()
    assert place.shelf.kept == [4]


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE audit SET actor = 'nobody' WHERE seq = 6",
        "DELETE FROM audit WHERE seq = 6",
        "UPDATE audit_nodes SET hash = replace(hash, substr(hash, 1, 1), 'x') WHERE level = 0 AND position = 5",
        "UPDATE audit_nodes SET hash = (SELECT hash FROM audit_nodes WHERE level = 0 AND position = 1) "
        "WHERE level = 2 AND position = 0",
        "UPDATE checkpoints SET root = (SELECT hash FROM audit_nodes WHERE level = 0 AND position = 1)",
        "DELETE FROM audit_nodes WHERE position >= 3 AND level = 0",
    ],
)
def test_nothing_altered_is_signed(place: Place, damage: str) -> None:
    signing = place.checkpointer()
    fill_at_once(place, 4)
    signing.tick(now=True)
    fill_at_once(place, 4)
    raw = sqlite3.connect(place.path / "state.db")
    for trigger in raw.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        raw.execute(f"DROP TRIGGER {trigger[0]}")
    raw.execute(damage)
    raw.commit()
    raw.close()
    signing.tick(now=True)
    with place.store.reading() as tx:
        newest = tx.checkpoint()
        assert newest is not None and newest[0] == 4
        assert tx.deliveries()[SIGNING][1], "status says why"
        assert [(alert.code, alert.severity) for alert in tx.alerts(open_only=True, limit=9)] == [(ALERT, "critical")]
    assert place.shelf.kept == [4]


def test_a_witness_that_contradicts_is_an_alert(place: Place) -> None:
    other = FileSink("file", place.path / "kept.log", place.path)
    (place.path / "kept.log").write_text(SIGNER.sign(Checkpoint(origin=KEY.name, size=3, root=bytes(32)).text))
    fill_at_once(place, 5)
    place.checkpointer(other).tick(now=True)
    with place.store.reading() as tx:
        assert [(alert.code, alert.subject) for alert in tx.alerts(open_only=True, limit=9)] == [(ALERT, "file")]
        assert tx.deliveries()["file"][0] == 0 and place.shelf.kept == [5]


def test_a_shorter_log_is_not_signed(place: Place) -> None:
    fill_at_once(place, 4)
    with place.store.transaction() as tx:
        tx.insert_checkpoint(9, "00" * 32, "note")
    with pytest.raises(LogRewritten):
        place.checkpointer().sign()


def test_the_thread(place: Place) -> None:
    """Starts, signs, signs what is left when it stops; a store that fails does not end it."""
    signing = place.checkpointer(every_records=1)
    delivered = threading.Event()
    deliver = place.shelf.deliver

    def told(delivery: Delivery) -> None:
        deliver(delivery)
        delivered.set()

    place.shelf.deliver = told  # type: ignore[method-assign]
    signing.start()
    fill_at_once(place, 2)
    assert delivered.wait(30)
    fill_at_once(place, 1)
    signing.stop()
    assert place.shelf.kept[-1] == 3


def test_a_second_key_signs_nothing_and_says_so(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "state.db", ManualClock())
    with store.transaction() as tx:
        append(tx, AuditRecord(actor="a", action="x.y", target="t", change="", result="ok"), ManualClock())
    Checkpointer(store, signer_of(b"1" * 32), (), ManualClock()).tick(now=True)
    with store.transaction() as tx:
        append(tx, AuditRecord(actor="a", action="x.y", target="t", change="", result="ok"), ManualClock())
    Checkpointer(store, signer_of(b"2" * 32), (), ManualClock()).tick(now=True)
    with store.reading() as tx:
        assert tx.checkpoint() is not None
        assert [size for size, _, _ in tx.checkpoints()] == [1]
        assert "another key" in tx.deliveries()["signing"][1]
        assert [alert.code for alert in tx.alerts()] == ["AUDIT-01"]
    Checkpointer(store, signer_of(b"1" * 32), (), ManualClock()).tick(now=True)
    with store.reading() as tx:
        assert [size for size, _, _ in tx.checkpoints()] == [1, 2]
    store.close()


@dataclass
class Stuck:
    """A sink that hangs until it is let go."""

    name: str = "stuck"
    off_host: bool = True
    free: threading.Event = field(default_factory=threading.Event)
    kept: list[int] = field(default_factory=list)
    tries: int = 0

    def deliver(self, delivery: Delivery) -> None:
        self.tries += 1
        self.free.wait()
        self.kept.append(delivery.checkpoint.size)


def test_a_sink_that_hangs_holds_up_no_other(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stack.audit.checkpointer._PATIENCE_S", 0.05)
    stuck = Stuck()
    signing = Checkpointer(place.store, SIGNER, (stuck, place.shelf), place.clock, every_records=1)
    try:
        for size in (1, 2, 3):
            fill_at_once(place, 1)
            signing.tick()
            until_kept(place.shelf, size)
            place.clock.advance(61)
        assert (stuck.tries, stuck.kept) == (1, []), "nobody waits for it twice"
        with place.store.reading() as tx:
            assert "has not come back" in tx.deliveries()["stuck"][1]
    finally:
        stuck.free.set()
    while 3 not in stuck.kept:
        place.clock.advance(61)
        signing.tick()
    assert stuck.kept == [1, 3]


def until_kept(shelf: Shelf, size: int) -> None:
    """The patience of the test is short, a thread may need longer."""
    while size not in shelf.kept:
        threading.Event().wait(0.01)
