"""Private directories for one Ansible run each: in memory where there is /dev/shm, removed whatever happens.

A directory's name says which process made it. One whose maker is gone is removed at the next run, and the playbook that
its maker left behind is ended first: without the terminal that it wrote to, ansible-playbook waits for ever. What else
works with it keeps it.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_MEMORY = Path("/dev/shm")  # noqa: S108 - 0700, and on a tmpfs on purpose
_DEATH_S = 2.0
_NAME = re.compile(r"stack-run-(\d+)-(\d+)-(\d+)-\w+\Z")


def parent(fallback: Path) -> Path:
    """Where private directories go."""
    if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK | os.X_OK):
        return _MEMORY
    fallback.mkdir(mode=0o700, parents=True, exist_ok=True)
    return fallback


@contextmanager
def private_directory(fallback: Path) -> Iterator[Path]:
    """A fresh 0700 directory, gone afterwards."""
    base = parent(fallback)
    sweep(base)
    prefix = f"stack-run-{os.getuid()}-{os.getpid()}-{started(os.getpid())}-"
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=base))
    try:
        for part in ("tmp", "home"):
            (folder / part).mkdir(mode=0o700)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(base: Path) -> list[Path]:
    """Remove what dead processes of this user left; returns what was removed."""
    removed = []
    for folder in base.glob(f"stack-run-{os.getuid()}-*"):
        match = _NAME.match(folder.name)
        if match is None or not _ours(folder):
            continue
        if started(int(match.group(2))) == int(match.group(3)):
            continue
        end_playbooks(folder)
        if not _in_use(folder):
            shutil.rmtree(folder, ignore_errors=True)
            removed.append(folder)
    return removed


def end_playbooks(folder: Path) -> None:
    """End ansible-playbook and its workers, which have sessions of their own, where they were given this directory."""
    mark = os.fsencode(folder)
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or not _is_playbook(_command_line(entry), mark):
            continue
        with suppress(OSError):  # gone, or another user's
            process = os.pidfd_open(int(entry.name))
            try:
                if _is_playbook(_command_line(entry), mark):
                    signal.pidfd_send_signal(process, signal.SIGKILL)
                    select.select([process], [], [], _DEATH_S)
            finally:
                os.close(process)


def _is_playbook(command_line: bytes, mark: bytes) -> bool:
    words = command_line.split(b"\0")
    return mark in command_line and any(word.endswith(b"/ansible-playbook") for word in words[:2])


def _ours(folder: Path) -> bool:
    """A directory of this user's own. Runs for several hosts sweep at once: it may be gone by now."""
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()


def started(pid: int) -> int:
    """When the process began, in clock ticks since boot; 0 when there is none (a pid alone may be somebody else's)."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError):
        return 0


def _in_use(folder: Path) -> bool:
    mark = os.fsencode(folder)
    return any(mark in _command_line(entry) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _command_line(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""
