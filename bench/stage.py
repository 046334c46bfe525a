"""A stack of its own to measure: state directory, two free ports, ``stackctl`` as a process. Taken down at the end."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LIMIT_S = 300.0


class BenchFailed(RuntimeError):
    """What should have been measured did not work; the message has the end of its output."""


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A command that ended: seconds from its start to its end, and what it printed."""

    seconds: float
    code: int
    out: str
    err: str


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stack. Every command is a process, as a user would start it."""

    home: Path
    gateway_port: int
    admin_port: int
    patience_s: float = LIMIT_S

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the commands: this checkout, this state directory, these ports."""
        mine = {
            "STACK_HOME": str(self.home),
            "STACK_GATEWAY_PORT": str(self.gateway_port),
            "STACK_ADMIN_PORT": str(self.admin_port),
            "PYTHONPATH": str(ROOT),
        }
        return {**os.environ, **mine}

    def stackctl(self, *words: str, codes: tuple[int, ...] = (0,)) -> Ran:
        """Run one command to its end."""
        begun = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "stack.cli", *words],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=self.patience_s,
        )
        ran = Ran(seconds=time.perf_counter() - begun, code=done.returncode, out=done.stdout, err=done.stderr)
        if ran.code not in codes:
            raise BenchFailed(f"stackctl {' '.join(words)} ended with {ran.code}:\n{(ran.out + ran.err)[-2000:]}")
        return ran

    def json(self, *words: str) -> dict[str, Any]:
        """What a command answers with --json."""
        return dict(json.loads(self.stackctl(*words, "--json").out))

    def evidence(self) -> dict[str, Any]:
        """The evidence of the newest rollout, as the product wrote it."""
        place = self.json("rollout", "list")["rollouts"][0]["evidence"]
        return dict(json.loads((Path(place) / "evidence.json").read_text()))

    def key(self) -> str:
        """The client's key to the gateway."""
        return (self.home / "secrets" / "client.key").read_text().strip()

    def pids(self) -> dict[str, int]:
        """The two processes, by name."""
        return {p.stem: int(p.read_text().split()[0]) for p in (self.home / "run").glob("*.pid")}


@contextmanager
def stage() -> Iterator[Stage]:
    """A fresh stage; ``stackctl down`` and the end of its directory, whatever happens."""
    with tempfile.TemporaryDirectory(prefix="stack-bench-", ignore_cleanup_errors=True) as name:
        one, two = free_ports(2)
        made = Stage(home=Path(name) / "home", gateway_port=one, admin_port=two)
        try:
            yield made
        finally:
            made.stackctl("down", codes=tuple(range(8)))


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, all different."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()
