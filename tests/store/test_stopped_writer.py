"""A process that stands still inside SQLite's write lock: the others say who it is and what to do, soon."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stack.core.clock import SystemClock
from stack.store import store as store_module
from stack.store.errors import StoreBusy
from stack.store.holders import holder_pid, writer_of
from stack.store.store import Store

SHM = os.makedev(0x08, 0x01)
LOCKS = """\
1: POSIX  ADVISORY  WRITE 41 08:01:77 0 EOF
2: POSIX  ADVISORY  READ 42 08:01:99 120 120
3: POSIX  ADVISORY  WRITE 43 08:01:99 121 121
4: POSIX  ADVISORY  WRITE 44 08:01:99 120 120
4: -> POSIX  ADVISORY  WRITE 45 08:01:99 120 120
5: FLOCK  ADVISORY  WRITE 46 00:2f:99 0 EOF
"""


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, int]]:
    """A database, and the process that stopped in the middle of a write to it."""
    monkeypatch.setattr(store_module, "BUSY_S", 0.3)
    monkeypatch.setattr(store_module, "_OPENING_S", 0.6)
    path = tmp_path / "state.db"
    Store.open(path).close()
    pid = os.fork()
    if pid == 0:
        try:
            with Store.open(path).transaction() as tx:
                tx.next_table_version()
                os.kill(os.getpid(), signal.SIGSTOP)
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    yield path, pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_a_writer_is_told_who_stands_still(stopped: tuple[Path, int]) -> None:
    path, pid = stopped
    store = store_module.Store(*_parts(path))
    with pytest.raises(StoreBusy) as raised, store.transaction():
        pass
    assert f"process {pid} " in raised.value.message and "is stopped" in raised.value.message
    assert f"kill -CONT {pid}" in raised.value.advice
    with store.reading() as tx:
        assert tx.latest_table() is None, "readers wait for nobody"
    store.close()


def test_opening_says_so_too_and_does_not_hang(stopped: tuple[Path, int]) -> None:
    path, pid = stopped
    begun = SystemClock().monotonic()
    with pytest.raises(StoreBusy, match=f"process {pid} "):
        Store.open(path)
    assert SystemClock().monotonic() - begun < 60


def test_it_goes_on_and_so_does_everybody(stopped: tuple[Path, int]) -> None:
    path, pid = stopped
    os.kill(pid, signal.SIGCONT)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    with Store.open(path).transaction() as tx:
        assert tx.next_table_version() == 2
    assert writer_of(path) is None


def _parts(path: Path) -> tuple[object, ...]:
    from stack.store.dialect import dialect_for

    dialect = dialect_for(path)
    return dialect.engine(), dialect, SystemClock()


def test_the_kernels_list_is_read_to_the_byte() -> None:
    assert holder_pid(LOCKS, SHM, 99) == 44
    assert holder_pid(LOCKS, SHM, 77) == 41
    assert holder_pid(LOCKS, os.makedev(0x08, 0x02), 99) is None
    assert holder_pid(LOCKS.replace(" 44 ", " 0 "), SHM, 99) is None, "of another PID namespace"


@given(st.text(max_size=200), st.integers(0, 1 << 40))
def test_any_other_text_names_nobody_wrongly(text: str, inode: int) -> None:
    found = holder_pid(text, SHM, inode)
    assert found is None or str(found) in text


def test_without_a_file_there_is_nobody(tmp_path: Path) -> None:
    assert writer_of(tmp_path / "none.db") is None
