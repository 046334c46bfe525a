"""The whole way on a local host with the real engine: install, start, answer, drain a stream, refuse a flipped bit."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest_fleet import REPOSITORY, Local, alive, launch_variables

from stack.fleet import HostEvent

MODEL = REPOSITORY / "models" / "tiny-1.0" / "gguf"
pytestmark = pytest.mark.e2e


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(port: int, **body: Any) -> http.client.HTTPResponse:
    """A completion, asked for until the engine listens."""
    for _ in range(200):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request(
                "POST", "/v1/completions", json.dumps({"prompt": "a b c", **body}), {"content-type": "application/json"}
            )
        except ConnectionRefusedError:
            time.sleep(0.05)
            continue
        response = connection.getresponse()
        if response.status != 503:
            return response
        time.sleep(0.05)
    raise AssertionError("the engine never listened")


@pytest.fixture
def deployed(local: Local) -> Iterator[tuple[Local, dict[str, Any], list[HostEvent]]]:
    events: list[HostEvent] = []
    variables = launch_variables(MODEL, free_port())
    result = local.door.run(local.operation("deploy-1", "deploy.yml", variables), on_event=events.append)
    try:
        assert result.status == "done", result.message
        yield local, variables, events
    finally:
        local.door.run(local.operation("end", "drain.yml", {"replica_id": "r1", "grace_s": 0}, epoch=99))
        pid = local.root / "supervisor" / "supervisord.pid"
        if pid.exists():
            os.kill(int(pid.read_text()), signal.SIGTERM)


def test_from_nothing_to_an_answer_and_down_again(deployed: tuple[Local, dict[str, Any], list[HostEvent]]) -> None:
    local, variables, events = deployed
    assert any(event.kind == "progress" for event in events)
    port = variables["port"]
    answer = json.loads(ask(port, max_tokens=4).read())
    assert answer["usage"]["completion_tokens"] > 0
    again = local.door.run(local.operation("deploy-1", "deploy.yml", variables, epoch=2))
    row = again.replica("r1")
    assert again.status == "already"
    assert row is not None
    assert (row["state"], row["artifact_digest"]) == ("running", variables["artifact_digest"])

    chunks: list[bytes] = []
    stream = ask(port, max_tokens=900, stream=True, ignore_eos=True)
    reader = threading.Thread(target=lambda: chunks.extend(stream.readlines()))
    reader.start()
    drained = local.door.run(local.operation("drain-1", "drain.yml", {"replica_id": "r1", "grace_s": 30}, epoch=2))
    reader.join()
    assert drained.status == "done"
    assert [chunk for chunk in chunks if chunk.strip()][-1] == b"data: [DONE]\n"
    assert not alive(row["pid"])


def test_a_stream_outlives_sigterm_and_newcomers_are_refused(
    deployed: tuple[Local, dict[str, Any], list[HostEvent]],
) -> None:
    local, variables, _ = deployed
    port = variables["port"]
    ask(port, max_tokens=1).read()
    streams = [ask(port, max_tokens=900, stream=True, ignore_eos=True) for _ in range(2)]
    pid = json.loads((local.root / "replicas" / "r1" / "observed.json").read_text())["pid"]
    (local.root / "replicas" / "r1" / "drain.json").write_text('{"grace_s": 30}')
    (local.root / "supervisor" / "conf.d" / "r1.conf").unlink()
    os.kill(pid, signal.SIGTERM)
    tails = [stream.readlines()[-2:] for stream in streams]
    assert all(b"data: [DONE]\n" in tail for tail in tails), tails
    log = local.root / "replicas" / "r1" / "engine.log"
    for _ in range(200):
        if "drained" in log.read_text():
            break
        time.sleep(0.05)
    assert "drained" in log.read_text()


def test_the_same_operation_brings_back_a_supervisor_that_died_since(
    deployed: tuple[Local, dict[str, Any], list[HostEvent]],
) -> None:
    """The step that started it is done, and yet it does not run: that is looked at, not remembered."""
    local, variables, _ = deployed
    os.kill(int((local.root / "supervisor" / "supervisord.pid").read_text()), signal.SIGKILL)
    for round_ in (2, 3):
        again = local.door.run(local.operation("deploy-1", "deploy.yml", variables, epoch=round_))
        assert again.succeeded, again
        row = again.replica("r1")
        assert row is not None and row["state"] in ("starting", "running"), row
    assert json.loads(ask(variables["port"], max_tokens=4).read())["usage"]["completion_tokens"] > 0


def test_a_flipped_bit_on_the_host_is_never_served(deployed: tuple[Local, dict[str, Any], list[HostEvent]]) -> None:
    local, variables, _ = deployed
    model: Path = next((local.root / "artifacts").glob("*/model.gguf"))
    model.chmod(0o644)
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    pid = json.loads((local.root / "replicas" / "r1" / "observed.json").read_text())["pid"]
    os.kill(pid, signal.SIGKILL)
    log = local.root / "replicas" / "r1" / "engine.log"
    for _ in range(200):
        if "launch refused" in log.read_text():
            break
        time.sleep(0.05)
    assert "launch refused" in log.read_text()
    time.sleep(1.5)
    row = local.door.run(local.operation("look", "observe.yml", {})).replica("r1")
    assert row is not None
    assert (row["state"], row["artifact_digest"]) == ("failed", None)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", variables["port"]), timeout=5)
