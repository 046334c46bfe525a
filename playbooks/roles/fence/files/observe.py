#!/usr/bin/env python3
"""What really is on this host, as JSON on stdout. Changes nothing.

    observe.py ROOT [JSON: {"service_manager", "op_id", "environments": [...], "artifact_digest", "measure"}]

It is also run from standard input, before anything of ours is on the host, so it stands alone: standard library only,
Python 3.9 or newer. A replica's digests count only while the process that wrote them is the one that runs; otherwise
they are null. Missing evidence is never filled in. With "measure" it says what each replica's processes take: their
share of main memory (PSS) and their accelerators' memory, null where that can't be read of every one of them.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import xmlrpc.client
from pathlib import Path
from typing import Any, Dict, List, Optional, Set, Tuple

_STATES = {
    "RUNNING": "running", "STARTING": "starting", "BACKOFF": "backoff", "STOPPING": "stopping",
    "STOPPED": "stopped", "EXITED": "failed", "FATAL": "failed",
    "active": "running", "activating": "starting", "deactivating": "stopping", "inactive": "stopped",
    "failed": "failed",
}  # fmt: skip


_SMI = ["nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits"]


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(self._path)


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        return _UnixConnection(self._path)


def supervisor(root: Path) -> Any:
    """supervisord's XML-RPC interface on this root's socket (connects on the first call)."""
    path = socket_path(root)
    return xmlrpc.client.ServerProxy("http://localhost/RPC2", transport=_UnixTransport(str(path))).supervisor


def socket_path(root: Path) -> Path:
    """Where supervisord listens: below the root, or in a short directory when the path would not fit in sun_path."""
    wanted = root / "supervisor" / "supervisord.sock"
    if len(os.fsencode(wanted)) <= 90:  # supervisord binds to <path>.<pid> first
        return wanted
    mark = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
    return Path("/tmp") / f"stack-{mark}-{os.getuid()}" / "supervisord.sock"  # noqa: S108 - 0700 and owned by us


def service_manager(wanted: str) -> str:
    """``systemd`` or ``supervisord``: what is asked for, else what is here and may be used."""
    if wanted != "auto":
        return wanted
    return "systemd" if Path("/run/systemd/system").is_dir() and os.geteuid() == 0 else "supervisord"


def read_json(path: Path) -> Dict[str, Any]:
    """The object in a file; empty when there is none or it is not readable as one."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def alive(pid: Optional[int]) -> bool:
    """Is there such a process (a zombie is not one)?"""
    try:
        return bool(pid) and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def supervised(root: Path) -> Optional[Dict[str, Tuple[str, Optional[int]]]]:
    """Replica id -> (state, pid) by supervisord; None when it is not running."""
    try:
        rows = supervisor(root).getAllProcessInfo()
    except (OSError, http.client.HTTPException, xmlrpc.client.Error):
        return None
    return {str(r["group"]): (_STATES.get(str(r["statename"]), "unknown"), int(r["pid"]) or None) for r in rows}


def units(ids: List[str]) -> Dict[str, Tuple[str, Optional[int]]]:
    """Replica id -> (state, pid) by systemd."""
    found: Dict[str, Tuple[str, Optional[int]]] = {}
    for replica in ids:
        command = ["systemctl", "show", "-p", "ActiveState,MainPID", f"inference-replica@{replica}.service"]
        shown = subprocess.run(command, capture_output=True, text=True, check=False)
        facts = dict(line.split("=", 1) for line in shown.stdout.splitlines() if "=" in line)
        state = _STATES.get(facts.get("ActiveState", ""), "unknown")
        found[replica] = (state, int(facts.get("MainPID") or 0) or None)
    return found


def replica_row(folder: Path, managed: Optional[Dict[str, Tuple[str, Optional[int]]]]) -> Dict[str, Any]:
    """One replica: what its manager says, and what the process itself wrote before it opened the model."""
    launch, observed = read_json(folder / "launch.json"), read_json(folder / "observed.json")
    state, pid = (managed or {}).get(folder.name, ("stopped", None))
    if pid is None and alive(observed.get("pid")):
        state, pid = "orphaned", int(observed["pid"])
    proven = pid is not None and alive(pid) and observed.get("pid") == pid
    return {
        "id": folder.name, "pid": pid, "state": state, "port": launch.get("port"),
        "artifact_digest": observed.get("artifact_digest") if proven else None,
        "release_digest": observed.get("release_digest") if proven else None,
        "started_at": observed.get("started_at") if proven else None,
        "restarts": max(0, int(observed.get("starts", 1)) - 1),
    }  # fmt: skip


