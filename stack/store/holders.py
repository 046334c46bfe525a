"""Who holds the write lock of a SQLite file, as the kernel tells it. For people: nothing is decided by it.

In the write-ahead mode a writer holds one byte of the ``-shm`` file with a lock that names its process. Another PID
namespace, or a kernel that does not tell, has no answer.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_WRITER_BYTE = 120
"""Where SQLite's locks of the shared-memory file begin; the first is the writer's."""
_LOCKS = Path("/proc/locks")


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A process that holds the lock. ``stopped``: it was told to stand still, and keeps the lock meanwhile."""

    pid: int
    command: str
    stopped: bool

    @property
    def words(self) -> str:
        """For a sentence."""
        name = f"process {self.pid}" + (f" ({self.command})" if self.command else "")
        return f"{name} holds it" + (" and is stopped" if self.stopped else "")

    @property
    def advice(self) -> str:
        """What to do about it."""
        if self.stopped:
            return f"Let it go on (kill -CONT {self.pid}) or end it (kill -9 {self.pid}): nothing is half-written."
        return f"Try again. If it stays so, see what process {self.pid} does; ending it leaves nothing half-written."


def holder_pid(locks: str, device: int, inode: int) -> int | None:
    """The process of the writer's lock, from the text of /proc/locks; lines that wait for a lock have an arrow."""
    wanted = f"{os.major(device):02x}:{os.minor(device):02x}:{inode}"
    for line in locks.splitlines():
        words = line.split()
        if len(words) != 8 or words[1] == "->" or words[3] != "WRITE" or words[5] != wanted:
            continue
        pid, first, last = words[4], words[6], words[7]
        if pid.isdigit() and int(pid) and first.isdigit() and int(first) <= _WRITER_BYTE <= _end(last):
            return int(pid)
    return None


def _end(text: str) -> float:
    return int(text) if text.isdigit() else float("inf")


def writer_of(path: Path) -> Holder | None:
    """Who holds the write lock of the database at ``path`` now."""
    try:
        found = path.with_name(f"{path.name}-shm").stat()
        pid = holder_pid(_LOCKS.read_text(encoding="ascii", errors="replace"), found.st_dev, found.st_ino)
    except OSError:
        return None
    return None if pid is None else Holder(pid=pid, command=_command(pid), stopped=_state(pid) in "Tt")


def _command(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    shown = " ".join(word.decode("utf-8", "replace") for word in words if word)
    return "".join(c if c.isprintable() else "?" for c in shown)[:120]


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return "?"
