"""A whole stack with real processes, as an operator has it: a home, two ports, a stack file, and ``stackctl``."""

from __future__ import annotations

import copy
import hashlib
import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stack.gateway.control import GatewayControl

REPOSITORY = Path(__file__).parents[2]
MODELS = REPOSITORY / "models"
Json = dict[str, Any]
ENDED = ("promoted", "rolled_back", "failed")


def until(what: Callable[[], Any], within_s: float = 60.0, poll_s: float = 0.05) -> Any:
    """Wait for something to become true. Generous: it only bounds how long a failure takes."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(poll_s)
    raise AssertionError(f"did not happen within {within_s} s")


def free_ports(count: int) -> list[int]:
    wires = [socket.socket() for _ in range(count)]
    try:
        for wire in wires:
            wire.bind(("127.0.0.1", 0))
        return [int(wire.getsockname()[1]) for wire in wires]
    finally:
        for wire in wires:
            wire.close()


def short_suite(path: Path, per_task: int) -> Path:
    """The first prompts of each task of the tiny models' eval suite."""
    suite = yaml.safe_load((MODELS / "evals" / "tiny-eval.yaml").read_text(encoding="utf-8"))
    kept: dict[str, list[Any]] = {}
    for test in suite["tests"]:
        kept.setdefault(test["metadata"]["task"], []).append(test)
    suite["tests"] = [test for tests in kept.values() for test in tests[:per_task]]
    path.write_text(yaml.safe_dump(suite, sort_keys=False), encoding="utf-8")
    return path


def stack_file(folder: Path, rollout: Json, service: Json, host: Json | None = None) -> Path:
    """The repository's own stack file with short holds, a short suite, and what the test changes."""
    settings = copy.deepcopy(yaml.safe_load((REPOSITORY / "stack.yaml").read_text(encoding="utf-8")))
    tiny = settings["services"][0]
    tiny["model"] = str(MODELS / "tiny-1.0.yaml")
    tiny["suites"] = {
        "smoke": str(MODELS / "evals" / "tiny-smoke.yaml"),
        "eval": str(short_suite(folder / "eval.yaml", 12)),
    }
    tiny["rollout"]["hold"] = {"min_requests": 40, "min_seconds": 0.5, "max_seconds": 60}
    tiny["rollout"]["thresholds"]["max_error_rate"] = 0.1
    # One loaded machine runs both sides and the load: how fast an answer comes is not what these tests are about.
    tiny["rollout"]["thresholds"].update({"max_latency_ratio": 50.0, "max_latency_p95_s": 20.0, "max_ttft_p95_s": 20.0})
    for key, value in rollout.items():
        if isinstance(value, dict):
            tiny["rollout"][key].update(value)
        else:
            tiny["rollout"][key] = value
    tiny.update(service)
    settings["hosts"][0].update(host or {})
    settings["policies"] = str(REPOSITORY / "policies")
    path = folder / "stack.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return path