def processes(first: int, proc: Path = Path("/proc")) -> Set[int]:
    """A replica's processes: the group of its first one, and all that they started."""
    found: Dict[int, Tuple[int, int]] = {}
    for entry in proc.iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] not in "ZX":
                found[int(entry.name)] = (int(fields[1]), int(fields[2]))
    if first not in found:
        return set()
    group = found[first][1]
    wanted = {pid for pid, (_, its) in found.items() if its == group and group == first} | {first}
    while True:
        more = {pid for pid, (parent, _) in found.items() if parent in wanted} - wanted
        if not more:
            return wanted
        wanted |= more


def main_memory(pids: Set[int], proc: Path = Path("/proc")) -> Optional[int]:
    """What they take of main memory, shared pages by share; null unless every one of them can be read."""
    total = 0
    for pid in pids:
        try:
            found = re.search(r"^Pss: +(\d+) kB$", (proc / str(pid) / "smaps_rollup").read_text(), re.MULTILINE)
        except (FileNotFoundError, ProcessLookupError):
            if (proc / str(pid) / "status").exists():
                return None  # it is there: this kernel does not tell
            continue  # it has ended since
        except OSError:
            return None
        if found is None:
            return None
        total += int(found.group(1)) * 1024
    return total or None


def accelerator_memory(said: str, pids: Set[int]) -> Optional[int]:
    """What they take on all accelerators, by nvidia-smi's rows of pid and MiB; null unless each row is a number."""
    sizes = []
    for line in said.splitlines():
        pid, _, size = (part.strip() for part in line.partition(","))
        if pid.isdigit() and int(pid) in pids:
            if not size.isdigit():
                return None
            sizes.append(int(size) << 20)
    return sum(sizes) or None


def compute_apps() -> str:
    """What nvidia-smi lists; nothing without it, or when it fails."""
    if shutil.which("nvidia-smi") is None:
        return ""
    try:
        done = subprocess.run(_SMI, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode(errors="replace")


def measured(row: Dict[str, Any], said: str) -> Dict[str, Any]:
    """The row with what its processes take, if they are proven to be the release's."""
    pids = processes(row["pid"]) if row["release_digest"] else set()
    return {**row, "memory_bytes": main_memory(pids), "accelerator_bytes": accelerator_memory(said, pids)}


def tools(root: Path) -> Dict[str, str]:
    """The SHA-256 of each of our tools on this host."""
    folder = root / "bin"
    files = sorted(folder.glob("*.py")) if folder.is_dir() else []
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def target() -> Dict[str, str]:
    """What wheels for this host's Python must be made for."""
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return {"python": python, "machine": os.uname().machine, "libc": str(os.confstr("CS_GNU_LIBC_VERSION") or "")}


def observe(root: Path, wanted: Dict[str, Any]) -> Dict[str, Any]:
    """Everything at once: one task on the controller instead of ten."""
    manager = service_manager(str(wanted.get("service_manager", "auto")))
    base = root / "replicas"
    folders = sorted(p for p in base.iterdir() if p.is_dir()) if base.is_dir() else []
    managed = units([f.name for f in folders]) if manager == "systemd" else supervised(root)
    try:
        epoch = int((root / "fence" / "epoch").read_text())
    except (OSError, ValueError):
        epoch = 0
    artifact = str(wanted.get("artifact_digest") or "").rpartition(":")[2]
    rows = [replica_row(folder, managed) for folder in folders]
    if wanted.get("measure") is True:
        said = compute_apps()
        rows = [measured(row, said) for row in rows]
    return {
        "replicas": rows,
        "epoch": epoch,
        "operation": read_json(root / "fence" / "ops" / f"{wanted['op_id']}.json") if wanted.get("op_id") else {},
        "service_manager": manager,
        "supervised": managed is not None,
        "tools": tools(root),
        "missing": [e for e in wanted.get("environments", []) if not (root / "runtimes" / e / "INSTALLED").is_file()],
        "target": target(),
        "placed": bool(artifact) and (root / "artifacts" / artifact).is_dir(),
    }


def main() -> int:
    """The command."""
    wanted = json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
    print(json.dumps(observe(Path(sys.argv[1]), wanted), sort_keys=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
