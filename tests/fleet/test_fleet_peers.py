"""Artifacts by way of another host that has them: measured, checked, never needed. And who gets nothing from it."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest_fleet import artifact_digest, install_tools, tool
from conftest_hosts import Reached
from conftest_transfer import MIB, big_artifact, launch, placed, processes, progress, slowed

from stack.fleet import HostEvent
from stack.fleet.values import peer_line

pytestmark = [pytest.mark.hosts, pytest.mark.timeout(480)]
Reach = Callable[[str], Reached]
SIZE = 72 * MIB


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return big_artifact(tmp_path_factory.mktemp("peers") / "gguf", SIZE)


@pytest.fixture
def pair(reach: Reach, artifact: Path, request: pytest.FixtureRequest) -> tuple[Reached, Reached, dict[str, Any]]:
    """A host that has the artifact, one that has not, and what the second is told."""
    root = f"/opt/peers-{abs(hash(request.node.name)) % 10**8}"
    giver, taker = reach("h1").at(root), reach("h2").at(root)
    first = giver.run("place-1", "place.yml", launch(giver, artifact, 21401))
    assert first.status == "done", first.message
    return giver, taker, {**launch(taker, artifact, 21401), "peers": [peer_line(giver.host)]}


def sent_from_here(host: Reached) -> int:
    """Bytes that this machine itself gave to its test hosts so far; what goes between them is not among these."""
    return int(Path(f"/sys/class/net/{host.group.network.bridge}/statistics/tx_bytes").read_text())


def test_the_faster_peer_gives_the_rest(pair: tuple[Reached, Reached, dict[str, Any]]) -> None:
    giver, taker, variables = pair
    events: list[HostEvent] = []
    before = sent_from_here(taker)
    with slowed(taker.group.network.bridge, mbit=8):
        result = taker.run("place-1", "place.yml", variables, on_event=events.append)
    assert result.status == "done", result.message
    assert artifact_digest(placed(taker, variables)) == variables["artifact_digest"]
    assert any(line.endswith(f"from {giver.host.name}") for line in progress(events)), progress(events)
    assert sent_from_here(taker) - before < SIZE // 2
    assert not processes(giver, b"serve.py")
    assert taker.shell(f"ls -A {taker.host.root}/artifacts").split() == [variables["artifact_digest"][7:]]


def test_a_peer_that_dies_midway_is_done_without(pair: tuple[Reached, Reached, dict[str, Any]]) -> None:
    giver, taker, variables = pair
    killed: list[int] = []
    over = threading.Event()

    def kill() -> None:
        while not over.is_set() and not killed:
            for pid in processes(giver, b"bin/serve.py"):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
            time.sleep(0.01)

    watcher = threading.Thread(target=kill)
    watcher.start()
    try:
        with slowed(taker.group.network.bridge, mbit=160):
            result = taker.run("place-1", "place.yml", variables)
    finally:
        over.set()
        watcher.join()
    assert killed
    assert result.status == "done", result.message
    assert artifact_digest(placed(taker, variables)) == variables["artifact_digest"]


def test_a_peer_that_gives_other_bytes_is_not_believed(pair: tuple[Reached, Reached, dict[str, Any]]) -> None:
    giver, taker, variables = pair
    theirs = placed(giver, variables) / "model.gguf"
    theirs.chmod(0o644)
    size = theirs.stat().st_size
    theirs.write_bytes(bytes(size))
    events: list[HostEvent] = []
    with slowed(taker.group.network.bridge, mbit=160):
        result = taker.run("place-1", "place.yml", variables, on_event=events.append)
    assert result.status == "done", result.message
    assert artifact_digest(placed(taker, variables)) == variables["artifact_digest"]
    assert not [e for e in events if e.task == "Look for what was damaged" and e.kind == "changed"]


def test_a_peer_that_is_not_there_or_has_not_got_it_costs_nothing_but_a_try(
    pair: tuple[Reached, Reached, dict[str, Any]],
) -> None:
    giver, taker, variables = pair
    nobody = str(giver.group.network.subnet[251])
    lines = [peer_line(giver.at("/opt/nothing").host), f"h9 {nobody} {nobody} 22 root /opt/stack python3"]
    with slowed(taker.group.network.bridge, mbit=160):
        result = taker.run("place-1", "place.yml", {**variables, "peers": lines})
    assert result.status == "done", result.message


def plugin() -> Any:
    """The controller's end, as a module."""
    path = tool("fence", "serve.py").parents[3] / "action_plugins" / "send.py"
    found = importlib.util.spec_from_file_location("send_plugin", path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules["send_plugin"] = module
    found.loader.exec_module(module)
    return module


@contextmanager
def serving(root: Path, given: Mapping[str, str]) -> Iterator[int]:
    """``serve.py`` of this machine, as a peer; its port."""
    binaries = install_tools(root)
    command = [sys.executable, str(binaries / "serve.py"), str(root), "a" * 64, "127.0.0.1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        text = json.dumps(dict(given)).encode()
        process.stdin.write(len(text).to_bytes(4, "big") + text)
        process.stdin.flush()
        yield int(json.loads(process.stdout.readline())["port"])
        process.stdin.close()
        assert process.wait(timeout=30) == 0


def ask(port: int, certificate: str, path: str, headers: Mapping[str, str]) -> tuple[int, bytes]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=certificate)
    line = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=30)
    line.request("GET", path, headers=dict(headers))
    answer = line.getresponse()
    return answer.status, answer.read()


