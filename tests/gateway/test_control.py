"""The control socket, the table on disk, starting twice, stopping: the gateway as the control plane sees it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from stack.gateway.control import GatewayControl, short
from stack.gateway.errors import GatewayUnavailable, InvalidTable, TableRefused
from stack.gateway.table import RoutingTable

from .conftest import ROOT, FaultyReplica, Gateway, free_port, until

Start = Callable[..., FaultyReplica]
StartGateway = Callable[..., Gateway]


def table(version: int) -> RoutingTable:
    return RoutingTable(version=version)


def test_versions_only_go_up(gateway: Gateway) -> None:
    assert gateway.control.table() is None
    assert gateway.control.put_table(table(7)) == 7
    assert gateway.control.put_table(table(7)) == 7  # identical: acknowledged again
    with pytest.raises(TableRefused) as caught:
        gateway.control.put_table(table(6))
    assert caught.value.facts == {"current": 7, "offered": 6} and caught.value.exit_code == 5
    assert gateway.control.table() == table(7)


def test_an_invalid_table_changes_nothing(gateway: Gateway) -> None:
    gateway.control.put_table(table(1))
    got = tell(gateway, {"op": "put-table", "table": {"version": 2, "services": 5, "surprise": 1}})
    assert got["ok"] is False and got["code"] == "InvalidTable" and len(got["facts"]["problems"]) == 3
    assert gateway.control.health()["table_version"] == 1


@pytest.mark.parametrize("line", [b"nonsense\n", b"{}\n", b"[]\n", b'{"op":"x"}\n', b'{"op":"samples","since":"x"}\n'])
def test_nonsense_on_the_control_socket_gets_an_answer(gateway: Gateway, line: bytes) -> None:
    assert json.loads(wire(gateway, line))["ok"] is False
    assert gateway.control.health()["ok"] is True


def test_serves_on_after_a_restart_without_the_control_plane(start_gateway: StartGateway, replica: Start) -> None:
    first, one = start_gateway(), replica()
    first.put([one.target("r1")])
    boot = first.control.health()["boot_id"]
    first.process.kill()  # nothing is cleaned up: the socket file stays
    first.process.wait()
    assert (first.home / "run" / "gateway.sock").exists()
    second = start_gateway(home=first.home)
    assert second.chat().status == 200
    health = second.control.health()
    assert health["table_version"] == 1 and health["boot_id"] != boot


def test_a_damaged_table_file_is_not_used(start_gateway: StartGateway, tmp_path: Path) -> None:
    home = tmp_path / "damaged"
    (home / "gateway").mkdir(parents=True)
    (home / "gateway" / "table.json").write_text('{"version": 3')
    found = start_gateway(home=home)
    assert found.ask("GET", "/health").status == 503
    found.control.put_table(table(1))
    assert json.loads((home / "gateway" / "table.json").read_bytes())["version"] == 1


def test_only_one_gateway_per_home(gateway: Gateway) -> None:
    got = launch(gateway.home, free_port())
    assert got.returncode == 5 and "Another gateway already serves" in got.stderr
    assert gateway.control.health()["ok"] is True


def test_a_port_in_use_is_a_clear_error(gateway: Gateway, tmp_path: Path) -> None:
    got = launch(tmp_path / "other", gateway.port)
    assert got.returncode == 4 and str(gateway.port) in got.stderr and "STACK_GATEWAY_PORT" in got.stderr


def test_nobody_behind_the_socket(tmp_path: Path) -> None:
    with pytest.raises(GatewayUnavailable):
        GatewayControl(tmp_path / "none.sock").health()


def test_paths_longer_than_a_socket_address(start_gateway: StartGateway, tmp_path: Path) -> None:
    found = start_gateway(home=tmp_path / ("long-" * 20) / ("longer-" * 10))
    assert found.control.health()["ok"] is True


@pytest.mark.faults
def test_control_connections_broken_off_at_any_byte_are_harmless(gateway: Gateway, replica: Start) -> None:
    one = replica()
    gateway.put([one.target("r1")])
    line = json.dumps({"op": "put-table", "table": table(99).to_json()}).encode()
    for cut in range(0, len(line), 7):
        with socket.socket(socket.AF_UNIX) as peer, short(gateway.control.path) as address:
            peer.connect(address)
            peer.sendall(line[:cut])
    assert gateway.control.health()["table_version"] == 1
    assert gateway.chat().status == 200


def test_samples_are_cumulative_and_the_cursor_moves(gateway: Gateway, replica: Start) -> None:
    one = replica()
    gateway.put([one.target("r1")])
    gateway.chat()
    first = gateway.control.samples()
    gateway.chat(stream=True)
    second = gateway.control.samples(first["cursor"])
    books = second["targets"]["r1"]
    assert books["requests"] == 2 and sum(books["latency_hist"]) == 2 and books["lost"] == 0
    assert len(books["latency_hist"]) == len(second["buckets"]) + 1
    (item,) = books["items"]
    assert item[0] == second["cursor"] == first["cursor"] + 1 and item[1] == 200 and item[2] >= item[3] > 0
    assert item[4:] == [8, "stable", False, "ok"]
    assert gateway.control.samples(second["cursor"])["targets"]["r1"]["items"] == []


def test_sigterm_lets_answers_under_way_end(start_gateway: StartGateway, replica: Start) -> None:
    found, one = start_gateway(), replica()
    one.set(pause=0.1, chunks=10)
    found.put([one.target("r1")])
    bodies: list[bytes] = []
    reader = threading.Thread(target=lambda: bodies.append(found.chat(stream=True).body))
    reader.start()
    idle = socket.create_connection(("127.0.0.1", found.port))
    until(lambda: one.seen()["seen"] == 1)
    found.process.send_signal(signal.SIGTERM)
    reader.join()
    assert bodies[0].endswith(b"data: [DONE]\n\n")
    assert found.process.wait(10) == 0
    assert idle.recv(10) == b""
    idle.close()
    assert not (found.home / "run" / "gateway.sock").exists()


def test_idle_memory_and_imports_stay_small(gateway: Gateway) -> None:
    with open(f"/proc/{gateway.process.pid}/status") as source:
        rss = next(int(line.split()[1]) for line in source if line.startswith("VmRSS"))
    print(f"idle: {rss} kB")
    assert rss < 45_000
    code = (
        "import sys, stack.gateway.__main__; print([m for m in ('pydantic','httpx','sqlalchemy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "[]\n"


def test_invalid_table_reaches_the_caller_as_such(gateway: Gateway) -> None:
    class Broken(RoutingTable):
        def to_json(self) -> dict[str, object]:
            return {"version": 0}

    with pytest.raises(InvalidTable):
        gateway.control.put_table(Broken(version=1))


def launch(home: Path, port: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stack.gateway", "--home", str(home), "--port", str(port)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def wire(gateway: Gateway, line: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as peer, short(gateway.control.path) as address:
        peer.settimeout(10)
        peer.connect(address)
        peer.sendall(line)
        return peer.recv(65536)


def tell(gateway: Gateway, question: dict[str, object]) -> dict[str, object]:
    return dict(json.loads(wire(gateway, json.dumps(question).encode() + b"\n")))
