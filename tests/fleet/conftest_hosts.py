"""Real SSH hosts for tests: made once for the run by ``demo.hosts``, ended with it.

Where this machine does not permit them the tests fail and say why. ``STACK_NO_HOSTS=1`` turns that into an expected
failure, which pytest's summary still names.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from conftest_fleet import PLAYBOOKS, REPOSITORY, launch_variables

from demo.hosts import HostGroup, HostsFailed, TestHost, down, up
from stack.core.names import HostName, OperationId
from stack.fleet import AnsibleDoor, Host, HostEvent, Operation, OperationResult

MODEL = REPOSITORY / "models" / "tiny-1.0" / "gguf"
ROOT = "/opt/stack"


@dataclass(frozen=True, kw_only=True)
class Reached:
    """One test host as the product sees it, and a way in that is not the product's."""

    group: HostGroup
    made: TestHost
    host: Host
    door: AnsibleDoor

    def run(
        self,
        name: str,
        playbook: str,
        variables: Mapping[str, Any] | None = None,
        *,
        epoch: int = 1,
        check: bool = False,
        on_event: Callable[[HostEvent], None] | None = None,
    ) -> OperationResult:
        """One operation through the door."""
        operation = Operation(
            op_id=OperationId(name), epoch=epoch, host=self.host, playbook=playbook, variables=dict(variables or {})
        )
        return self.door.run(operation, check=check, on_event=on_event)

    def shell(self, command: str) -> str:
        """Run something on the host as root, over an SSH connection of the test's own."""
        options = ["BatchMode=yes", "IdentitiesOnly=yes", f"UserKnownHostsFile={self.group.known_hosts}"]
        words = [word for option in options for word in ("-o", option)]
        ssh = ["ssh", "-F", "none", "-i", str(self.group.key), *words, f"root@{self.made.address}"]
        return subprocess.run([*ssh, command], check=True, capture_output=True, text=True, timeout=60).stdout

    def launch(self, port: int, replica: str = "r1") -> dict[str, Any]:
        """Variables of deploy.yml for the real engine and the tiny model, listening where this machine can reach it."""
        return {**launch_variables(MODEL, port), "bind_address": self.made.address, "replica_id": replica}

    def file(self, path: str) -> Path:
        """A file of the host as seen from here."""
        return self.group.machine(self.made).root / path.lstrip("/")

    def at(self, root: str, user: str = "root") -> Reached:
        """The same host with our files elsewhere, perhaps as another user."""
        return replace(self, host=replace(self.host, root=root, user=user))


def ask(address: str, port: int, prompt: str = "a b c") -> dict[str, Any]:
    """A completion from a host's engine, asked for until it has loaded."""
    body = json.dumps({"prompt": prompt, "max_tokens": 4, "temperature": 0})
    for _ in range(300):
        connection = http.client.HTTPConnection(address, port, timeout=30)
        try:
            connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
            response = connection.getresponse()
            answer = response.read()
        except (ConnectionError, http.client.HTTPException):
            time.sleep(0.05)
            continue
        finally:
            connection.close()
        if response.status == 200:
            return dict(json.loads(answer))
        time.sleep(0.05)
    raise AssertionError(f"{address}:{port} never answered")


def no_hosts_wanted() -> None:
    """An expected failure where somebody said that there can be no hosts."""
    if os.environ.get("STACK_NO_HOSTS") == "1":
        pytest.xfail("STACK_NO_HOSTS=1: NOTHING OVER SSH WAS TESTED")


@pytest.fixture(scope="session")
def host_group() -> Iterator[HostGroup]:
    """Three hosts under supervisord and one under systemd."""
    no_hosts_wanted()
    with tempfile.TemporaryDirectory(prefix="stack-hosts-") as folder:
        try:
            group = up(Path(folder), count=3, systemd=True)
        except HostsFailed as error:
            pytest.fail(f"no test hosts ({error}). Where they can't be had: STACK_NO_HOSTS=1", pytrace=False)
        try:
            yield group
        finally:
            down(Path(folder))


@pytest.fixture
def reach(host_group: HostGroup, tmp_path: Path) -> Callable[[str], Reached]:
    """A host by name, with a door and SSH connections of this test's own."""

    def reached(name: str) -> Reached:
        made = next(host for host in host_group.hosts if host.name == name)
        host = Host(name=HostName(name), connection="ssh", address=made.address, user="root", root=ROOT)
        door = AnsibleDoor(
            project=PLAYBOOKS,
            runner_dir=tmp_path / "runner",
            known_hosts=host_group.known_hosts,
            identity=host_group.key,
        )
        return Reached(group=host_group, made=made, host=host, door=door)

    return reached