def test_nobody_without_the_token_gets_anything_and_nothing_else_is_given(tmp_path: Path) -> None:
    send = plugin()
    given, other = send.credentials(), send.credentials()
    folder = tmp_path / "artifacts" / ("a" * 64)
    folder.mkdir(parents=True)
    (folder / "model.gguf").write_bytes(b"0123456789")
    (folder / "link").symlink_to("/etc/passwd")
    (tmp_path / "secret").write_bytes(b"not of the artifact")
    span = {"Range": "bytes=2-5"}
    right = {"Authorization": f"Bearer {given['token']}"}
    with serving(tmp_path, given) as port:
        certificate = given["certificate"]
        assert ask(port, certificate, "/model.gguf", {**right, **span}) == (206, b"2345")
        for wrong in ({}, {"Authorization": f"Bearer {other['token']}"}, {"Authorization": "Bearer "}):
            assert ask(port, certificate, "/model.gguf", {**wrong, **span}) == (403, b"")
        for path in ("/link", "/../../secret", "/%2e%2e/%2e%2e/secret", "//etc/passwd", "/"):
            assert ask(port, certificate, path, {**right, **span}) == (404, b"")
        for wide in ("bytes=5-99", "bytes=7-3"):
            assert ask(port, certificate, "/model.gguf", {**right, "Range": wide}) == (416, b"")
        assert ask(port, certificate, "/model.gguf", right) == (404, b"")
        with pytest.raises(ssl.SSLError):
            ask(port, other["certificate"], "/model.gguf", {**right, **span})
        with socket.create_connection(("127.0.0.1", port)) as silent:
            assert ask(port, certificate, "/model.gguf", {**right, **span})[0] == 206
            silent.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


@pytest.mark.parametrize(
    ("rates", "missing", "source"),
    [
        ({}, 1 << 30, ""),
        ({"": 50.0}, 1 << 30, "p"),
        ({"": 50.0, "p": 80.0}, 1 << 30, "q"),
        ({"": 50.0, "p": 80.0, "q": 20.0}, 1 << 30, "p"),
        ({"": 90.0, "p": 80.0, "q": 20.0}, 1 << 30, ""),
        ({"": 50.0, "p": 0.0, "q": 20.0}, 1 << 30, ""),
        ({"": 50.0, "p": 0.0, "q": 0.0}, 1 << 30, ""),
        ({}, 1 << 20, ""),
    ],
)
def test_the_source_is_the_fastest_that_was_measured(rates: dict[str, float], missing: int, source: str) -> None:
    assert plugin().chosen(rates, ["p", "q"], missing)[0] == source
