"""What a process group on this machine takes: PSS where the kernel tells it, else RSS. Reads only."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes of all processes of a group; pages shared with others count by share in `pss`, whole in `rss`."""

    processes: int
    pss_bytes: int
    rss_bytes: int


def group_footprint(group: int, proc: Path = PROC) -> Footprint | None:
    """Of the process group; None when nobody of it can be read."""
    found = [memory for pid in _members(group, proc) if (memory := _memory(proc / str(pid))) is not None]
    if not found:
        return None
    return Footprint(processes=len(found), pss_bytes=sum(p for p, _ in found), rss_bytes=sum(r for _, r in found))


def _members(group: int, proc: Path) -> list[int]:
    members = []
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] not in "ZX":
            members.append(int(entry.name))
    return members


def _memory(process: Path) -> tuple[int, int] | None:
    try:
        text = (process / "smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return _resident(process)
    sizes = {name: int(size) * 1024 for name, size in re.findall(r"^(Pss|Rss): +(\d+) kB$", text, re.MULTILINE)}
    return (sizes["Pss"], sizes["Rss"]) if len(sizes) == 2 else None


def _resident(process: Path) -> tuple[int, int] | None:
    try:
        pages = int((process / "statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    size = pages * os.sysconf("SC_PAGE_SIZE")
    return size, size
