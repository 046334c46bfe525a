"""PostgreSQL goes away at random moments of rollouts: restarted, crashed, frozen, read-only, full, connections cut.

Every rollout ends as it would have, what was confirmed is there, and what can't be done now says so within seconds.
"""

from __future__ import annotations

import os
import random
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from orchestrating import CLOCK, FencedHost, begin, found, note, worker

from stack.store import errors
from stack.store.store import Store
from tests.store.postgres_server import Server
from tests.store.values import rollout

pytestmark = pytest.mark.faults
Count = Callable[[str], None]
AT_ONCE = 4


@pytest.fixture
def own() -> Iterator[Server]:
    """A server of the test's own."""
    made = Server()
    try:
        yield made.create().start()
    finally:
        made.remove()


@contextmanager
def leading(store: Store, host: FencedHost, holder: str = "one") -> Iterator[None]:
    """The real worker at work."""
    at_work = worker(store, host, holder)
    thread = threading.Thread(target=at_work.run, args=(lambda lead: None, lambda: None))
    thread.start()
    try:
        yield
    finally:
        at_work.stop()
        thread.join(60)
    assert not thread.is_alive()


@dataclass
class Clients:
    """People who ask for rollouts and records, and ask again when they were told that it did not work."""

    store: Store
    stop: threading.Event = field(default_factory=threading.Event)
    begun: int = 0
    confirmed: list[int] = field(default_factory=list)
    uncertain: int = 0
    told: int = 0
    slowest: float = 0.0

    def deploy(self) -> None:
        """Rollouts, a few at a time."""
        while not self.stop.is_set():
            name = f"ro-{self.begun:05d}"
            if self._asked(lambda name=name: self._begun(name)):  # type: ignore[misc]
                self.begun += 1
            self.stop.wait(0.05)

    def _begun(self, name: str) -> bool:
        with self.store.reading() as tx:
            if len(tx.rollouts(limit=10, open_only=True)) >= AT_ONCE:
                return False
        begin(self.store, name)
        return True

    def record(self) -> None:
        """Records, of which every confirmed one must be found again."""
        number = 0
        while not self.stop.is_set():
            number += 1
            seq = self._asked(lambda number=number: note(self.store, number))  # type: ignore[misc]
            if seq is not None:
                self.confirmed.append(int(seq))
            self.stop.wait(0.03)

    def _asked(self, act: Callable[[], object]) -> object | None:
        begun = CLOCK.monotonic()
        try:
            return act()
        except errors.StoreUncertain:
            self.uncertain += 1
        except errors.StoreAway:
            self.told += 1
        finally:
            self.slowest = max(self.slowest, CLOCK.monotonic() - begun)
        self.stop.wait(0.05)
        return None


def closed(store: Store, within_s: float = 60.0) -> None:
    """Wait until no rollout is open."""
    deadline = CLOCK.monotonic() + within_s
    while CLOCK.monotonic() < deadline:
        with store.reading() as tx:
            if not tx.rollouts(limit=1, open_only=True):
                return
        CLOCK.sleep(0.1)
    raise AssertionError("a rollout is still open")


def restart(own: Server, how: str, chance: random.Random) -> None:
    own.stop(how)
    CLOCK.sleep(chance.random() * 0.3)
    own.start()


def test_restarts_at_random_moments(own: Server, tmp_path: Path, chance: random.Random, counted: Count) -> None:
    name = own.new_database()
    host = FencedHost(tmp_path)
    hows = ["fast", "immediate", "kill"] * 8
    with through(own.url(name), host) as clients:
        for how in hows:
            CLOCK.sleep(chance.random())
            restart(own, how, chance)
    check(own.url(name), host, clients, counted, f"{len(hows)} restarts of the server (fast, immediate, kill -9)")


def test_connections_are_cut_at_random_moments(
    own: Server, tmp_path: Path, chance: random.Random, counted: Count
) -> None:
    name = own.new_database()
    host = FencedHost(tmp_path)
    cut = 0
    with through(own.url(name), host) as clients:
        for _ in range(100):
            CLOCK.sleep(chance.random() * 0.08)
            victims = own.execute("SELECT pid FROM pg_stat_activity WHERE datname = %s", "postgres", name)
            for (pid,) in chance.sample(victims, k=chance.randint(0, len(victims))):
                own.execute("SELECT pg_terminate_backend(%s)", "postgres", pid)
                cut += 1
    check(own.url(name), host, clients, counted, f"{cut} connections cut")


@contextmanager
def through(url: str, host: FencedHost) -> Iterator[Clients]:
    """Clients and the worker at work; afterwards, every rollout is over."""
    store = Store.open(url)
    clients = Clients(Store.open(url))
    tasks = (clients.deploy, clients.record)
    with leading(store, host):
        with ThreadPoolExecutor() as pool:
            running = [pool.submit(task) for task in tasks]
            try:
                yield clients
            finally:
                clients.stop.set()
            for task in running:
                task.result()
        closed(clients.store)
    clients.store.close()
    store.close()


