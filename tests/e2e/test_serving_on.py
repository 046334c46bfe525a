"""Serving outlives the processes that arranged it."""

from __future__ import annotations

import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkout import Checkout, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def answers(served: Checkout) -> str | None:
    """What the service says to a known question; None when it does not answer."""
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Tell me the capital of Sweden."}],
        "temperature": 0,
    }
    head = {"authorization": f"Bearer {served.key}", "content-type": "application/json"}
    request = urllib.request.Request(
        f"{served.gateway_url}/v1/chat/completions", data=json.dumps(body).encode(), headers=head
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return str(json.load(reply)["choices"][0]["message"]["content"])
    except (urllib.error.URLError, OSError):
        return None


def kill(served: Checkout, pid: int) -> None:
    """-9, and wait until it is gone."""
    assert pid in served.processes()
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: pid not in served.processes(), f"{pid} is gone")


@pytest.fixture
def whole(served: Checkout) -> Iterator[Checkout]:
    """Everything runs before and after."""
    assert served.stackctl("up").code == 0
    yield served
    up = served.stackctl("up")
    assert up.code == 0, up.text


def test_the_gateway_serves_without_the_control_plane(whole: Checkout) -> None:
    kill(whole, whole.status()["control_plane"]["pid"])
    assert whole.stackctl("status").code == 4
    assert [answers(whole) for _ in range(20)] == ["Stockholm"] * 20


def test_a_gateway_alone_serves_its_last_table(whole: Checkout) -> None:
    status = whole.status()
    kill(whole, status["control_plane"]["pid"])
    kill(whole, status["gateway"]["pid"])
    assert answers(whole) is None
    gateway = whole.start("gateway")
    assert eventually(lambda: answers(whole), "the gateway answers") == "Stockholm"
    assert whole.stackctl("up").code == 0
    after = whole.status()
    assert after["gateway"]["pid"] == gateway
    assert after["gateway"]["table_version"] >= status["gateway"]["table_version"]
    assert after["services"][0]["weights"] == status["services"][0]["weights"]


def test_the_control_plane_comes_back_to_what_it_left(whole: Checkout) -> None:
    before = whole.status()
    kill(whole, before["control_plane"]["pid"])
    assert whole.stackctl("up").code == 0
    after = whole.status()
    assert after["services"] == before["services"]
    assert after["rollouts"] == before["rollouts"]
    assert after["gateway"]["pid"] == before["gateway"]["pid"]


def test_a_killed_replica_is_started_again_and_serves(whole: Checkout) -> None:
    (replica,) = whole.service()["replicas"]
    engines = [pid for pid, words in whole.processes().items() if replica["id"] in words and "supervis" not in words]
    assert engines
    kill(whole, engines[0])
    assert eventually(lambda: answers(whole), "the replica answers again") == "Stockholm"
    assert Path(f"/proc/{whole.status()['gateway']['pid']}").exists()
