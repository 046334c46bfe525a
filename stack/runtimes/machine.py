"""What this machine has left: memory, disk, ports. Reads only; what follows from it is for `fit`."""

from __future__ import annotations

import errno
import re
import shutil
import socket
from pathlib import Path

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
_AVAILABLE = re.compile(r"^MemAvailable:\s+(\d+) kB$", re.MULTILINE)


def available_memory(meminfo: Path = MEMINFO, cgroup: Path = CGROUP) -> int | None:
    """Bytes that a new process can have: the kernel's estimate, or what the cgroup allows if that is less."""
    try:
        text = meminfo.read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    available = parse_meminfo(text)
    allowed = _cgroup_room(cgroup)
    return available if available is None or allowed is None else min(available, allowed)


def parse_meminfo(text: str) -> int | None:
    """`MemAvailable` in bytes; None when it is not there."""
    found = _AVAILABLE.search(text)
    return int(found[1]) * 1024 if found else None


def free_disk(path: Path) -> int:
    """Bytes free for us on the file system of `path`, or of its nearest parent that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def disk_problem(path: Path, needed: int, spare: int = 64 << 20) -> str | None:
    """Why `needed` bytes (and a little to spare) can't be placed at `path`; None when they can."""
    free = free_disk(path)
    if free >= needed + spare:
        return None
    return f"{(needed + spare) >> 20} MiB needed at {path}, {free >> 20} MiB free"


def port_is_free(address: str, port: int) -> bool:
    """Could a server bind this port now? An address that is not this machine's can't be asked this way: free."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen(1)
        except OSError as error:
            return error.errno == errno.EADDRNOTAVAIL
    return True


def _cgroup_room(cgroup: Path) -> int | None:
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        used = (cgroup / "memory.current").read_text().strip()
        cache = re.search(r"^inactive_file (\d+)$", (cgroup / "memory.stat").read_text(), re.MULTILINE)
    except OSError:
        return None
    if not limit.isdigit() or not used.isdigit():
        return None
    return max(0, int(limit) - int(used) + (int(cache[1]) if cache else 0))
