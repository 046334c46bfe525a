"""Two control planes with two homes on one database: one stands still or dies, the other takes over.

Processes are real, forked; the lease's clock is the database's. What the stopped one does after it goes on is counted
in the database and on the host: nothing. STACK_TEST_PAIRS sets how many pairs change the lead with the usual lease (4).
"""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from orchestrating import CLOCK, FencedHost, begin, found, worker

from stack.core.errors import StackError
from stack.rollout.tenure import TTL_S
from stack.rollout.worker import Leadership
from stack.store import postgresql
from stack.store.store import Store
from tests.store.postgres_server import Server

pytestmark = pytest.mark.faults
Count = Callable[[str], None]
PAIRS = int(os.environ.get("STACK_TEST_PAIRS") or 4)


@pytest.fixture(scope="module")
def own() -> Iterator[Server]:
    """A server of this module's own."""
    made = Server()
    try:
        yield made.create().start()
    finally:
        made.remove()


@dataclass
class Orchestrator:
    """A process that leads, or waits to. Each lead that it takes is a line in ``leads``: when, who, which epoch."""

    url: str
    directory: Path
    name: str
    ttl_s: float
    pid: int = 0

    def start(self) -> None:
        """Forked: no interpreter starts, no connection is shared."""
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._work()
            finally:
                os._exit(1)

    def _work(self) -> None:
        logging.disable()
        postgresql.SILENT_WRITER_S = min(postgresql.SILENT_WRITER_S, self.ttl_s)  # in proportion to a short lease
        store = Store.open(self.url, wait_s=30)
        at_work = worker(store, FencedHost(self.directory), self.name, moment_s=0.03, ttl_s=self.ttl_s)

        def on_lead(lead: Leadership) -> None:
            line = {"at": CLOCK.monotonic(), "who": self.name, "epoch": lead.lease.epoch}
            with (self.directory / "leads").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

        at_work.run(on_lead, lambda: None)

    def tell(self, number: signal.Signals) -> float:
        """The moment at which it was told."""
        os.kill(self.pid, number)
        return CLOCK.monotonic()

    def kill(self) -> None:
        """And see it gone."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0


class Pair:
    """Two of them on one database, one host, and rollouts that never run out."""

    def __init__(self, url: str, directory: Path, ttl_s: float) -> None:
        directory.mkdir()
        self.url, self.directory = url, directory
        Store.open(url).close()
        self.both = {name: Orchestrator(url, directory, name, ttl_s) for name in ("ann", "bob")}
        for one in self.both.values():
            one.start()
        self.begun = 0

    def leads(self) -> list[dict[str, object]]:
        path = self.directory / "leads"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def leader(self, after: int = 0, within_s: float = 60.0) -> tuple[Orchestrator, float, int]:
        """Who leads, since when, with which epoch: the first that took it with a higher one than ``after``."""
        deadline = CLOCK.monotonic() + within_s
        while CLOCK.monotonic() < deadline:
            for line in self.leads():
                if int(str(line["epoch"])) > after:
                    return self.both[str(line["who"])], float(str(line["at"])), int(str(line["epoch"]))
            CLOCK.sleep(0.02)
        raise AssertionError(f"nobody took over within {within_s} s")

    def newest(self) -> tuple[Orchestrator, int]:
        """Who took the lead last."""
        self.leader()
        line = self.leads()[-1]
        return self.both[str(line["who"])], int(str(line["epoch"]))

    def feed(self, store: Store) -> None:
        """Keep two rollouts open."""
        try:
            with store.reading() as tx:
                missing = 2 - len(tx.rollouts(limit=10, open_only=True))
            for _ in range(missing):
                begin(store, f"ro-{self.begun:05d}")
                self.begun += 1
        except StackError:
            return  # the database is busy; the next call tries again

    def end(self) -> None:
        for one in self.both.values():
            one.kill()


@dataclass
class Feeding:
    """A thread that feeds pairs. Begun after the processes are forked."""

    pairs: list[Pair]

    def __enter__(self) -> Feeding:
        self.over = threading.Event()
        self.stores = [Store.open(pair.url) for pair in self.pairs]
        self.thread = threading.Thread(target=self._feed)
        self.thread.start()
        return self

    def _feed(self) -> None:
        while not self.over.wait(0.1):
            for pair, store in zip(self.pairs, self.stores, strict=True):
                pair.feed(store)

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()
        for store in self.stores:
            store.close()


def place(kind: str, own: Server, directory: Path) -> str:
    return own.url(own.new_database()) if kind == "postgresql" else f"sqlite:///{directory / 'state.db'}"


def drained(pair: Pair, within_s: float = 60.0) -> None:
    """Until every rollout is over."""
    store = Store.open(pair.url)
    deadline = CLOCK.monotonic() + within_s
    while CLOCK.monotonic() < deadline:
        with store.reading() as tx:
            if not tx.rollouts(limit=1, open_only=True):
                store.close()
                return
        CLOCK.sleep(0.1)
    raise AssertionError("rollouts stay open")


def late(pair: Pair, who: int, taken_at: float, epoch: int) -> int:
    """What the process ``who`` did on the host with ``epoch`` or an older one after another had the lead: lines that
    are no refusals."""
    lines = FencedHost(pair.directory).lines()
    newer = [number for number, line in enumerate(lines) if line["epoch"] > epoch]
    first = newer[0] if newer else len(lines)
    return sum(line["what"] != "refused" and line["epoch"] <= epoch for line in lines[first:])


@pytest.mark.parametrize(("kind", "times"), [("postgresql", 20), ("sqlite", 10)])
def test_who_stood_still_does_and_writes_nothing_more(
    kind: str, times: int, own: Server, tmp_path: Path, chance: random.Random, counted: Count
) -> None:
    """With a short lease: stopped at a random moment, continued once the other has acted."""
    pair = Pair(place(kind, own, tmp_path), tmp_path / "host", ttl_s=1.0)
    stops = stuck = done_late = 0
    try:
        with Feeding([pair]):
            while stops < times:
                one, epoch = pair.newest()
                CLOCK.sleep(0.2 + chance.random() * 0.5)
                one.tell(signal.SIGSTOP)
                try:
                    _, taken, _ = pair.leader(after=epoch, within_s=20.0 if kind == "postgresql" else 6.0)
                    CLOCK.sleep(chance.random() * 0.5)
                except AssertionError:
                    stuck += 1  # SQLite: it stopped while it held the file's lock, so nobody can write at all
                    taken = CLOCK.monotonic()
                one.tell(signal.SIGCONT)
                CLOCK.sleep(0.3)
                done_late += late(pair, one.pid, taken, epoch)
                stops += 1
        drained(pair)
    finally:
        pair.end()
    store = Store.open(pair.url)
    whole = found(store, FencedHost(pair.directory))
    store.close()
    assert done_late == 0
    assert whole.promoted == whole.rollouts >= 2
    assert stuck == 0 or (kind == "sqlite" and stuck < times)
    counted(
        f"{kind}: {stops} stops beyond the lease, {len(pair.leads())} leads: {done_late} effects of an old epoch after "
        f"a newer one, {whole.refused} refused by the host; {whole.rollouts} rollouts, {whole.operations} operations "
        f"each once, {whole.audit} audit rows, log and tree whole; {stuck} stops inside SQLite's write lock (waited)"
    )


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
@pytest.mark.parametrize("kind", ["postgresql", "sqlite"])
def test_take_over_with_the_usual_lease(
    kind: str, how: signal.Signals, own: Server, tmp_path: Path, chance: random.Random, counted: Count
) -> None:
    """Pairs at once, each its own database, stopped at random moments of their leases."""
    pairs = []
    for number in range(PAIRS):
        directory = tmp_path / str(number)
        directory.mkdir()
        pairs.append(Pair(place(kind, own, directory), directory / "host", TTL_S))
    took: list[float] = []
    stuck = 0
    try:
        with Feeding(pairs):
            leaders = [pair.newest() for pair in pairs]
            stopped = []
            for pair, (one, epoch) in sorted(zip(pairs, leaders, strict=True), key=lambda _: chance.random()):
                CLOCK.sleep(chance.random() * TTL_S / len(pairs))
                stopped.append((pair, one, epoch, one.tell(how)))
            for pair, one, epoch, at in stopped:
                try:
                    took.append(pair.leader(after=epoch, within_s=20.0)[1] - at)
                except AssertionError:
                    stuck += 1
                    one.tell(signal.SIGKILL)  # the lock is free once its holder has ended: then somebody takes over
                    pair.leader(after=epoch, within_s=20.0)
    finally:
        for pair in pairs:
            pair.end()
    took.sort()
    assert stuck == 0 or (kind == "sqlite" and how is signal.SIGSTOP)
    times = f"median {took[len(took) // 2]:.2f} s, longest {took[-1]:.2f} s" if took else "none timed"
    counted(
        f"{kind}, {how.name}, lease {TTL_S:g} s: {len(took)} take-overs, {times}; "
        f"{stuck} stopped inside SQLite's write lock"
    )