@dataclass
class RunningStack:
    """See the module. Nothing runs before ``up``."""

    home: Path
    stack_yaml: Path
    gateway_port: int
    admin_port: int

    @classmethod
    def make(
        cls,
        folder: Path,
        runtimes: Path,
        rollout: Json | None = None,
        service: Json | None = None,
        host: Json | None = None,
    ) -> RunningStack:
        folder.mkdir()
        (folder / "home" / "hosts" / "local").mkdir(parents=True)
        (folder / "home" / "hosts" / "local" / "runtimes").symlink_to(runtimes)
        one, two = free_ports(2)
        return cls(folder / "home", stack_file(folder, rollout or {}, service or {}, host), one, two)

    # stackctl ------------------------------------------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        mine = {
            "STACK_HOME": str(self.home),
            "STACK_GATEWAY_PORT": str(self.gateway_port),
            "STACK_ADMIN_PORT": str(self.admin_port),
        }
        return {**os.environ, **mine}

    def ctl(self, *words: str, **extra: str) -> subprocess.CompletedProcess[str]:
        """``stackctl`` with these words; extra environment variables by name."""
        return subprocess.run(
            [sys.executable, "-m", "stack.cli", *words],
            cwd=REPOSITORY,
            env={**self.environment, **extra},
            capture_output=True,
            text=True,
            check=False,
            timeout=280,
        )

    def must(self, *words: str) -> Json:
        """``stackctl ... --json`` that has to succeed; its answer."""
        done = self.ctl(*words, "--json")
        assert done.returncode == 0, f"{words}: exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return dict(json.loads(done.stdout))

    def up(self) -> Json:
        return self.must("up", "--stack", str(self.stack_yaml))

    def down(self) -> None:
        done = self.ctl("down")
        assert done.returncode == 0, done.stderr

    def begin(self, model: str) -> str:
        """Begin to deploy ``1.1`` (or go back, for ``back``); the rollout's id."""
        words = ("rollback",) if model == "back" else ("deploy", "--model", str(MODELS / f"tiny-{model}.yaml"))
        return str(self.must(*words, "--no-wait")["rollout"])

    def deploy(self, model: str) -> Json:
        """Deploy and wait for the end."""
        return self.ended(self.begin(model))

    def ended(self, rollout: str, also: tuple[str, ...] = ("paused",), within_s: float = 240.0) -> Json:
        """The rollout once it is over (or ``also``), whatever happens to the control plane meanwhile."""

        def over() -> Json | None:
            row = self.row(rollout)
            return row if row["phase"] in (*ENDED, *also) else None

        return dict(until(over, within_s))

    # what is on disk, readable whatever runs ------------------------------------------------------------------

    def rows(self, question: str, *values: object) -> list[Json]:
        wire = sqlite3.connect(f"file:{self.home / 'state.db'}?mode=ro", uri=True, timeout=20)
        wire.row_factory = sqlite3.Row
        try:
            return [dict(row) for row in wire.execute(question, values)]
        finally:
            wire.close()

    def row(self, rollout: str) -> Json:
        found = self.rows("select phase, kind, state from rollouts where id = ?", rollout)[0]
        return {**json.loads(found["state"]), **{k: found[k] for k in ("phase", "kind")}}

    def pid(self, name: str) -> int:
        return int((self.home / "run" / f"{name}.pid").read_text().split()[0])

    def kill(self, name: str) -> None:
        """SIGKILL for ``control-plane`` or ``gateway``, and wait until it is gone."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        until(lambda: not alive(pid), 20)

    @property
    def host(self) -> Path:
        return self.home / "hosts" / "local"

    @property
    def control(self) -> GatewayControl:
        return GatewayControl(self.home / "run" / "gateway.sock", 10)

    @property
    def table(self) -> Json:
        """The gateway's own table, for the one service."""
        found = self.control.table()
        assert found is not None
        return dict(found.to_json()["services"][0])

    # clients -------------------------------------------------------------------------------------------------

    @property
    def key(self) -> str:
        return (self.home / "secrets" / "client.key").read_text(encoding="ascii").strip()

    def ask(
        self, prompt: str = "Hello", timeout: float = 60.0, model: str = "tiny"
    ) -> tuple[int, dict[str, str], Json]:
        """One completion through the gateway, as a client asks: status, headers, body."""
        wire = http.client.HTTPConnection("127.0.0.1", self.gateway_port, timeout=timeout)
        body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": 32, "temperature": 0}
        try:
            wire.request(
                "POST",
                "/v1/chat/completions",
                json.dumps(body),
                {"authorization": f"Bearer {self.key}", "content-type": "application/json"},
            )
            got = wire.getresponse()
            return got.status, {k.lower(): v for k, v in got.getheaders()}, json.loads(got.read())
        finally:
            wire.close()

    # the host ------------------------------------------------------------------------------------------------

    def engines(self) -> dict[str, list[int]]:
        """Replica id -> pids of the processes that run from its folder."""
        base = os.fsencode(self.host / "replicas") + b"/"
        found: dict[str, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or not alive(int(entry.name)):
                continue
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            for word in words:
                if word.startswith(base) and b"launch" in b" ".join(words):
                    found.setdefault(os.fsdecode(word[len(base) :]).split("/")[0], []).append(int(entry.name))
        return found

    def journal(self) -> list[Json]:
        """What the host's fence wrote down."""
        text = (self.host / "fence" / "journal.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines() if line.strip()]


def alive(pid: int) -> bool:
    """Is there such a process (a zombie is none)?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
