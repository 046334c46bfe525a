"""Running this machine's programs, and telling processes apart by more than their number. The only subprocess door."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from demo.hosts.errors import HostsFailed, HostsImpossible

NEEDED = {
    "ip": "iproute2",
    "mount": "mount",
    "unshare": "util-linux",
    "ssh-keygen": "openssh-client",
    "ssh": "openssh-client",
}


def run(*words: str | Path, environment: Mapping[str, str] | None = None) -> str:
    """Run a program to its end; its standard output. Raises with its own complaint."""
    command = [str(word) for word in words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise HostsFailed(f"{' '.join(command[:4])} ...: {said[-1] if said else f'exit {done.returncode}'}")
    return done.stdout


def try_run(*words: str | Path) -> bool:
    """Run a program for an effect that may be there already."""
    return subprocess.run([str(word) for word in words], capture_output=True, check=False).returncode == 0


def require(programs: Mapping[str, str]) -> None:
    """Every program is here, or all that are missing are named with their Debian packages."""
    missing = {package for program, package in programs.items() if shutil.which(program) is None}
    if missing:
        raise HostsImpossible(f"programs are missing; install the Debian packages: {' '.join(sorted(missing))}")


def require_namespaces() -> None:
    """Root, and a kernel that lets it make namespaces, bridges and overlay mounts."""
    if os.geteuid() != 0:
        raise HostsImpossible("test hosts need root (network namespaces, mounts)")
    require(NEEDED)
    if not try_run("unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "true"):
        raise HostsImpossible(
            "this machine does not permit namespaces (unshare failed), as in an unprivileged container"
        )


def started(pid: int) -> int:
    """When the process began, in ticks since boot; 0 when there is none. Pids are used again, pairs are not."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


def children(pid: int) -> tuple[int, ...]:
    """The processes that this one started and that still run."""
    with suppress(OSError):
        return tuple(int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return ()


def end(pid: int, began: int) -> None:
    """SIGKILL to exactly this process, and wait until it is gone."""
    if not began or started(pid) != began:
        return
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)
    wait_for(10, lambda: started(pid) != began, f"process {pid} does not end")


def wait_for(seconds: float, ready: Callable[[], bool], complaint: str) -> None:
    """Poll until it is true; raises with the complaint when it does not become so in time."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() >= deadline:
            raise HostsFailed(complaint)
        time.sleep(0.02)
