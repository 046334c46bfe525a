#!/usr/bin/env python3
"""What placement and preflight need to know of this host, as JSON on stdout. Changes nothing.

    facts.py ROOT

Run from the command line of a Python that is there already, so it stands alone: standard library only, Python 3.9+.
What can't be found out is null: never a guess. Sizes are bytes.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

_FIELDS = "name,memory.total,memory.free,driver_version,uuid,mig.mode.current"
_SMI = ["nvidia-smi", "--query-gpu=" + _FIELDS, "--format=csv,noheader,nounits"]


def memory() -> Dict[str, Optional[int]]:
    """Total, and what a new process can have (the kernel's estimate, or what the cgroup leaves if that is less)."""
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return {"total": None, "available": None}
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE))
    sizes = {k: int(found[v]) * 1024 if v in found else None for k, v in _MEMINFO.items()}
    room = cgroup_room()
    if room is not None and sizes["available"] is not None:
        sizes["available"] = min(room, sizes["available"])
    return sizes


_MEMINFO = {"total": "MemTotal", "available": "MemAvailable"}


def cgroup_room(root: Path = Path("/sys/fs/cgroup")) -> Optional[int]:
    """What the memory limit of version 2's root leaves; None without a limit."""
    try:
        limit, used = ((root / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return None
    return max(0, int(limit) - int(used)) if limit.isdigit() and used.isdigit() else None


def disk(root: Path) -> Dict[str, Any]:
    """Of the file system that holds ``root``, or will: total, free for us, and whether it can be written."""
    place = root
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        usage = shutil.disk_usage(str(place))
    except OSError:
        return {"path": str(root), "total": None, "free": None, "writable": None}
    return {"path": str(root), "total": usage.total, "free": usage.free, "writable": os.access(str(place), os.W_OK)}


def accelerators() -> Optional[List[Dict[str, Any]]]:
    """NVIDIA's, as its own tool lists them; an empty list without the tool, null when it is there and fails."""
    if shutil.which("nvidia-smi") is None:
        return []
    try:
        done = subprocess.run(_SMI, capture_output=True, timeout=20, check=True)
        return [gpu(line) for line in done.stdout.decode().splitlines() if line.strip()]
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def gpu(line: str) -> Dict[str, Any]:
    """One line of nvidia-smi (MiB). A size that it does not tell is null; so is what a device cut by MIG has free."""
    name, total, free, driver, uuid, mig = (part.strip() for part in line.split(","))
    whole = mig.lower() != "enabled"
    return {"name": name, "total": mib(total), "free": mib(free) if whole else None, "driver": driver, "id": uuid}


def mib(text: str) -> Optional[int]:
    """Bytes; null for ``[N/A]``, ``[Insufficient Permissions]``, ``[Unknown Error]`` and the like."""
    return int(text) << 20 if text.isdigit() else None


def service_manager() -> Optional[str]:
    """``systemd`` where it is process 1; else what we bring: ``supervisord``."""
    return "systemd" if Path("/run/systemd/system").is_dir() else "supervisord"


def open_files() -> Optional[int]:
    """How many files a process of ours may open; what is unlimited is the kernel's limit."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft != resource.RLIM_INFINITY:
        return soft
    try:
        return int(Path("/proc/sys/fs/nr_open").read_text())
    except (OSError, ValueError):
        return None


def environments() -> bool:
    """Can this Python make environments and fill them?"""
    found = {name for name in ("venv", "ensurepip", "pip") if importlib.util.find_spec(name)}
    return "venv" in found and len(found) > 1


def after_reboot(root: Path) -> str:
    """What starts our replicas then: ``systemd``, ``cron`` (an entry that names the root), or ``nothing``."""
    if service_manager() == "systemd" and os.geteuid() == 0:
        return "systemd"
    try:
        done = subprocess.run(["crontab", "-l"], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return "nothing"
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    return "cron" if any(line.strip().startswith("@reboot") and str(root) in line for line in lines) else "nothing"


def main() -> None:
    """Print it."""
    root = Path(sys.argv[1])
    facts = {
        "facts": {
            "memory": memory(),
            "disk": disk(root),
            "accelerators": accelerators(),
            "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "architecture": platform.machine(),
            "system": platform.platform(),
            "libc": " ".join(platform.libc_ver()),
            "python": platform.python_version(),
            "service_manager": service_manager(),
            "user": os.geteuid(),
            "environments": environments(),
            "open_files": open_files(),
            "after_reboot": after_reboot(root),
            "clock_s": time.time(),  # noqa: TID251 - runs on the host, without our Clock
        }
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
