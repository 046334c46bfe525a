"""What ``bench.takeover`` hurts: a process that leads or waits, with the product's own worker, lease and store.

Its work is small (ten rows a second under the lead), so that many pairs fit on two cores. Forked, from a process
without threads. Each first write of a lead, and each write after a newer lead's, is a line in the pair's file: moments
are of the monotonic clock, which all processes of a machine share. ``Cable`` is its way to the server, to be cut.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import selectors
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stack.core.clock import SystemClock
from stack.core.errors import StackError
from stack.rollout.tenure import Leadership
from stack.rollout.worker import Worker
from stack.store.store import Store

CLOCK = SystemClock()
_WRITES_EVERY_S = 0.1


@dataclass
class Process:
    """One forked child."""

    pid: int = 0

    def start(self) -> None:
        """Fork; the child never comes back."""
        self.pid = os.fork()
        if self.pid == 0:
            try:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                self.work()
            finally:
                os._exit(1)

    def work(self) -> None:
        """The child's life."""
        raise NotImplementedError

    def tell(self, number: signal.Signals) -> float:
        """Send a signal; the moment just before."""
        at = CLOCK.monotonic()
        os.kill(self.pid, number)
        return at

    def kill(self) -> float:
        """SIGKILL, and see it gone; the moment just before."""
        if not self.pid:
            return CLOCK.monotonic()
        at = self.tell(signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.pid = 0
        return at


@dataclass
class Cable(Process):
    """A socket in ``directory`` from which everything is passed to and from the server's socket."""

    directory: Path = Path()
    server: Path = Path()

    @property
    def socket(self) -> Path:
        """Where the client connects to."""
        return self.directory / self.server.name

    def work(self) -> None:
        """Pass bytes on until killed."""
        self.socket.unlink(missing_ok=True)
        door = socket.socket(socket.AF_UNIX)
        door.bind(str(self.socket))
        door.listen(16)
        with selectors.DefaultSelector() as waiting:
            waiting.register(door, selectors.EVENT_READ)
            while True:
                for key, _ in waiting.select():
                    if key.fileobj is door:
                        self._join(door, waiting)
                    elif isinstance(key.fileobj, socket.socket):
                        _pass_on(key.fileobj, key.data, waiting)

    def _join(self, door: socket.socket, waiting: selectors.BaseSelector) -> None:
        near, _ = door.accept()
        far = socket.socket(socket.AF_UNIX)
        far.connect(str(self.server))
        waiting.register(near, selectors.EVENT_READ, far)
        waiting.register(far, selectors.EVENT_READ, near)


def _pass_on(source: socket.socket, target: socket.socket, waiting: selectors.BaseSelector) -> None:
    with contextlib.suppress(OSError):
        data = source.recv(65536)
        if data:
            target.sendall(data)
            return
    for end in (source, target):
        with contextlib.suppress(KeyError, ValueError):
            waiting.unregister(end)
        end.close()


@dataclass
class Seat(Process):
    """One orchestrator of a pair."""

    name: str = ""
    url: str = ""
    file: Path = Path()
    cable: Cable | None = field(default=None)

    def work(self) -> None:
        """Lead, or wait for the lead."""
        logging.disable()
        nothing: Any = None
        store = Store.open(self.url, wait_s=60)
        Worker(store, nothing, nothing, nothing, CLOCK, holder=self.name).run(
            lambda lead: self._led(store, lead), lambda: None
        )

    def _led(self, store: Store, lead: Leadership) -> None:
        with lead.writing(store) as tx:
            _write(tx, lead)
        self._say(lead, "led")
        threading.Thread(target=self._busy, args=(store, lead), daemon=True).start()

    def _busy(self, store: Store, lead: Leadership) -> None:
        """What a leader does all the time: rows under its lead. One that is older than the newest lead is reported."""
        while not lead.gone.wait(_WRITES_EVERY_S):
            with contextlib.suppress(StackError):
                with lead.writing(store) as tx:
                    newest = _write(tx, lead)
                if newest > lead.lease.epoch:
                    self._say(lead, "late")

    def _say(self, lead: Leadership, what: str) -> None:
        line = {"at": CLOCK.monotonic(), "what": what, "who": self.name, "epoch": lead.lease.epoch}
        with self.file.open("a", encoding="ascii") as file:
            file.write(json.dumps(line) + "\n")


def _write(tx: Any, lead: Leadership) -> int:
    """One row with this lead's epoch; the epoch of the row before it."""
    before = tx.latest_table()
    tx.put_table(tx.next_table_version(), {"epoch": lead.lease.epoch})
    return int(before["epoch"]) if before else 0


def burning(count: int) -> Iterator[Burner]:
    """So many processes that only compute."""
    for _ in range(count):
        one = Burner()
        one.start()
        yield one


@dataclass
class Burner(Process):
    """Takes all the CPU that it gets."""

    def work(self) -> None:
        """For ever."""
        while True:
            sum(range(100_000))
