"""Real processes for the gateway's tests: the gateway itself and faulty replicas, each on a port of its own."""

from __future__ import annotations

import hashlib
import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from stack.gateway.control import GatewayControl
from stack.gateway.table import RoutingTable

FAULTY = Path(__file__).with_name("faulty_server.py")
ROOT = Path(__file__).parents[2]
KEY, PROBE_KEY = "sk-client", "sk-probe"


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass
class FaultyReplica:
    """A running faulty server."""

    process: subprocess.Popen[str]
    port: int
    model: str

    def set(self, **wanted: Any) -> None:
        self._ask("POST", "/fault", wanted)

    def seen(self) -> dict[str, Any]:
        return self._ask("GET", "/seen", None)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def _ask(self, method: str, path: str, body: Any) -> dict[str, Any]:
        wire = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        wire.request(method, path, json.dumps(body) if body is not None else None)
        found = json.loads(wire.getresponse().read())
        wire.close()
        return found

    def target(self, name: str, slice_name: str = "stable", release: str = "a") -> dict[str, Any]:
        digest = "sha256:" + sha(release)
        return {
            "id": name, "slice": slice_name, "release": digest, "model": "tiny@1.0", "host": "127.0.0.1",
            "port": self.port, "served_model": self.model,
        }  # fmt: skip


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["error"]["code"])


@dataclass
class Gateway:
    """A running gateway and ways to talk to it."""

    process: subprocess.Popen[str]
    port: int
    home: Path
    control: GatewayControl
    version: int = 0
    table: dict[str, Any] = field(default_factory=dict)

    def put(
        self, targets: list[dict[str, Any]], weights: dict[str, int] | None = None, *, aliases: tuple[str, ...] = (),
        limits: dict[str, Any] | None = None, keys: list[dict[str, Any]] | None = None, hold_s: float = 0,
    ) -> None:  # fmt: skip
        self.version += 1
        service = {"name": "tiny", "aliases": list(aliases), "weights": weights or {"stable": 100}, "targets": targets}
        service |= {"hold_s": hold_s} if hold_s else {}
        default = [
            {"id": "client", "sha256": sha(KEY), "models": None, "may_pin": False},
            {"id": "probe", "sha256": sha(PROBE_KEY), "models": None, "may_pin": True},
        ]
        body = {"version": self.version, "services": [service], "keys": keys or default, "limits": limits or {}}
        self.control.put_table(RoutingTable.from_json(body))

    def ask(self, method: str, path: str, body: Any = None, *, key: str | None = KEY, **headers: str) -> Reply:
        wire = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        sent = {k.replace("_", "-"): v for k, v in headers.items()}
        if key is not None:
            sent["authorization"] = f"Bearer {key}"
        data = body if isinstance(body, bytes) or body is None else json.dumps(body)
        try:
            wire.request(method, path, data, sent)
            got = wire.getresponse()
            return Reply(got.status, {k.lower(): v for k, v in got.getheaders()}, got.read())
        finally:
            wire.close()

    def chat(self, *, key: str | None = KEY, slice_name: str | None = None, **fields: Any) -> Reply:
        body = {"messages": [{"role": "user", "content": "hi"}], "model": "tiny", **fields}
        pin = {} if slice_name is None else {"x_stack_slice": slice_name}
        return self.ask("POST", "/v1/chat/completions", body, key=key, **pin)

    def raw(self, data: bytes, *, wait: float = 10) -> bytes:
        """Everything the gateway answers to these bytes until it closes, or the wait is over."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=wait) as wire:
            wire.sendall(data)
            got = b""
            try:
                while piece := wire.recv(65536):
                    got += piece
            except (TimeoutError, ConnectionResetError):
                pass
        return got

    def books(self, replica: str, since: int = 0) -> dict[str, Any]:
        return self.control.samples(since)["targets"][replica]


def until(what: Callable[[], Any], within_s: float = 20) -> Any:
    """Wait for something to become true."""
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if found := what():
            return found
        time.sleep(0.02)
    raise AssertionError(f"did not happen within {within_s} s")


def free_port() -> int:
    with socket.socket() as wire:
        wire.bind(("127.0.0.1", 0))
        return int(wire.getsockname()[1])


@pytest.fixture
def replica() -> Iterator[Callable[..., FaultyReplica]]:
    """Starts faulty replicas: ``replica(model="m", fault="none", **options)``."""
    running: list[FaultyReplica] = []

    def start(model: str = "tiny-abc", fault: str = "none", port: int = 0, **options: Any) -> FaultyReplica:
        command = [sys.executable, str(FAULTY), "--port", str(port), "--model", model, "--fault", fault]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        found = FaultyReplica(process, int(process.stdout.readline().rsplit(":", 1)[1]), model)
        running.append(found)
        return found

    yield start
    for one in running:
        one.process.kill()
        one.process.wait()
        if one.process.stdout:
            one.process.stdout.close()


@pytest.fixture
def start_gateway(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """Starts gateways; waits until they listen."""
    running: list[Gateway] = []

    def start(home: Path | None = None, port: int | None = None, drain: float = 10) -> Gateway:
        home, port = home or tmp_path / "home", port or free_port()
        command = [sys.executable, "-m", "stack.gateway", "--home", str(home), "--port", str(port)]
        with open(tmp_path / f"gateway-{len(running)}.log", "w") as log:
            process = subprocess.Popen([*command, "--drain", str(drain)], cwd=ROOT, stderr=log, text=True)
        found = Gateway(process, port, home, GatewayControl(home / "run" / "gateway.sock", 10))
        running.append(found)
        until(lambda: process.poll() is not None or (home / "run" / "gateway.sock").exists())
        until(lambda: process.poll() is not None or _answers(found.control))
        return found

    yield start
    for one in running:
        one.process.kill()
        one.process.wait()


def _answers(control: GatewayControl) -> bool:
    from stack.gateway.errors import GatewayUnavailable

    try:
        control.health()
    except GatewayUnavailable:
        return False
    return True


@pytest.fixture
def gateway(start_gateway: Callable[..., Gateway]) -> Gateway:
    return start_gateway()
