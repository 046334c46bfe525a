"""From a breach that can be seen to a candidate without traffic, under live load.

Real: gateway process, store, worker, machine, verdicts, eval replay, routing tables. Stand-in: Ansible and the engine;
``StandInDoor`` starts small OpenAI-style servers (``tests/gateway/faulty_server.py``) that fail when told to, so a
candidate passes every gate and then breaks at a known moment while its rung is held.

The moments of one round:

- *broken*: the candidate was told to fail, and acknowledged that.
- *first bad*: the gateway's books first show a failed answer of the candidate, or one slower than the limit.
- *breach observed*: the books first hold enough to prove the breach. Found afterwards: the bench reads the books every
  20 ms and asks the product's own ``breached`` about each reading, so the time until the product looks is counted. The
  verdict itself, should it come first (it may rest on the comparison with stable, or on the replay).
- *verdict*: the rollout's verdict event.
- *0 %*: the event after the gateway acknowledged the table in which the candidate has no weight. The bench then asks
  the gateway which table it routes by, and refuses the round if the candidate is in it.

Targeted is *breach observed* -> *0 %*, p95.
"""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from bench.books import Books
from bench.figures import Figure, Report
from bench.stage import ROOT, BenchFailed, Stage, free_ports
from bench.standin import ANSWER, StandInDoor
from bench.timeline import moment
from stack.app import open_operator
from stack.app.operator import StackOperator
from stack.cli.setup import prepare
from stack.config.home import Home, Ports
from stack.core.caller import Caller
from stack.gateway.control import GatewayControl
from stack.gateway.errors import GatewayUnavailable
from stack.rollout.holding import limits_of

LIMIT_S = 0.4
FAULTS = (
    {"fault": "500"},
    {"fault": "close"},
    {"fault": "slow", "delay": 2 * LIMIT_S},
)
HEALTHY_S = (0.5, 4.0)  # while the replay still runs, and after it, when there are many good answers already
PATIENCE_S = 60.0
BENCH = Caller(name="bench", roles=frozenset({"admin"}))
SUITE: dict[str, Any] = {
    "prompts": ["{{prompt}}"],
    "tests": [
        {
            "description": f"t-{n:03}",
            "vars": {"prompt": f"Say hello {n}"},
            "assert": [{"type": "equals", "value": ANSWER}],
        }
        for n in range(220)
    ],
}
STACK = f"""
schema: 1
environment: dev
hosts: [{{name: local, connection: local}}]
services:
  - name: tiny
    model: {ROOT}/models/tiny-1.0.yaml
    format: gguf
    runtime: {{engine: llamacpp, distribution: xllamacpp}}
    launch: {{context: 1024, parallel: 4, threads: 1}}
    hosts: [local]
    replicas: 1
    suites: {{smoke: suite.json, eval: suite.json}}
    rollout:
      ladder: [25, 100]
      hold: {{min_requests: 60, min_seconds: 45, max_seconds: 90}}
      thresholds: {{max_error_rate: 0.05, max_latency_p95_s: {LIMIT_S}, max_latency_ratio: 50.0, max_ttft_p95_s: 5.0}}
"""
FIRST = STACK.replace("min_seconds: 45", "min_seconds: 0.5")


def measure(*, rounds: int) -> Report:
    """``rounds`` candidates, each broken in turn in one of the ways of FAULTS."""
    with tempfile.TemporaryDirectory(prefix="stack-bench-", ignore_cleanup_errors=True) as name, ExitStack() as held:
        place = Path(name)
        one, two = free_ports(2)
        where = Stage(home=place / "home", gateway_port=one, admin_port=two)
        door = StandInDoor(log=place / "replicas.log")
        held.callback(door.close)
        home = Home(where.home)
        held.enter_context(gateway_process(where, home))
        _deploy_first(place, home, where, door)
        load = held.enter_context(_load(where))
        with _operator(place, STACK, home, where, door) as operator:
            seen = [
                _round(operator, home, door, FAULTS[number % len(FAULTS)], HEALTHY_S[number % len(HEALTHY_S)])
                for number in range(rounds)
            ]
        clients = _stop(load)
    return Report(bench="breach", figures=_figures(seen, clients), details={"rounds": seen, "clients": clients})


def _round(
    operator: StackOperator, home: Home, door: StandInDoor, fault: dict[str, Any], healthy_s: float
) -> dict[str, Any]:
    begun = operator.deploy({"model": str(ROOT / "models/tiny-1.1.yaml")}, BENCH)
    rollout = str(begun["rollout"])
    events = Events(operator, rollout)
    events.wait(lambda e: e["text"].startswith("holding"))
    newest = door.newest
    with Books(GatewayControl(home.gateway_socket)) as books:
        time.sleep(healthy_s)
        broken = door.break_newest(fault)
        events.wait_closed()
    verdict = events.first("verdict")
    zero = next(e for e in events.seen if e["kind"] == "traffic" and e["at"] > verdict["at"])
    _require_zero(home)
    evidence = [e for e in operator.rollout(rollout)["evidence_items"] if e["kind"] == "verdict"][-1]["body"]
    if evidence["verdict"] != "ROLLBACK":
        raise BenchFailed(f"the candidate was broken, the verdict is {evidence['verdict']}: {evidence['reason']}")
    limits = limits_of(next(iter(operator.settings.services.values())))
    proved = min(books.first_proof(newest, limits) or math.inf, moment(verdict["at"]))
    first_bad = books.first_bad(newest, LIMIT_S)
    end = moment(zero["at"])
    result = {
        "fault": fault["fault"],
        "healthy_s": healthy_s,
        "reason": evidence["reason"],
        "look": evidence["look"],
        "broken_to_first_bad": first_bad - broken,
        "first_bad_to_zero": end - first_bad,
        "observed_to_zero": end - proved,
        "observed_to_verdict": moment(verdict["at"]) - proved,
        "verdict_to_zero": end - moment(verdict["at"]),
    }
    print(
        f"breach by {fault['fault']} after {healthy_s:g} s: 0 % after {result['observed_to_zero']:.2f} s",
        file=sys.stderr,
        flush=True,
    )
    return result


