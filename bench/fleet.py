"""How a rollout grows with its hosts: time, CPU and memory of the control plane, and how fast it decides.

First over real SSH hosts (``fleet_real``), then over up to a thousand simulated ones. There, real are: gateway process,
store, worker, machine, gates, verdicts, routing tables, replica checks. Stand-in: Ansible (a door that answers each
operation after DOOR_S) and the engines (one process with a server for each replica, every host an address of its own in
127/8), so what grows is ours. One process for each count, so that memory is of that count alone:

    python -m bench.fleet 1000        # one count, JSON on stdout
"""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from bench import fleet_real
from bench.breach import BENCH, SUITE, Events, gateway_process
from bench.figures import Figure, Report, quantile
from bench.fleet_rest import at_rest
from bench.stage import ROOT, BenchFailed, Stage, free_ports
from bench.standin import ANSWER
from bench.timeline import moment
from stack.app import open_operator
from stack.app.operator import StackOperator
from stack.config.home import Home, Ports
from stack.fleet.values import HostEvent, Operation, OperationResult

COUNTS = (1, 10, 100, 1000)
QUICK = (1, 10)
DOOR_S = 0.05
FACTS: dict[str, Any] = {
    "memory": {"total": 64 << 30, "available": 60 << 30},
    "disk": {"path": "/opt/stack", "total": 1 << 40, "free": 1 << 39, "writable": True},
    "accelerators": [],
    "cpus": 8,
    "architecture": "x86_64",
    "system": "simulated",
    "libc": "glibc 2.36",
    "python": "3.11.2",
    "service_manager": "supervisord",
    "user": 0,
    "environments": True,
    "open_files": 1 << 16,
    "after_reboot": "cron",
}
LIMIT_S = 1500.0
SHOWN = (
    ("control plane's CPU for the canary", "CPU s", "canary_cpu_s"),
    ("control plane's peak memory", "MB", "rss_mb"),
    ("gateway's memory", "MB", "gateway_rss_mb"),
    ("verdict -> gateway routes by it, median", "s", "decision_p50_s"),
    ("verdict -> gateway routes by it, longest", "s", "decision_max_s"),
    ("reading the evidence of a rung, median", "ms", "look_p50_ms"),
    ("reading the evidence of a rung, p99", "ms", "look_p99_ms"),
    ("routing table pushed and in force", "ms", "push_ms"),
    ("plan", "ms", "plan_ms"),
    ("status", "s", "status_s"),
    ("control plane's CPU while nothing happens", "% of a core", "idle_cpu_percent"),
    ("gateway's CPU for each request", "us", "request_us"),
    ("audit records", "", "audit_rows"),
)
STACK = """
schema: 1
environment: dev
policies: {root}/policies
hosts: [{hosts}]
services:
  - name: tiny
    model: {root}/models/tiny-1.0.yaml
    hosts: [{names}]
    suites: {{smoke: smoke.json, eval: suite.json}}
    rollout:
      ladder: [10, 25, 50, 100]
      hold: {{min_requests: 60, min_seconds: 1, max_seconds: 300}}
      thresholds: {{max_latency_p95_s: 20.0, max_latency_ratio: 50.0, max_ttft_p95_s: 20.0}}
"""


