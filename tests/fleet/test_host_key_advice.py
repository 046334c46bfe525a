"""What people are told to do when a host's key is not the known one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stack.core.names import HostName
from stack.fleet.outcome import advised
from stack.fleet.values import Host, OperationResult

HOST = Host(name=HostName("gpu1"), root="/opt/stack", connection="ssh", address="10.0.0.5")
SAID = "Failed to connect to the host via ssh: Host key verification failed."


@pytest.mark.parametrize(
    ("host", "command"),
    [
        (HOST, "`ssh-keyscan 10.0.0.5`"),
        (replace(HOST, port=2222), "`ssh-keyscan -p 2222 10.0.0.5`"),
        (replace(HOST, known_as="gpu1.example"), "`ssh-keyscan gpu1.example`"),
    ],
)
def test_an_unproven_host_key_comes_with_what_to_do(host: Host, command: str) -> None:
    told = advised(OperationResult(status="unreachable", message=SAID), host).message
    assert told.startswith(SAID)
    assert command in told
    assert "fingerprint" in told


@pytest.mark.parametrize(("status", "message"), [("unreachable", "No route to host"), ("failed", SAID), ("done", SAID)])
def test_nothing_else_is_changed(status: str, message: str) -> None:
    result = OperationResult(status=status, message=message)  # type: ignore[arg-type]
    assert advised(result, HOST) is result
