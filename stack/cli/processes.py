"""Local processes by pid file. A pid file names the pid *and* when it started, so a reused pid is never mistaken.

Linux only (/proc). Signals go to exactly the process that the file names.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stack.core.clock import Clock
from stack.core.errors import Unavailable

_POLL_S = 0.05


class WillNotStop(Unavailable):
    """Process {pid} ({name}) did not stop."""

    hint = "Look at what it waits for in its log, then end it by hand."


@dataclass(frozen=True, kw_only=True)
class Process:
    """One process: ``started`` is the kernel's start time in ticks since boot."""

    pid: int
    started: int


def look_up(pid: int) -> Process | None:
    """The process with this pid that runs now; zombies do not run."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else Process(pid=pid, started=int(fields[19]))


def words_of(pid: int) -> list[str]:
    """Its command line; empty when it can't be read."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace").split("\0")
    except OSError:
        return []


def variable_of(pid: int, name: str) -> str | None:
    """What a variable of its environment was when it started; None when it can't be read."""
    try:
        text = Path(f"/proc/{pid}/environ").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = (line.partition("=") for line in text.split("\0"))
    return next((value for key, _, value in found if key == name), None)


def write_pid(path: Path, pid: int) -> None:
    """First line the pid, second line its start time; atomically."""
    process = look_up(pid)
    if process is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(f"{process.pid}\n{process.started}\n", encoding="ascii")
    new.replace(path)


def read_pid(path: Path) -> Process | None:
    """What the file names, running or not; None without a file or with nonsense in it."""
    try:
        pid, started = path.read_text(encoding="ascii").split()
        return Process(pid=int(pid), started=int(started))
    except (OSError, ValueError):
        return None


def running(path: Path) -> Process | None:
    """The process that the file names, if it still runs."""
    named = read_pid(path)
    return named if named is not None and look_up(named.pid) == named else None


def spawn(
    argv: Sequence[str], *, log: Path, environment: Mapping[str, str], pass_fds: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Start a child in a session of its own, with its output appended to ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        return subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=dict(environment),
            pass_fds=tuple(pass_fds),
        )


def python_module(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of this program with this Python."""
    return [sys.executable, "-m", module, *arguments]


def gone(process: Process, clock: Clock, within_s: float) -> bool:
    """Wait until it has ended."""
    deadline = clock.monotonic() + within_s
    while look_up(process.pid) == process:
        if clock.monotonic() >= deadline:
            return False
        clock.sleep(_POLL_S)
    return True


def stop(process: Process, name: str, clock: Clock, *, grace_s: float, kill: bool = True) -> str:
    """SIGTERM, wait, then SIGKILL if ``kill``. How it ended, in words; ``WillNotStop`` if it did not."""
    if not _signal(process, signal.SIGTERM) or gone(process, clock, grace_s):
        return "stopped"
    if kill:
        _signal(process, signal.SIGKILL)
        if gone(process, clock, 5.0):
            return f"killed after {grace_s:.0f} s"
    raise WillNotStop(pid=process.pid, name=name)


def _signal(process: Process, number: signal.Signals) -> bool:
    """False when it is gone already."""
    if look_up(process.pid) != process:
        return False
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        return False
    return True


def last_lines(path: Path, count: int = 15) -> str:
    """The end of a log file."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - 20_000))
            lines = log.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-count:])