class Events:
    """The events of one rollout, as an operator's watch gets them."""

    def __init__(self, operator: StackOperator, rollout: str, patience_s: float = PATIENCE_S) -> None:
        self._operator, self._rollout, self._patience_s = operator, rollout, patience_s
        self.seen: list[dict[str, Any]] = []

    def wait(self, wanted: Any) -> dict[str, Any]:
        """The first event that is wanted."""
        deadline = time.monotonic() + self._patience_s
        while time.monotonic() < deadline:
            for event in self._more():
                if wanted(event):
                    return event
            if self.closed:
                break
        raise BenchFailed("it never came to a hold: " + "; ".join(e["text"] for e in self.seen[-3:]))

    def wait_closed(self) -> None:
        """Until the rollout is over."""
        deadline = time.monotonic() + self._patience_s
        while not self.closed:
            if time.monotonic() > deadline:
                raise BenchFailed("the breach was not answered: " + "; ".join(e["text"] for e in self.seen[-3:]))
            self._more()
        self._more()

    def first(self, kind: str) -> dict[str, Any]:
        """The first of this kind."""
        return next(e for e in self.seen if e["kind"] == kind)

    closed = False

    def _more(self) -> list[dict[str, Any]]:
        after = self.seen[-1]["seq"] if self.seen else 0
        body = self._operator.events(self._rollout, after, 0.5)
        fresh = [{**e, "kind": e["state"]} for e in body["events"]]
        self.seen += fresh
        self.closed = body["state"] in ("promoted", "rolled_back", "failed")
        return fresh


def _require_zero(home: Home) -> None:
    table = GatewayControl(home.gateway_socket).table()
    weights = table.to_json()["services"][0]["weights"] if table else {}
    if weights.get("candidate", 0) != 0 or weights.get("stable") != 100:
        raise BenchFailed(f"the candidate has traffic still: {weights}")


def _deploy_first(place: Path, home: Home, where: Stage, door: StandInDoor) -> None:
    with _operator(place, FIRST, home, where, door) as operator:
        events = Events(operator, str(operator.deploy({}, BENCH)["rollout"]))
        events.wait_closed()
        if operator.status()["rollouts"][0]["state"] != "promoted":
            raise BenchFailed("the first release: " + "; ".join(e["text"] for e in events.seen[-8:]))


@contextmanager
def _operator(place: Path, text: str, home: Home, where: Stage, door: StandInDoor) -> Iterator[StackOperator]:
    (place / "suite.json").write_text(json.dumps(SUITE))
    (place / "stack.yaml").write_text(text)
    (place / "policies").mkdir(exist_ok=True)
    for file in (ROOT / "policies").iterdir():
        (place / "policies" / file.name).write_bytes(file.read_bytes())
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


@contextmanager
def gateway_process(where: Stage, home: Home) -> Iterator[None]:
    prepare(home)
    command = [sys.executable, "-m", "stack.gateway", "--home", str(where.home), "--port", str(where.gateway_port)]
    with (home.logs / "gateway.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=where.environment, stdout=log, stderr=log)
    try:
        _until_up(home)
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)


def _until_up(home: Home) -> None:
    for _ in range(600):
        try:
            GatewayControl(home.gateway_socket).health()
            return
        except GatewayUnavailable:
            time.sleep(0.05)
    raise BenchFailed("the gateway did not start")


@contextmanager
def _load(where: Stage) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(ROOT / "bench" / "steady_load.py"), "--port", str(where.gateway_port)]
    process = subprocess.Popen(
        command, env={**where.environment, "BENCH_KEY": where.key()}, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _stop(load: subprocess.Popen[str]) -> dict[str, int]:
    load.send_signal(signal.SIGTERM)
    out, _ = load.communicate(timeout=60)
    return dict(json.loads(out))


def _figures(seen: list[dict[str, Any]], clients: dict[str, int]) -> tuple[Figure, ...]:
    def of(key: str) -> tuple[float, ...]:
        return tuple(one[key] for one in seen)

    zero = of("observed_to_zero")
    return (
        Figure(
            name="breach observed -> candidate at 0 %", unit="s", values=zero, target=1.0, quantile=0.95, note="p95"
        ),
        Figure(name="  the same", unit="s", values=zero, note="p50"),
        Figure(name="  of that: verdict -> 0 %", unit="s", values=of("verdict_to_zero"), note="p50"),
        Figure(
            name="first bad answer -> candidate at 0 %",
            unit="s",
            values=of("first_bad_to_zero"),
            quantile=0.95,
            note="p95",
        ),
        Figure(name="  the same", unit="s", values=of("first_bad_to_zero"), note="p50"),
        Figure(name="clients' failed answers meanwhile", unit="", values=(float(clients["failed"]),), target=0.0),
    )
