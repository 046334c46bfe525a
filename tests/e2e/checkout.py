"""A copy of this checkout in which the product is used as a new user does it: by ``make``, with ``.stack`` beside it.

The copy borrows the environment that runs the tests (installing from the lock is what ``.ci/run`` does before them),
but imports the copy's own code.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Json = dict[str, Any]
REPOSITORY = Path(__file__).parents[2]
LEFT_OUT = shutil.ignore_patterns(".git", ".venv*", ".stack", ".hypothesis", ".*_cache", "__pycache__", "*.egg-info")
_MAKE = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "STACK_HOME", "PYTHONPATH"}
PATIENCE_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Done:
    """A command that has ended."""

    command: str
    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """All it printed, for messages of failed assertions."""
        return f"$ {self.command}\n{self.out}\n{self.err}\n-> {self.code}"

    @property
    def body(self) -> Any:
        """Its answer in JSON."""
        return json.loads(self.out)


@dataclass(frozen=True, kw_only=True)
class Checkout:
    """The copy at ``root``; ``ports`` are its own. ``extra`` is added to the environment of every command."""

    root: Path
    ports: tuple[int, int]
    extra: tuple[tuple[str, str], ...] = ()

    @property
    def home(self) -> Path:
        """The default state directory."""
        return self.root / ".stack"

    @property
    def gateway_url(self) -> str:
        """Where clients ask."""
        return f"http://127.0.0.1:{self.ports[0]}"

    @property
    def key(self) -> str:
        """The clients' API key."""
        return (self.home / "secrets" / "client.key").read_text(encoding="ascii").strip()

    @property
    def environment(self) -> dict[str, str]:
        """This one, without what would leak from the make that runs the tests."""
        inherited = {k: v for k, v in os.environ.items() if k not in _MAKE}
        gateway, admin = map(str, self.ports)
        own = {"PYTHONPATH": str(self.root), "STACK_GATEWAY_PORT": gateway, "STACK_ADMIN_PORT": admin}
        return {**inherited, "LC_ALL": "C.UTF-8", **own, **dict(self.extra)}

    def run(self, *command: str, limit_s: float = 600.0) -> Done:
        """A command in the copy."""
        ended = subprocess.run(
            command,
            cwd=self.root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=limit_s,
        )
        return Done(command=" ".join(command), code=ended.returncode, out=ended.stdout, err=ended.stderr)

    def make(self, *arguments: str, limit_s: float = 600.0) -> Done:
        """``make``, as the user types it."""
        return self.run("make", "--no-print-directory", *arguments, limit_s=limit_s)

    def stackctl(self, *arguments: str, limit_s: float = 600.0) -> Done:
        """``stackctl`` of the environment."""
        return self.run(str(self.root / ".venv" / "bin" / "stackctl"), *arguments, limit_s=limit_s)

    def start(self, *arguments: str) -> int:
        """A ``stackctl`` command that stays; its pid. ``end`` ends it."""
        command = [str(self.root / ".venv" / "bin" / "stackctl"), *arguments]
        with (self.root / "foreground.log").open("ab") as log:
            return subprocess.Popen(
                command, cwd=self.root, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            ).pid

    def asked(self, *arguments: str) -> Any:
        """The JSON answer of a ``stackctl`` command that must succeed."""
        done = self.stackctl(*arguments, "--json")
        assert done.code == 0, done.text
        return done.body

    def status(self) -> Json:
        """``stackctl status --json``."""
        body: Json = self.asked("status")
        return body

    def service(self) -> Json:
        """The one service of its status."""
        (service,) = self.status()["services"]
        return dict(service)

    def processes(self) -> dict[int, str]:
        """Every living process whose command line or working directory names this copy."""
        return dict(_processes(str(self.root)))

    def end(self) -> None:
        """``down``, then whatever it left."""
        try:
            self.stackctl("down", limit_s=120.0)
        finally:
            for pid in self.processes():
                os.kill(pid, signal.SIGKILL)


def copy_to(root: Path, ports: tuple[int, int], **extra: str) -> Checkout:
    """A fresh copy of the working tree."""
    shutil.copytree(REPOSITORY, root, ignore=LEFT_OUT, symlinks=True)
    _borrow(Path(sys.prefix), root / ".venv", root)
    return Checkout(root=root, ports=ports, extra=tuple(extra.items()))


def _borrow(real: Path, venv: Path, root: Path) -> None:
    """An environment made of links, with the stamp that says that it is as the lock wants it."""
    venv.mkdir()
    for item in real.iterdir():
        if not item.name.startswith((".base-", ".dev-")):
            (venv / item.name).symlink_to(item)
    locked = b"".join((root / name).read_bytes() for name in ("requirements/base.txt", "pyproject.toml"))
    (venv / f".base-{hashlib.sha256(locked).hexdigest()[:32]}").touch()


def free_ports() -> tuple[int, int]:
    """Two of them."""
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        return one.getsockname()[1], two.getsockname()[1]


def _processes(named: str) -> Iterator[tuple[int, str]]:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            state = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[0]
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            place = str((entry / "cwd").readlink())
        except OSError:
            continue
        if state not in "ZX" and (named in words or place.startswith(named)):
            yield int(entry.name), words


def eventually(probe: Callable[[], Any], what: str) -> Any:
    """The first true answer of ``probe``; a machine under load is given its time."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = probe()
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError(f"never: {what}")


def digest_of_tree(root: Path) -> str:
    """Path, mode and content of everything below ``root`` but sockets and what running engines write to their logs."""
    lines = []
    for path in sorted(root.rglob("*")):
        if path.is_socket() or path.suffix == ".log":
            continue
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        lines.append(f"{path.relative_to(root)} {path.lstat().st_mode:o} {content}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
