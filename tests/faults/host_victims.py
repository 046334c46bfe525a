"""Processes of one SSH host, seen from the machine that it is a namespace of, and one of them killed at its moment."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from demo.hosts import HostGroup, TestHost

Words = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Process:
    """``began`` tells it from a later process of the same number."""

    pid: int
    began: int
    words: Words


def processes(group: HostGroup, host: TestHost) -> Iterator[Process]:
    """Everything that runs on the host, newest first."""
    space = Path(f"/run/netns/{group.network.namespace(host.number)}").stat().st_ino
    for pid in sorted((int(e.name) for e in Path("/proc").iterdir() if e.name.isdigit()), reverse=True):
        with suppress(OSError, ValueError, IndexError):
            if Path(f"/proc/{pid}/ns/net").stat().st_ino == space:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").rstrip("\0").split("\0")
                yield Process(pid=pid, began=began(pid), words=tuple(words))


def began(pid: int) -> int:
    """The start time of a live process; 0 when there is none (a zombie is none)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


@dataclass(frozen=True, kw_only=True)
class Victim:
    """Which process is killed, and when: within ``within_s`` after one that ``after`` matches is first seen."""

    name: str
    which: Callable[[Words], bool]
    within_s: float
    after: Callable[[Words], bool] | None = None


@dataclass
class Killer:
    """A context in which the victim is killed once. ``killed`` says whom, if there was one at that moment."""

    group: HostGroup
    host: TestHost
    victim: Victim
    chance: random.Random
    times: int = 1
    killed: list[Process] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _before: frozenset[tuple[int, int]] = frozenset()

    def __enter__(self) -> Killer:
        self._before = frozenset((p.pid, p.began) for p in processes(self.group, self.host))
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join(30)

    def _watch(self) -> None:
        sign = self.victim.after or self.victim.which
        while not self._over.is_set() and len(self.killed) < self.times:
            seen = self._new(sign)
            if seen is None:
                time.sleep(0.002)
                continue
            self._over.wait(self.chance.uniform(0.0, self.victim.within_s))
            found = seen if self.victim.after is None else self._any(self.victim.which)
            if found is not None and self._kill(found):
                self.killed.append(found)
            elif self.victim.after is not None:
                return

    def _new(self, which: Callable[[Words], bool]) -> Process | None:
        for process in processes(self.group, self.host):
            if (process.pid, process.began) not in self._before and which(process.words):
                return process
        return None

    def _any(self, which: Callable[[Words], bool]) -> Process | None:
        return next((p for p in processes(self.group, self.host) if which(p.words)), None)

    @staticmethod
    def _kill(process: Process) -> bool:
        if began(process.pid) != process.began:
            return False
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
            return True
        return False


def ended(group: HostGroup, host: TestHost, which: Callable[[Words], bool]) -> bool:
    """Nobody of the kind is left on the host."""
    return not any(which(process.words) for process in processes(group, host))
