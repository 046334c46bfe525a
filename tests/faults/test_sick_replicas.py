"""Replicas that fall ill are found in under 30 s and brought back; a busy one is left alone.

Small faulty servers stand in for engines, real processes all of them; store, worker, monitor and gateway are real.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from clients import PlainClients
from running_stack import RunningStack, until
from stand_in import FAULTY, StandInStack, stand_in_stack

from stack.core.clock import SystemClock, stamp
from stack.rollout.restarting import BEGUN, RESTART
from stack.rollout.wellness import Condition, Limits

pytestmark = [pytest.mark.faults]
Count = Callable[[str], None]
WITHIN_S = 30.0

# what the stand-in is told -> the fault
ILL: Mapping[str, dict[str, Any]] = {
    "wedged, 200 on /health": {"fault": "hang"},
    "gibberish": {"text": "\ufffd\ufffd\ufffd\ufffd"},
    "empty answers": {"text": " "},
    "HTML with 200": {"fault": "html"},
    "JSON without sense": {"fault": "nonsense"},
    "wrong model": {"fault": "wrong-model"},
    "errors": {"fault": "500"},
}
KINDS = (*ILL, "dead", "SIGSTOP")


def tell(port: int, wanted: Mapping[str, Any]) -> None:
    """Change a stand-in while it runs."""
    wire = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        wire.request("POST", "/fault", json.dumps(wanted))
        assert wire.getresponse().status == 200
    finally:
        wire.close()


def condition(stack: StandInStack, replica: str) -> Condition | None:
    found = {str(i): s.condition for i, s in stack.operator.monitor.conditions().items()}
    return found.get(replica)


def restarts(stack: RunningStack, result: str = BEGUN) -> list[dict[str, Any]]:
    return stack.rows("select * from audit where action = ? and result = ? order by seq", RESTART, result)


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInStack]:
    """One replica for each kind of illness, one that loads, one that stays well."""
    service = {"replicas": len(KINDS) + 2}
    with stand_in_stack(tmp_path / "s", monkeypatch, {"ladder": [100]}, service=service) as stack:
        over = stack.deploy("1.0")
        assert over["phase"] == "promoted", over["reason"]
        everybody = list(stack.host.running)
        until(lambda: all(condition(stack, r) is Condition.WELL for r in everybody), 60)
        yield stack


def test_every_illness_is_found_within_thirty_seconds_and_cured(many: StandInStack, counted: Count) -> None:
    assert Limits().detected_within_s < WITHIN_S
    replicas = dict(zip((*KINDS, "loading", "well"), sorted(many.host.running), strict=True))
    before = {name: many.host.running[replica][0].pid for name, replica in replicas.items()}
    fell_ill = {kind: _strike(many, kind, replicas[kind]) for kind in KINDS}
    _start_anew_but_slowly(many, replicas["loading"])

    found: dict[str, float] = {}

    def all_found() -> bool:
        begun = {row["target"] for row in restarts(many.files)}
        for kind in KINDS:
            seen = condition(many, replicas[kind]) is Condition.SICK or replicas[kind] in begun
            if seen and kind not in found:
                found[kind] = time.monotonic() - fell_ill[kind]
        return len(found) == len(KINDS)

    until(all_found, 60)
    until(lambda: len(restarts(many.files, "ok")) == len(KINDS), 60)
    assert condition(many, replicas["loading"]) is Condition.LOADING
    tell(many.host.running[replicas["loading"]][1]["port"], {"fault": "none"})
    until(lambda: all(condition(many, r) is Condition.WELL for r in replicas.values()), 60)
    for kind, seconds in found.items():
        counted(f"sick replica, {kind}: found after {seconds:.1f} s")
    counted(
        f"sick replicas: {len(found)} of {len(KINDS)} found, slowest {max(found.values()):.1f} s; "
        "all cured, each by one restart; 1 loading left alone"
    )
    assert max(found.values()) < WITHIN_S
    targets = [row["target"] for row in restarts(many.files)]
    assert sorted(targets) == sorted(replicas[kind] for kind in KINDS), "each once, nobody else"
    after = {name: many.host.running[replica][0].pid for name, replica in replicas.items()}
    assert after["well"] == before["well"]
    for row in restarts(many.files):
        body = json.loads(row["body_json"])
        assert body["reason"]
        assert body["failed_probes"] >= 2


def _strike(stack: StandInStack, kind: str, replica: str) -> float:
    process, wanted = stack.host.running[replica]
    if kind == "dead":
        process.kill()
        process.wait()
    elif kind == "SIGSTOP":
        os.kill(process.pid, signal.SIGSTOP)
    else:
        tell(wanted["port"], ILL[kind])
    return time.monotonic()


def _start_anew_but_slowly(stack: StandInStack, replica: str) -> None:
    """As a supervisor does with a process that ended; it loads until it is told otherwise."""
    process, wanted = stack.host.running[replica]
    process.kill()
    process.wait()
    words = ["--port", str(wanted["port"]), "--model", str(wanted["served_model"]), "--text", "w0 w1 w2"]
    fresh = subprocess.Popen(
        [sys.executable, str(FAULTY), *words, "--fault", "never-ready"], stdout=subprocess.PIPE, text=True
    )
    stack.host.running[replica] = (fresh, wanted)
    stack.host.started[replica] = stamp(SystemClock().now())


def test_saturated_is_not_sick_and_wedged_under_load_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counted: Count
) -> None:
    """Two replicas with 4 slots each, 16 clients, 7 s an answer: longer than a probe waits. Then one of them wedges."""
    rollout = {"ladder": [100], "timeouts": {"ready_s": 10, "warm_s": 10}}
    with stand_in_stack(tmp_path / "s", monkeypatch, rollout, service={"replicas": 2}) as stack:
        over = stack.deploy("1.0")
        assert over["phase"] == "promoted", over["reason"]
        for _, wanted in stack.host.running.values():
            tell(wanted["port"], {"fault": "slow", "delay": 7.0})
        pids = {replica: process.pid for replica, (process, _) in stack.host.running.items()}
        with PlainClients(stack.files, threads=16) as clients:
            seen: set[Condition | None] = set()
            began = time.monotonic()
            while time.monotonic() - began < 65:
                seen |= {condition(stack, replica) for replica in pids}
                time.sleep(0.2)
            answered = clients.answered
            assert restarts(stack.files) == []
            assert Condition.BUSY in seen
            assert Condition.SICK not in seen
            counted(f"saturated for 65 s: {answered} answers of 7 s, 16 clients on 8 slots, 0 false restarts")
            wedged = sorted(pids)[0]
            _strike(stack, "wedged, 200 on /health", wedged)
            fell_ill = time.monotonic()
            until(lambda: condition(stack, wedged) is Condition.SICK or restarts(stack.files), 60)
            found = time.monotonic() - fell_ill
            until(lambda: restarts(stack.files, "ok"), 60)
        counted(
            f"wedged under load: found after {found:.1f} s; {clients.answered} requests answered, "
            f"{len(clients.failures)} failed"
        )
        assert found < WITHIN_S
        assert clients.failures == []
        assert [row["target"] for row in restarts(stack.files)] == [wedged]
        assert {r: p.pid for r, (p, _) in stack.host.running.items() if r != wedged} == {
            r: pid for r, pid in pids.items() if r != wedged
        }


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_a_real_engine_that_is_stopped_is_found_and_replaced(
    new_stack: Callable[..., RunningStack], counted: Count
) -> None:
    """SIGSTOP for llama.cpp under the real supervisor: its process lives, its port accepts, nothing is answered."""
    stack = new_stack(rollout={"ladder": [100]}, service={"replicas": 2})
    stack.up()
    assert stack.deploy("1.0")["phase"] == "promoted"
    with PlainClients(stack, threads=4) as clients:
        until(lambda: clients.answered > 20)
        replica, pids = sorted(stack.engines().items())[0]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        fell_ill = time.monotonic()
        until(lambda: restarts(stack), 60)
        found = time.monotonic() - fell_ill
        until(lambda: restarts(stack, "ok"), 90)
        cured = time.monotonic() - fell_ill
        before = clients.answered
        until(lambda: clients.answered > before + 20)
    counted(
        f"real engine, SIGSTOP: found after {found:.1f} s, replaced after {cured:.1f} s; "
        f"{clients.answered} requests answered, {len(clients.failures)} failed"
    )
    assert found < WITHIN_S
    assert clients.failures == []
    assert [row["target"] for row in restarts(stack)] == [replica]
    assert stack.engines()[replica] != pids
    _down_ends_it_too(stack, counted)


def _down_ends_it_too(stack: RunningStack, counted: Count) -> None:
    """A hung engine is not in the way of ``down``, and nobody starts it again after that."""
    for pid in sorted(stack.engines().items())[0][1]:
        os.kill(pid, signal.SIGSTOP)
    began = time.monotonic()
    stack.down()
    took = time.monotonic() - began
    time.sleep(3)
    left = stack.engines()
    counted(
        f"stackctl down with a hung engine: {took:.1f} s, {len(left)} engines left, "
        f"{len(restarts(stack))} restart in all"
    )
    assert left == {}
    assert len(restarts(stack)) == 1
