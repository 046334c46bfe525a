"""What ``doctor`` looks at, one function per check. Each reads; none changes anything."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stack.cli import databases, processes, starting
from stack.cli.command import Place
from stack.cli.setup import SECRETS
from stack.core.clock import Clock
from stack.core.errors import StackError, Unavailable

Level = Literal["ok", "warn", "fail"]
_OLDEST_PYTHON = (3, 11, 0)
_LITTLE_DISK = 5_000_000_000
_NO_DISK = 500_000_000
_OLD_TABLE_S = 90 * 86400
_DATABASE_S = 60.0
_LONGEST_SOCKET_PATH = 107  # bytes, of sockaddr_un


@dataclass(frozen=True, kw_only=True)
class Check:
    """One finding; ``todo`` says what to do unless it is ok."""

    name: str
    level: Level
    found: str
    todo: str = ""


def all_checks(place: Place, clock: Clock, locks: Path) -> Iterator[Check]:
    """Every check, in the order of the list on the screen."""
    yield python_version()
    yield virtual_environment()
    yield disk(place.root)
    yield from permissions(place.root)
    for service in (starting.gateway(place), starting.control_plane(place, Path("stack.yaml"))):
        yield process(place, service)
    yield gateway_socket(place)
    yield table(place, clock)
    yield runtime_locks(locks)
    yield policies(Path("stack.yaml"))
    yield from state_database(place, Path("stack.yaml"))


def policies(stack: Path) -> Check:
    """They can be read, and somebody can give every approval that they ask for."""
    from stack.config.policies import load_policies
    from stack.config.stack_yaml import load_stack
    from stack.policy.warnings import warnings

    if not stack.is_file():
        return Check(name="policies", level="warn", found="no stack.yaml here", todo="Run doctor where stack.yaml is.")
    try:
        place = load_stack(stack.absolute()).policies
        lacks = warnings(load_policies(place))
    except StackError as error:
        todo = "Until it is corrected everything privileged is denied: docs/runbooks/policies-invalid.md"
        return Check(name="policies", level="fail", found=error.message, todo=todo)
    if lacks:
        return Check(name="policies", level="warn", found=lacks[0], todo="See docs/policies.md.")
    return Check(name="policies", level="ok", found=str(place))


def state_database(place: Place, stack: Path) -> Iterator[Check]:
    """Asked by a process of its own, for a bounded time: a server that does not answer is a finding, too."""
    if not stack.is_file():
        return
    try:
        body = databases.asked(databases.LOOK, place, stack, limit_s=_DATABASE_S)
    except StackError as error:
        yield Check(name="database", level="fail", found=error.message, todo=error.advice)
        return
    for found in body["findings"]:
        yield Check(**found)


def python_version() -> Check:
    """3.11 or newer."""
    version = tuple(sys.version_info[:3])
    supported = version >= _OLDEST_PYTHON
    todo = "" if supported else "Use Python 3.11 or newer: make PYTHON=python3.11"
    return Check(name="python", level="ok" if supported else "fail", found=".".join(map(str, version)), todo=todo)


def virtual_environment() -> Check:
    """Locked packages live in an environment of their own."""
    if sys.prefix == sys.base_prefix:
        return Check(name="environment", level="warn", found=sys.prefix, todo="Run the stackctl of .venv: make up")
    return Check(name="environment", level="ok", found=sys.prefix)


def disk(root: Path) -> Check:
    """Room for artifacts and evidence."""
    existing = next(path for path in (root, *root.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    level: Level = "ok" if free >= _LITTLE_DISK else "warn" if free >= _NO_DISK else "fail"
    todo = "" if level == "ok" else f"Make room on the file system of {existing}, or set STACK_HOME elsewhere."
    return Check(name="disk", level=level, found=f"{free / 1e9:.1f} GB free at {existing}", todo=todo)


def permissions(root: Path) -> Iterator[Check]:
    """The state directory is ours, its secrets are for nobody else."""
    if not root.is_dir():
        yield Check(name="state directory", level="warn", found=f"{root} does not exist", todo="Make it: stackctl up")
        return
    mine = root.stat().st_uid == os.geteuid() and os.access(root, os.W_OK | os.X_OK)
    todo = "" if mine else f"Run as the user who owns {root}."
    yield Check(name="state directory", level="ok" if mine else "fail", found=str(root), todo=todo)
    for name in SECRETS:
        yield _secret(root / "secrets" / name)


def _secret(path: Path) -> Check:
    name = f"secret {path.name}"
    if not path.is_file():
        return Check(name=name, level="warn", found="missing", todo="Make it: stackctl up")
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return Check(
            name=name, level="fail", found=f"mode {mode:04o}", todo=f"chmod 600 {path}, and replace the secret."
        )
    return Check(name=name, level="ok", found=f"mode {mode:04o}")


def process(place: Place, service: starting.Service) -> Check:
    """Running and answering; or not running, with its port free."""
    path = service.pid_file(place)
    found = processes.running(path)
    said = None if found is None else starting.health(service.port)
    if found is not None and said == 200:
        return Check(name=service.name, level="ok", found=f"pid {found.pid}, port {service.port}")
    if found is not None and said in service.up_statuses:
        text = f"pid {found.pid} has nothing healthy to route to"
        return Check(
            name=service.name, level="warn", found=text, todo="make deploy; stackctl status shows the replicas"
        )
    if found is not None:
        todo = f"Look at {service.log(place)}; then stackctl down && stackctl up"
        return Check(name=service.name, level="fail", found=f"pid {found.pid} does not answer", todo=todo)
    try:
        starting.require_free(service)
    except Unavailable as error:
        return Check(name=service.name, level="fail", found=error.message, todo=error.advice)
    if path.exists():
        return Check(name=service.name, level="warn", found=f"stale pid file {path}", todo="stackctl up replaces it.")
    return Check(name=service.name, level="warn", found="not running", todo="stackctl up")


def gateway_socket(place: Place) -> Check:
    """Its control socket, private."""
    path = place.home.gateway_socket
    if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH:
        todo = "Set STACK_HOME to a shorter path."
        return Check(name="gateway socket", level="fail", found=f"the path is too long: {path}", todo=todo)
    if not path.is_socket():
        todo = "stackctl up; if the gateway runs, stackctl down first"
        return Check(name="gateway socket", level="warn", found="missing", todo=todo)
    mode = stat.S_IMODE(path.stat().st_mode)
    private = not mode & 0o077 or not path.parent.stat().st_mode & 0o077
    todo = "" if private else f"chmod 700 {path.parent}"
    return Check(name="gateway socket", level="ok" if private else "fail", found=f"mode {mode:04o}", todo=todo)


def table(place: Place, clock: Clock) -> Check:
    """The last routing table the gateway was given."""
    path = place.home.gateway_table
    if not path.is_file():
        return Check(name="routing table", level="warn", found="none yet", todo="make deploy")
    age = max(0.0, clock.now().timestamp() - path.stat().st_mtime)
    level: Level = "warn" if age > _OLD_TABLE_S else "ok"
    todo = "" if level == "ok" else "Nothing was deployed for long: stackctl diff shows whether it still holds."
    return Check(name="routing table", level=level, found=f"{age / 3600:.1f} h old", todo=todo)


def runtime_locks(locks: Path) -> Check:
    """Hash locks of the runtimes that can be installed."""
    names = sorted(path.stem for path in locks.glob("*.txt"))
    if not names:
        todo = "Run stackctl in a complete checkout: the locks come with it."
        return Check(name="runtime locks", level="fail", found=f"none in {locks}", todo=todo)
    return Check(name="runtime locks", level="ok", found=", ".join(names))
