"""A whole stack over SSH hosts: deploy to all, a better release through the canary, back; clients see no failure."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from conftest_fleet import REPOSITORY

from demo.fleet import prepare
from demo.hosts import HostGroup

pytestmark = [pytest.mark.hosts, pytest.mark.timeout(480)]
STACKCTL = Path(sys.executable).with_name("stackctl")


@dataclass(kw_only=True)
class Stack:
    """A stack with a state directory of its own, and what its client saw."""

    folder: Path
    file: Path
    hosts: tuple[str, ...]
    environment: dict[str, str]
    seen: list[tuple[int, str, str]] = field(default_factory=list)

    def ctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run stackctl to its end."""
        command = [str(STACKCTL), *words]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=400)

    def done(self, *words: str) -> str:
        """Run stackctl, which must succeed; what it printed."""
        ran = self.ctl(*words)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout + ran.stderr

    def replicas(self) -> list[dict[str, Any]]:
        """What runs for the service, as observed."""
        return list(json.loads(self.ctl("status", "--json").stdout)["services"][0]["replicas"])

    def ask(self) -> tuple[int, str, str]:
        """One request of a client: status, release, replica."""
        connection = http.client.HTTPConnection("127.0.0.1", int(self.environment["STACK_GATEWAY_PORT"]), timeout=60)
        key = (self.folder / "home" / "secrets" / "client.key").read_text().strip()
        body = json.dumps({"model": "tiny", "prompt": "a b c", "max_tokens": 8})
        connection.request("POST", "/v1/completions", body, {"authorization": f"Bearer {key}"})
        response = connection.getresponse()
        response.read()
        connection.close()
        return response.status, response.headers["x-stack-release"], response.headers["x-stack-replica"]


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture
def stack(host_group: HostGroup, tmp_path: Path) -> Iterator[Stack]:
    chosen = replace(host_group, hosts=tuple(h for h in host_group.hosts if h.name != "h3"))  # two and the systemd one
    file = prepare(chosen, tmp_path)
    own = file.read_text().replace("user: root,", "user: root, root: /opt/whole-stack,")  # others fenced /opt/stack
    file.write_text(own)
    ports = {"STACK_GATEWAY_PORT": free_port(), "STACK_ADMIN_PORT": free_port()}
    environment = {**os.environ, **ports, "STACK_HOME": str(tmp_path / "home")}
    names = tuple(host.name for host in chosen.hosts)
    made = Stack(folder=tmp_path, file=file, hosts=names, environment=environment)
    yield made
    made.ctl("down")


def test_three_ssh_hosts_from_the_first_deploy_to_a_rollback(stack: Stack) -> None:
    stack.done("deploy", "--up", "--stack", str(stack.file))
    first = stack.replicas()
    assert sorted(row["host"] for row in first) == sorted(stack.hosts)
    assert len({row["observed_digest"] for row in first}) == 1
    answers = Counter(stack.ask()[::2] for _ in range(30))
    assert {status for status, _ in answers} == {200}
    assert len(answers) == 3, answers  # every replica got some

    over = threading.Event()

    def client() -> None:
        while not over.is_set():
            stack.seen.append(stack.ask())

    reader = threading.Thread(target=client)
    reader.start()
    try:
        said = stack.done("deploy", "--model", str(REPOSITORY / "models" / "tiny-1.1.yaml"))
        assert [step for step in ("5 %", "25 %", "100 %") if f"candidate at {step}" in said] == ["5 %", "25 %", "100 %"]
        better = [stack.ask() for _ in range(9)]
        stack.done("rollback")
        back = [stack.ask() for _ in range(9)]
    finally:
        over.set()
        reader.join()
    assert len({release for _, release, _ in better}) == len({release for _, release, _ in back}) == 1
    assert better[0][1] != back[0][1]
    assert {release for _, release, _ in back} == {row["observed_digest"] for row in first}
    assert len(stack.seen) > 50
    assert Counter(status for status, _, _ in stack.seen) == {200: len(stack.seen)}