def check(url: str, host: FencedHost, clients: Clients, counted: Count, what: str) -> None:
    store = Store.open(url)
    whole = found(store, host)
    with store.reading() as tx:
        kept = {record.seq for record in tx.audit_rows(limit=100_000)}
    assert store.check() == "ok"
    store.close()
    assert whole.promoted == whole.rollouts >= clients.begun > 5, "a database that is away fails no candidate"
    assert set(clients.confirmed) <= kept
    assert len(set(clients.confirmed)) == len(clients.confirmed)
    counted(
        f"{what}: {whole.rollouts} rollouts, {whole.promoted} promoted; {whole.operations} operations, each once "
        f"({whole.repeated} asked for again); {len(clients.confirmed)} records confirmed, 0 lost; {clients.uncertain} "
        f"commits without an answer, {clients.told} refused; {whole.audit} audit rows, tree whole; "
        f"slowest answer {clients.slowest:.1f} s"
    )
    assert clients.slowest < 15


def test_a_frozen_server_is_told_within_seconds_and_the_lead_is_given_up(own: Server, tmp_path: Path) -> None:
    """No error and no closed connection: only this side can notice."""
    store = Store.open(own.url(own.new_database()))
    with store.transaction() as tx:
        tx.insert_rollout(rollout())
    own.freeze(True)
    begun = CLOCK.monotonic()
    try:
        with pytest.raises(errors.StoreAway), store.transaction() as tx:
            tx.next_table_version()
        with pytest.raises(errors.StoreAway), store.reading() as tx:
            tx.rollouts(1)
        with pytest.raises(errors.StoreAway):
            Store.open(own.url("postgres"))
        waited = CLOCK.monotonic() - begun
    finally:
        own.freeze(False)
    assert waited < 40, "three questions, each bounded"
    with store.transaction() as tx:
        assert tx.next_table_version() == 1
    store.close()


def test_start_up_waits_for_a_server_that_recovers(own: Server) -> None:
    """After a crash with much to replay the server refuses connections for a while; that is said, and waited for."""
    name = own.new_database()
    Store.open(own.url(name)).close()
    own.execute("CREATE TABLE bulk (x text)", "postgres")
    own.execute("INSERT INTO bulk SELECT repeat('x', 900) FROM generate_series(1, 60000)", "postgres")
    own.stop("kill")
    said: list[str] = []
    starter = threading.Timer(1.5, own.launch)
    starter.start()
    store = Store.open(own.url(name), wait_s=60, say=said.append)
    starter.join()
    with store.transaction() as tx:
        assert tx.next_table_version() == 1
    store.close()
    assert said and all("Waiting for it" in line and "of 60 s" in line for line in said)


def test_what_is_recovering_is_called_so(own: Server) -> None:
    """A standby that may not be asked answers like any server that is still recovering."""
    name = own.new_database()
    Store.open(own.url(name)).close()
    standby = own.copy()
    standby.settings["hot_standby"] = "off"
    try:
        standby.launch()
        told: list[type[Exception]] = []
        for _ in range(100):
            with pytest.raises(errors.StoreAway) as refused:
                Store.open(standby.url(name))
            told.append(refused.type)
            if refused.type is errors.StoreStarting:
                break
            CLOCK.sleep(0.1)
        assert told[-1] is errors.StoreStarting
    finally:
        standby.remove()


def test_a_standby_is_read_and_not_written_until_it_is_promoted(own: Server, tmp_path: Path) -> None:
    name = own.new_database()
    store = Store.open(own.url(name))
    begin(store, "ro-standby")
    store.close()
    standby = own.copy()
    try:
        standby.start()
        host = FencedHost(tmp_path)
        second = Store.open(standby.url(name))
        with second.reading() as tx:
            assert len(tx.rollouts(10)) == 1
        with pytest.raises(errors.StoreReadOnly) as told, second.transaction() as tx:
            tx.next_table_version()
        assert "promote" in told.value.advice
        own.stop("kill")
        with leading(second, host):
            CLOCK.sleep(1.5)
            assert host.lines() == [], "who can't take the lease does nothing"
            standby.execute("SELECT pg_promote()")
            closed(second)
        assert found(second, host).promoted == 1
        second.close()
    finally:
        standby.remove()


@pytest.fixture
def small(own: Server, tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MiB, in a tablespace of the server."""
    place = own.root / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(place)], check=True)
    try:
        os.chown(place, own.account["user"], own.account["group"])
        yield place
        own.stop("immediate")
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_full_disk_is_told_and_nothing_is_half_written(own: Server, small: Path, tmp_path: Path) -> None:
    own.execute(f"CREATE TABLESPACE small LOCATION '{small}'")
    name = own.new_database()
    own.execute(f"ALTER DATABASE {name} SET TABLESPACE small")
    store = Store.open(own.url(name))
    begin(store, "ro-full")
    ballast = small / "ballast"
    with store.transaction() as tx:
        tx.add_event("ro-full", "phase", "kept")
    subprocess.run(["dd", "if=/dev/zero", f"of={ballast}", "bs=1M"], check=False, capture_output=True)
    with pytest.raises(errors.StoreFull) as told, store.transaction() as tx:
        for _ in range(200):
            tx.add_event("ro-full", "phase", "never")
            tx.add_evidence("ro-full", "holding", "bulk", {"filling": os.urandom(40_000).hex()})
    assert "Free space" in told.value.advice
    ballast.unlink()
    with store.reading() as tx:
        assert [e.text for e in tx.events("ro-full")] == ["kept"]
    host = FencedHost(tmp_path)
    with leading(store, host):
        closed(store)
    with store.reading() as tx:
        assert tx.rollout("ro-full").phase == "promoted"
    store.close()
