"""If the record can't be made durable, what it describes does not happen; when it can again, the same store goes on.

The faults are real: another process that holds the lock, a disk that is full (a size limit of the process, and where
this runs as root a small file system), files that can't be written.
"""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stack.audit.append import TreeDamaged, append, catch_up
from stack.audit.merkle import Frontier, leaf_hash, root
from stack.audit.record import AuditRecord
from stack.core.clock import ManualClock
from stack.core.errors import Unavailable
from stack.store.dialect import BUSY_S
from stack.store.errors import StoreBusy, StoreFull, StoreReadOnly, StoreUnreachable
from stack.store.store import Store
from tests.audit.logs import fill, said

ROOT = Path(__file__).parents[2]
BIG = AuditRecord(actor="a", action="big", target="t", change="", result="ok", body={"bulk": "x" * 3_000_000})
SMALL = said(0)
_HOLDER = """
import sqlite3, sys, time
held = sqlite3.connect(sys.argv[1], isolation_level=None)
held.execute("BEGIN IMMEDIATE")
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store with three records."""
    opened = Store.open(tmp_path / "state.db")
    fill(opened, 3, ManualClock())
    yield opened
    opened.close()


def act(store: Store, record: AuditRecord = SMALL) -> None:
    """A privileged action: its effect and its record, in one transaction."""
    with store.transaction() as tx:
        tx.next_table_version()
        append(tx, record, ManualClock())


def effects(store: Store) -> tuple[int, int, int]:
    """How often the action took effect, how many records there are, and how many leaves."""
    with store.reading() as tx:
        connection = tx._connection
        done = connection.exec_driver_sql("SELECT coalesce(max(value), 0) FROM counters").scalar()
        count = connection.exec_driver_sql("SELECT count(*) FROM audit").scalar()
        return int(done or 0), int(count or 0), tx.leaf_count()


def refused(store: Store, kinds: tuple[type[Unavailable], ...], record: AuditRecord = SMALL) -> Unavailable:
    """The action fails with one of these, and nothing of it is there."""
    before = effects(store)
    with pytest.raises(kinds) as told:
        act(store, record)
    assert effects(store) == before
    assert told.value.exit_code == 4 and told.value.advice, "it says what to do"
    return told.value


def works_again(store: Store) -> None:
    """Without a restart: the same object."""
    done, count, leaves = effects(store)
    act(store)
    assert effects(store) == (done + 1, count + 1, leaves + 1)