@dataclass
class ManyDoor:
    """Takes operations as ``stack.fleet.AnsibleDoor`` does; thread-safe. Each host shows its own replicas."""

    process: subprocess.Popen[str]
    replicas: dict[str, dict[str, Mapping[str, Any]]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(
        self,
        op: Operation,
        *,
        check: bool = False,
        on_event: Callable[[HostEvent], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> OperationResult:
        """Start or stop one replica."""
        time.sleep(DOOR_S)
        with self.lock:
            mine = self.replicas.setdefault(op.host.name, {})
            if op.playbook in ("deploy.yml", "rollback.yml"):
                self._start(op, mine)
            elif op.playbook == "facts.yml":
                return OperationResult(
                    status="done", observed={"facts": {**FACTS, "clock_s": time.clock_gettime(time.CLOCK_REALTIME)}}
                )
            elif op.playbook == "drain.yml" and (gone := mine.pop(str(op.variables["replica_id"]), None)):
                self._say(op="stop", host=gone["host"], port=gone["port"])
            rows = [{"id": name, "state": "running", "pid": 1, **row} for name, row in mine.items()]
        return OperationResult(status="done", observed={"replicas": rows, "epoch": op.epoch})

    def _start(self, op: Operation, mine: dict[str, Mapping[str, Any]]) -> None:
        wanted = op.variables
        row = {"host": op.host.address, "port": wanted["port"], "release_digest": wanted["release_digest"]}
        self._say(op="start", host=row["host"], port=row["port"], model=wanted["served_model"], text=ANSWER)
        mine[str(wanted["replica_id"])] = {**row, "artifact_digest": wanted["artifact_digest"], "restarts": 0}

    def _say(self, **said: Any) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(said), file=self.process.stdin, flush=True)
        if not self.process.stdout.readline():
            raise BenchFailed("the stand-in replicas ended")


def measure(*, quick: bool) -> Report:
    """Real hosts, then every simulated count in a process of its own."""
    figures, real = fleet_real.measure(quick=quick)
    seen: dict[int, dict[str, float]] = {}
    for count in QUICK if quick else COUNTS:
        command = [sys.executable, "-m", "bench.fleet", str(count)]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=LIMIT_S, check=False)
        if done.returncode:
            raise BenchFailed(f"{count} hosts: exit {done.returncode}: {done.stdout[-1000:]}")
        seen[count] = json.loads(done.stdout)
        print(f"fleet of {count}: {seen[count]}", file=sys.stderr, flush=True)
    figures += [figure for count, found in seen.items() for figure in _figures(count, found)]
    figures += growth(seen)
    details = {"real": real, "simulated": {str(count): found for count, found in seen.items()}}
    return Report(bench="fleet", figures=tuple(figures), details=details)


def growth(seen: Mapping[int, Mapping[str, float]]) -> list[Figure]:
    """The exponent between the two largest counts: 1 is in proportion to the hosts, 2 is with their square."""
    (few, less), (many, more) = list(seen.items())[-2:]
    return [
        Figure(
            name=f"growth {few} -> {many} hosts: {what}",
            unit="",
            values=(math.log(more[key] / less[key]) / math.log(many / few),),
            note="1: in proportion",
        )
        for what, key in (("time of a canary", "canary_s"), ("CPU of a canary", "canary_cpu_s"), ("memory", "rss_mb"))
    ]


def _figures(count: int, found: Mapping[str, float]) -> list[Figure]:
    where = f"{count} simulated host{'s' if count > 1 else ''}"
    return [
        Figure(name=f"first release on {where}", unit="s", values=(found["first_s"],)),
        Figure(name=f"canary over {where}", unit="s", values=(found["canary_s"],)),
        *(Figure(name=f"  {name}", unit=unit, values=(found[key],)) for name, unit, key in SHOWN),
    ]


def one(count: int) -> dict[str, float]:
    """A first release and a canary over ``count`` hosts, in this process."""
    with tempfile.TemporaryDirectory(prefix="stack-bench-", ignore_cleanup_errors=True) as name, ExitStack() as held:
        place = Path(name)
        (place / "suite.json").write_text(json.dumps(SUITE))
        (place / "smoke.json").write_text(json.dumps({**SUITE, "tests": SUITE["tests"][:5]}))
        names = [f"h{n}" for n in range(count)]
        hosts = ", ".join(
            f"{{name: h{n}, connection: ssh, address: 127.10.{n // 250}.{n % 250 + 1}}}" for n in range(count)
        )
        (place / "stack.yaml").write_text(STACK.format(root=ROOT, hosts=hosts, names=", ".join(names)))
        one_port, two = free_ports(2)
        where = Stage(home=place / "home", gateway_port=one_port, admin_port=two)
        home = Home(where.home)
        held.enter_context(gateway_process(where, home))
        door = ManyDoor(process=held.enter_context(_replicas()))
        with _operator(place, home, where, door) as operator:
            first = _rollout(operator, {})
            canary = _rollout(operator, {"model": str(ROOT / "models/tiny-1.1.yaml")})
            rest = at_rest(operator, where)
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "first_s": first[0],
        "first_cpu_s": first[1],
        "canary_s": canary[0],
        "canary_cpu_s": canary[1],
        "decision_p50_s": quantile(canary[2], 0.5),
        "decision_max_s": max(canary[2]),
        "rss_mb": rss,
        **rest,
    }


def _rollout(operator: StackOperator, request: dict[str, Any]) -> tuple[float, float, list[float]]:
    """Seconds it took, CPU seconds of this process, and the times from a verdict to the table in force."""
    began, cpu = time.perf_counter(), time.process_time()
    events = Events(operator, str(operator.deploy(request, BENCH)["rollout"]), patience_s=LIMIT_S)
    events.wait_closed()
    took, used = time.perf_counter() - began, time.process_time() - cpu
    if operator.status()["rollouts"][0]["state"] != "promoted":
        raise BenchFailed("not promoted: " + "; ".join(e["text"] for e in events.seen[-5:]))
    verdicts = [moment(e["at"]) for e in events.seen if e["kind"] == "verdict"]
    tables = [moment(e["at"]) for e in events.seen if e["kind"] == "traffic"]
    decided = [min(t for t in tables if t >= at) - at for at in verdicts]
    return took, used, decided


@contextmanager
def _replicas() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.many_replicas"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(timeout=30)


@contextmanager
def _operator(place: Path, home: Home, where: Stage, door: ManyDoor) -> Iterator[StackOperator]:
    ports = Ports(gateway=where.gateway_port, admin=where.admin_port)
    with (
        patch("stack.app.wiring.AnsibleDoor", lambda **_: door),
        open_operator(home, place / "stack.yaml", ports) as operator,
    ):
        operator.start()
        try:
            yield operator
        finally:
            operator.stop()
            time.sleep(1.0)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    print(json.dumps(one(int(sys.argv[1]))))
