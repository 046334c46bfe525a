"""What a stack costs while nothing is rolled out, and how long a look and a new table take: part of ``bench.fleet``."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable
from pathlib import Path

from bench.figures import quantile
from bench.fleet_real import used
from bench.stage import BenchFailed, Stage
from stack.app.operator import StackOperator

LOOKS = 100
REQUESTS = 400
IDLE_S = 10.0
QUESTION = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "Say hello"}]})


def at_rest(operator: StackOperator, where: Stage) -> dict[str, float]:
    """After the rollouts: two releases run on every host, stable and last known good."""
    control, store = operator.observer.control, operator.store
    cursor = int(control.attempts()["cursor"])

    def look() -> None:
        control.attempts(since=cursor)
        with store.reading() as tx:
            tx.live_ids("tiny")

    looks = [_seconds(look) for _ in range(LOOKS)]
    gateway = int(control.health()["pid"])
    request_us = _requests(where, gateway)
    with store.reading() as tx:
        last = tx.last_audit()
    return {
        "look_p50_ms": 1e3 * quantile(looks, 0.5),
        "look_p99_ms": 1e3 * quantile(looks, 0.99),
        "push_ms": 1e3 * _seconds(lambda: operator.reconciler.routes.push(lambda s: s.transaction())),
        "plan_ms": 1e3 * _seconds(lambda: operator.plan({})),
        "status_s": _seconds(operator.status),
        "idle_cpu_percent": _idle(),
        "request_us": request_us,
        "gateway_rss_mb": _resident(gateway),
        "audit_rows": float(last.seq if last else 0),
    }


def _seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def _idle() -> float:
    """Of this process, in which the control plane's loops go on."""
    began, cpu = time.perf_counter(), time.process_time()
    time.sleep(IDLE_S)
    return 100 * (time.process_time() - cpu) / (time.perf_counter() - began)


def _requests(where: Stage, gateway: int) -> float:
    """CPU of the gateway for each of a few hundred requests, one after the other on one connection, in microseconds."""
    wire = http.client.HTTPConnection("127.0.0.1", where.gateway_port, timeout=60)
    head = {"authorization": f"Bearer {where.key()}", "content-type": "application/json"}
    before = used(gateway).own
    for _ in range(REQUESTS):
        wire.request("POST", "/v1/chat/completions", QUESTION, head)
        answer = wire.getresponse()
        answer.read()
        if answer.status != 200:
            raise BenchFailed(f"the gateway answered {answer.status}")
    wire.close()
    return 1e6 * (used(gateway).own - before) / REQUESTS


def _resident(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise BenchFailed("the gateway is gone")
