"""The real control plane in this process over a host where small faulty servers stand in for engines.

``StandInHost`` takes the place of the one door to Ansible: the same operations, the same outcomes, each operation id
done once. All else is real: wiring, store, worker, gates, and the gateway in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from running_stack import MODELS, REPOSITORY, Json, RunningStack, alive, free_ports, stack_file, until

from stack.app import open_operator, wiring
from stack.app.operator import StackOperator
from stack.cli.setup import prepare
from stack.config.home import Home, Ports
from stack.core.caller import Caller
from stack.fleet.values import HostEvent, Operation, OperationResult

FAULTY = REPOSITORY / "tests" / "gateway" / "faulty_server.py"
TEXT = "w0 w1 w2"
TEST = Caller(name="test", roles=frozenset({"admin"}))


@dataclass
class StandInHost:
    """``fault``: the faulty server's options for what is started from now on. ``started``: what the host says of when
    a replica's process began."""

    fault: tuple[str, ...] = ()
    running: dict[str, tuple[subprocess.Popen[str], Json]] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    started: dict[str, str] = field(default_factory=dict)
    epoch: int = 0

    def run(
        self,
        op: Operation,
        *,
        check: bool = False,
        on_event: Callable[[HostEvent], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> OperationResult:
        if op.epoch < self.epoch:
            return OperationResult(status="fenced", message=f"epoch {op.epoch} is lower than {self.epoch}")
        self.epoch = op.epoch
        if op.playbook == "observe.yml":
            return OperationResult(status="done", observed=self._observed())
        replica = str(op.variables["replica_id"])
        if str(op.op_id) not in self.done:
            if op.playbook == "drain.yml":
                self.end(replica)
            elif op.playbook != "place.yml":
                self._start(replica, dict(op.variables))
            self.done.add(str(op.op_id))
        return OperationResult(status="done", observed=self._observed())

    def _start(self, replica: str, wanted: Json) -> None:
        if replica in self.running and self.running[replica][0].poll() is None:
            return
        command = [sys.executable, str(FAULTY), "--port", str(wanted["port"]), "--model", str(wanted["served_model"])]
        process = subprocess.Popen([*command, "--text", TEXT, *self.fault], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline().startswith("listening")
        self.running[replica] = (process, wanted)

    def _observed(self) -> Json:
        rows = [
            {
                "id": replica,
                "pid": process.pid,
                "state": "running" if process.poll() is None else "failed",
                "port": wanted["port"],
                "artifact_digest": wanted["artifact_digest"],
                "release_digest": wanted["release_digest"],
                "started_at": self.started.get(replica, ""),
                "restarts": 0,
            }
            for replica, (process, wanted) in self.running.items()
        ]
        return {"replicas": rows, "epoch": self.epoch}

    def end(self, replica: str) -> None:
        """Stop one, if it is there."""
        process, _ = self.running.pop(replica, (None, {}))
        if process is not None:
            process.kill()
            process.wait()
            if process.stdout:
                process.stdout.close()


@dataclass
class StandInStack:
    """A stack in this process."""

    files: RunningStack
    host: StandInHost
    operator: StackOperator
    gateway: subprocess.Popen[str] | None = None

    def start_gateway(self) -> None:
        """``stackctl gateway`` alone, in a process of its own."""
        log = (self.files.home / "logs" / "gateway.log").open("a")
        with log:
            self.gateway = subprocess.Popen(
                [sys.executable, "-m", "stack.cli", "gateway"],
                cwd=REPOSITORY,
                env=self.files.environment,
                stderr=log,
                text=True,
            )
        until(lambda: self.operator.gateway_health()["pid"] == self.gateway_pid)

    @property
    def gateway_pid(self) -> int:
        assert self.gateway is not None
        return self.gateway.pid

    def kill_gateway(self) -> None:
        """SIGKILL."""
        if self.gateway is not None:
            self.gateway.kill()
            self.gateway.wait()
            until(lambda: not alive(self.gateway_pid))

    def begin(self, model: str) -> str:
        return str(self.operator.deploy({"model": str(MODELS / f"tiny-{model}.yaml")}, TEST)["rollout"])

    def phase(self, rollout: str) -> str:
        return str(self.files.row(rollout)["phase"])

    def deploy(self, model: str, *fault: str) -> Json:
        """Roll a release out whose replicas have this fault; its end."""
        self.host.fault = fault
        return self.files.ended(self.begin(model))

    def told(self, rollout: str, kind: str) -> list[str]:
        rows = self.files.rows("select text from events where rollout = ? and kind = ? order by seq", rollout, kind)
        return [str(row["text"]) for row in rows]

    def weights_seen(self, rollout: str) -> list[int]:
        """The candidate's shares of traffic, as the rollout's transitions set them."""
        found = self.files.rows("select data from events where rollout = ? and kind = 'phase' order by seq", rollout)
        shares = [yaml.safe_load(row["data"]).get("weights", {}).get("candidate", 0) for row in found]
        return [share for n, share in enumerate(shares) if n == 0 or share != shares[n - 1]]


def hello_suite(path: Path, tests: int) -> Path:
    """A suite that the stand-ins pass: many prompts, one word to say."""
    prompts = [
        {"description": f"say-{n}", "vars": {"prompt": f"Say w1, the {n}th time"}, "metadata": {"task": "say"},
         "assert": [{"type": "contains", "value": "w1"}]}
        for n in range(tests)
    ]  # fmt: skip
    path.write_text(yaml.safe_dump({"description": "say", "prompts": ["{{prompt}}"], "tests": prompts}))
    return path


@contextmanager
def stand_in_stack(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    rollout: Json | None = None,
    tests: int = 60,
    service: Json | None = None,
    host: Json | None = None,
) -> Iterator[StandInStack]:
    """Running, with nothing deployed yet."""
    folder.mkdir()
    suites = {"smoke": str(hello_suite(folder / "smoke.yaml", 3)), "eval": str(hello_suite(folder / "e.yaml", tests))}
    limits = {"max_latency_p95_s": 1.2, "max_ttft_p95_s": 1.2, **(rollout or {}).pop("thresholds", {})}
    quick = {"timeouts": {"ready_s": 4, "warm_s": 6}, "thresholds": limits, **(rollout or {})}
    one, two = free_ports(2)
    path = stack_file(folder, quick, service or {}, host)
    settings = yaml.safe_load(path.read_text())
    settings["services"][0]["suites"] = suites
    path.write_text(yaml.safe_dump(settings))
    files = RunningStack(folder / "home", path, one, two)
    home, stand_in = Home(files.home), StandInHost()
    prepare(home)
    monkeypatch.setattr(wiring, "AnsibleDoor", lambda **_: stand_in)
    with open_operator(home, path, Ports(gateway=one, admin=two)) as operator:
        made = StandInStack(files, stand_in, operator)
        try:
            made.start_gateway()
            operator.start()
            yield made
        finally:
            stop_driving(operator)
            made.kill_gateway()
            for replica in list(stand_in.running):
                stand_in.end(replica)


def stop_driving(operator: StackOperator) -> None:
    """Stop, and wait until nothing of it works any more: the store is closed next."""
    operator.stop()
    for thread in threading.enumerate():
        if thread.name in ("worker", "lease", "replay") or thread.name.startswith("rollout-"):
            thread.join(60)


def exit_status(pid: int) -> int:
    """Of a child of ours."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
