"""A door to hosts without hosts: each replica is a small OpenAI-style server here, which can be told to fail."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.stage import ROOT, BenchFailed
from stack.fleet.values import HostEvent, Operation, OperationResult

ANSWER = "w0 "  # what the server streams with one chunk; plain answers say the same
SERVER = ROOT / "tests" / "gateway" / "faulty_server.py"


@dataclass(frozen=True, kw_only=True)
class Replica:
    """One server."""

    process: subprocess.Popen[bytes]
    port: int
    release: str
    artifact: str


@dataclass(kw_only=True)
class StandInDoor:
    """Takes operations as ``stack.fleet.AnsibleDoor`` does; thread-safe."""

    log: Path
    newest: str = ""
    _replicas: dict[str, Replica] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(
        self,
        op: Operation,
        *,
        check: bool = False,
        on_event: Callable[[HostEvent], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> OperationResult:
        """Start or stop one server; says what runs then. Too quick to be cancelled."""
        with self._lock:
            if op.playbook in ("deploy.yml", "rollback.yml"):
                self._start(op.variables)
            elif op.playbook == "drain.yml":
                self._stop(str(op.variables["replica_id"]))
            return OperationResult(status="done", observed={"replicas": self._observed(), "epoch": op.epoch})

    def break_newest(self, fault: dict[str, Any]) -> float:
        """Make the replica that was started last fail; the moment it acknowledged that (seconds since 1970)."""
        with self._lock:
            port = self._replicas[self.newest].port
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/fault", json.dumps(fault).encode(), timeout=10) as answer:
            answer.read()
        return time.clock_gettime(time.CLOCK_REALTIME)

    def close(self) -> None:
        """End every server."""
        for name in list(self._replicas):
            self._stop(name)

    def _start(self, wanted: Any) -> None:
        name = str(wanted["replica_id"])
        if name in self._replicas:
            return
        command = [sys.executable, str(SERVER), "--port", str(wanted["port"]), "--text", ANSWER, "--chunks", "1"]
        command += ["--model", str(wanted["served_model"])]
        with self.log.open("ab") as log:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        assert process.stdout is not None
        if b"listening" not in process.stdout.readline():
            raise BenchFailed(f"a stand-in replica did not start: {self.log.read_text()[-500:]}")
        self._replicas[name] = Replica(
            process=process,
            port=int(wanted["port"]),
            release=str(wanted["release_digest"]),
            artifact=str(wanted["artifact_digest"]),
        )
        self.newest = name

    def _stop(self, name: str) -> None:
        replica = self._replicas.pop(name, None)
        if replica is not None:
            replica.process.terminate()
            replica.process.wait(timeout=30)
            if replica.process.stdout is not None:
                replica.process.stdout.close()

    def _observed(self) -> list[dict[str, Any]]:
        return [
            {
                "id": name,
                "pid": replica.process.pid,
                "state": "running",
                "port": replica.port,
                "release_digest": replica.release,
                "artifact_digest": replica.artifact,
                "restarts": 0,
            }
            for name, replica in self._replicas.items()
        ]
