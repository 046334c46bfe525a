"""Requests that wait for a replica: none lost; bounded in number, bytes and time; nothing for those that need not."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stack.gateway import waiting
from stack.gateway.errors import InvalidTable
from stack.gateway.table import RoutingTable
from stack.gateway.waiting import AT_ONCE, WaitingRoom

from .conftest import PROBE_KEY, FaultyReplica, Gateway, Reply, until

Start = Callable[..., FaultyReplica]


def table(*, targets: int = 0, hold_s: float = 0, name: str = "tiny") -> RoutingTable:
    rows = [
        {"id": f"r{n}", "slice": "stable", "release": "sha256:" + "0" * 64, "model": "m", "host": "127.0.0.1",
         "port": 1000 + n, "served_model": "m"}
        for n in range(targets)
    ]  # fmt: skip
    service = {"name": name, "weights": {"stable": 100}, "targets": rows, "hold_s": hold_s}
    return RoutingTable.from_json({"version": 1, "services": [service], "keys": []})


class Asker:
    def __init__(self) -> None:
        self.told: list[str] = []

    def again(self) -> None:
        self.told.append("again")

    def give_up(self) -> None:
        self.told.append("give up")


def asking(gateway: Gateway, number: int, **fields: Any) -> tuple[list[Reply], list[threading.Thread]]:
    replies: list[Reply] = []
    threads = [threading.Thread(target=lambda: replies.append(gateway.chat(**fields))) for _ in range(number)]
    for thread in threads:
        thread.start()
    return replies, threads


def waits(gateway: Gateway, number: int) -> None:
    until(lambda: gateway.control.health()["waiting"] == number)


def test_who_asks_while_there_is_no_replica_is_answered_by_the_next_one(gateway: Gateway, replica: Start) -> None:
    gateway.put([replica("tiny-a").target("r1")])
    assert gateway.chat().json["model"] == "tiny-a"
    gateway.put([], hold_s=60)
    replies, threads = asking(gateway, 40, stream=True)
    waits(gateway, 40)
    assert gateway.ask("GET", "/health").status == 200, "requests are taken: a load balancer must not go elsewhere"
    fresh = replica("tiny-b")
    gateway.put([fresh.target("r2")])
    for thread in threads:
        thread.join(30)
    assert [r.status for r in replies] == [200] * 40
    assert {r.headers["x-stack-replica"] for r in replies} == {"r2"}
    assert fresh.seen()["seen"] == 40
    waits(gateway, 0)


def test_nobody_waits_longer_than_the_table_says(gateway: Gateway) -> None:
    gateway.put([], hold_s=0.3)
    got = gateway.chat()
    assert (got.status, got.code, got.headers["retry-after"]) == (503, "no_target", "1")
    waits(gateway, 0)


def test_a_table_without_waiting_ends_it(gateway: Gateway) -> None:
    gateway.put([], hold_s=60)
    replies, threads = asking(gateway, 3)
    waits(gateway, 3)
    gateway.put([])
    for thread in threads:
        thread.join(30)
    assert [r.code for r in replies] == ["no_target"] * 3


def test_a_client_that_leaves_waits_no_more_and_a_probe_of_one_slice_never_does(gateway: Gateway) -> None:
    gateway.put([], hold_s=60)
    assert gateway.chat(slice_name="stable", key=PROBE_KEY).code == "no_target"
    with socket.create_connection(("127.0.0.1", gateway.port)) as wire:
        body = b'{"model":"tiny","messages":[]}'
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer sk-client\r\n"
        wire.sendall(head + b"content-length: %d\r\n\r\n" % len(body) + body)
        waits(gateway, 1)
    waits(gateway, 0)


def test_a_gateway_that_is_told_to_end_keeps_nobody_waiting(gateway: Gateway) -> None:
    gateway.put([], hold_s=300)
    replies, threads = asking(gateway, 2)
    waits(gateway, 2)
    gateway.process.terminate()
    for thread in threads:
        thread.join(30)
    assert [r.code for r in replies] == ["no_target"] * 2
    assert gateway.process.wait(30) == 0


def test_a_gateway_that_starts_again_takes_requests_to_wait_as_before(
    gateway: Gateway, start_gateway: Callable[..., Gateway], replica: Start
) -> None:
    gateway.put([], hold_s=60)
    gateway.process.kill()
    gateway.process.wait()
    again = start_gateway(home=gateway.home)
    replies, threads = asking(again, 2)
    waits(again, 2)
    again.version = 1
    again.put([replica("tiny-b").target("r2")])
    for thread in threads:
        thread.join(30)
    assert [r.status for r in replies] == [200] * 2


def test_there_is_room_for_so_many_and_so_much(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "MOST", 3)
    monkeypatch.setattr(waiting, "MOST_BYTES", 100)
    room, askers = WaitingRoom(), [Asker() for _ in range(4)]
    assert room.enter(askers[0], "tiny", 60)
    assert not room.enter(askers[1], "tiny", 41)
    assert [room.enter(a, "tiny", 20) for a in askers[1:]] == [True, True, False]
    assert (room.leave(askers[0]), room.leave(askers[0])) == (True, False)
    assert room.enter(askers[3], "tiny", 60)


@given(st.integers(0, 60), st.integers(1, 3), st.integers(0, 40))
def test_those_who_waited_longest_go_first_and_not_all_at_once(number: int, targets: int, busy: int) -> None:
    room, askers = WaitingRoom(), [Asker() for _ in range(number)]
    for asker in askers:
        assert room.enter(asker, "tiny", 1)
    room.let_go(table(hold_s=5), {}, draining=False)
    room.let_go(table(targets=targets, name="other"), {}, draining=False) if not number else None
    assert len(room) == number
    room.let_go(table(targets=targets), {"r0": busy}, draining=False)
    gone = min(number, max(0, AT_ONCE * targets - busy))
    assert [a.told for a in askers] == [["again"]] * gone + [[]] * (number - gone)
    room.let_go(table(), {}, draining=False)
    assert [a.told for a in askers[gone:]] == [["give up"]] * (number - gone)
    assert len(room) == 0


@pytest.mark.parametrize("hold", [-1, 301, True, "5", None, float("nan")])
def test_a_table_with_a_senseless_wait_is_refused(hold: Any) -> None:
    with pytest.raises(InvalidTable, match="hold_s"):
        table(hold_s=hold)


def test_a_table_without_waiting_is_written_as_before() -> None:
    plain, holding = table(targets=1), table(hold_s=12.5)
    assert "hold_s" not in plain.to_json()["services"][0]
    assert RoutingTable.from_json(holding.to_json()) == holding
    assert holding.services[0].hold_s == 12.5