def test_a_lock_held_for_longer_than_five_seconds(store: Store, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _HOLDER, str(tmp_path / "state.db")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
            begun = time.monotonic()
            refused(store, (StoreBusy,))
            print(f"another process held the lock: refused after {time.monotonic() - begun:.1f} s")
            assert BUSY_S <= 5.0
            os.kill(holder.pid, signal.SIGSTOP)  # hung, not gone
            refused(store, (StoreBusy,))
        finally:
            holder.kill()
    works_again(store)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A write beyond ``size`` fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_no_room_for_the_record(store: Store, tmp_path: Path) -> None:
    limit = max(path.stat().st_size for path in tmp_path.iterdir()) + 4096
    with largest_file(limit):
        refused(store, (StoreFull, StoreUnreachable), BIG)
    works_again(store)
    act(store, BIG)


_FULL_DISK = """
import os, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from stack.store.store import Store
from tests.audit.logs import fill, ManualClock
from tests.audit.test_durability import BIG, effects, refused, works_again
from stack.store.errors import StoreFull, StoreUnreachable
place = Path(sys.argv[2])
store = Store.open(place / "state.db")
fill(store, 3, ManualClock())
room = os.statvfs(place)
(place / "ballast").write_bytes(b"x" * max(0, room.f_bavail * room.f_frsize - 200_000))
error = refused(store, (StoreFull, StoreUnreachable), BIG)
(place / "ballast").unlink()
works_again(store)
store.close()
print("full disk:", error.code)
"""
_READ_ONLY_DISK = """
import subprocess, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from stack.core.errors import Unavailable
from stack.store.store import Store
from tests.audit.logs import fill, ManualClock
from tests.audit.test_durability import act, effects, works_again
place = Path(sys.argv[2])
store = Store.open(place / "state.db")
fill(store, 3, ManualClock())
store.close()
subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
failed = None
try:
    act(store)
except Unavailable as error:
    failed = error
assert failed is not None and failed.advice, failed
subprocess.run(["mount", "-o", "remount,rw", str(place)], check=True)
assert effects(store) == (0, 3, 3), effects(store)
works_again(store)
print("read-only disk:", failed.code)
"""


def on_a_small_disk(script: str, place: Path) -> str:
    """In a mount namespace of its own; ends with it."""
    mounted = 'mount -t tmpfs -o size=6m none "$1" && exec "$2" -c "$3" "$4" "$1"'
    command = ["unshare", "--mount", "sh", "-c", mounted, "sh", str(place), sys.executable, script, str(ROOT)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def can_mount() -> bool:
    """Whether this process may make a file system for itself."""
    try:
        probe = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
        return subprocess.run(probe, capture_output=True, timeout=20).returncode == 0
    except OSError:
        return False


def test_a_full_disk_and_a_read_only_one(tmp_path: Path) -> None:
    """On real small file systems, where they can be had; elsewhere the tests around this one must do."""
    if not can_mount():
        assert "CI" not in os.environ, "no file system can be mounted: nothing would be shown"
        print("no file system can be mounted here: a full disk is simulated by a size limit only")
        return
    print(on_a_small_disk(_FULL_DISK, tmp_path), end="")
    print(on_a_small_disk(_READ_ONLY_DISK, tmp_path), end="")


def test_a_database_that_refuses_writes(store: Store) -> None:
    """Every connection of the store is told to write nothing: what SQLite says for read-only files."""
    with store.reading() as tx:
        tx._connection.exec_driver_sql("PRAGMA query_only = ON")
    refused(store, (StoreReadOnly,))
    store._engine.dispose()
    works_again(store)


def test_a_record_that_is_refused_takes_its_action_with_it(store: Store, tmp_path: Path) -> None:
    """The fault hits the tree only, after effect and row were written."""
    raw = sqlite3.connect(tmp_path / "state.db")
    raw.execute("INSERT INTO audit_nodes VALUES (0, 3, 'ab')")
    raw.commit()
    refused(store, (TreeDamaged,))
    raw.execute("DROP TRIGGER audit_nodes_no_delete")
    raw.execute("DELETE FROM audit_nodes WHERE level = 0 AND position = 3")
    raw.commit()
    raw.close()
    works_again(store)


def test_records_older_than_the_tree_become_leaves(tmp_path: Path) -> None:
    """As after migration 2: rows, and no nodes. In batches; twice is once."""
    path, clock = tmp_path / "state.db", ManualClock()
    store = Store.open(path, clock)
    fill(store, 2500, clock)
    with store.reading() as tx:
        expected = root(2500, lambda level, position: bytes.fromhex(tx.node(level, position) or ""))
        rows = tx.audit_rows(1, 3000)
    raw = sqlite3.connect(path)
    raw.executescript("DROP TRIGGER audit_nodes_no_delete; DELETE FROM audit_nodes;")
    raw.close()
    fill(store, 1, clock)  # one batch with the next record
    with store.reading() as tx:
        assert tx.leaf_count() == 1000
    assert (catch_up(store), catch_up(store)) == (1501, 0)
    fill(store, 1, clock)
    with store.reading() as tx:
        assert tx.leaf_count() == 2502
        assert root(2500, lambda level, position: bytes.fromhex(tx.node(level, position) or "")) == expected
    tree = Frontier()
    from stack.audit.chain import row_bytes

    for row in rows[:2500]:
        tree = tree.add(leaf_hash(row_bytes(row)))
    assert tree.root == expected
    store.close()
