"""A supervisord host that was started anew: nothing on it starts its replicas, so the control plane does."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest_hosts import Reached
from test_fleet_stack import Stack, free_port

from demo.fleet import prepare
from demo.hosts import HostGroup

pytestmark = [pytest.mark.hosts, pytest.mark.timeout(600)]
ROOT = "/opt/rebooted-stack"
# Everything of ours at once, as when the power goes; then what a start leaves of /tmp and /run: nothing.
POWER_CUT = f"""
kill -9 $(cat {ROOT}/supervisor/supervisord.pid)
for process in /proc/[0-9]*; do
  grep -q {ROOT} $process/cmdline 2>/dev/null && [ ${{process#/proc/}} != $$ ] && kill -9 ${{process#/proc/}}
done
rm -f {ROOT}/supervisor/supervisord.sock
true
"""


@pytest.fixture
def stack(host_group: HostGroup, tmp_path: Path) -> Iterator[Stack]:
    """One service on one supervisord host, in a root of its own."""
    chosen = replace(host_group, hosts=tuple(h for h in host_group.hosts if h.name == "h1"))
    file = prepare(chosen, tmp_path)
    text, places = re.subn("user: root,", f"user: root, root: {ROOT},", file.read_text())
    text, holds = re.subn(r"min_requests: \d+", "min_requests: 3", text)
    assert (places, holds) == (1, 1)
    file.write_text(text)
    ports = {"STACK_GATEWAY_PORT": free_port(), "STACK_ADMIN_PORT": free_port()}
    environment = {**os.environ, **ports, "STACK_HOME": str(tmp_path / "home")}
    made = Stack(folder=tmp_path, file=file, hosts=("h1",), environment=environment)
    yield made
    made.ctl("down")


def eventually(probe: Callable[[], Any], what: str) -> Any:
    """The first true answer."""
    for _ in range(600):
        if found := probe():
            return found
        time.sleep(0.5)
    raise AssertionError(f"never: {what}")


def test_replicas_come_back_after_a_reboot(stack: Stack, reach: Callable[[str], Reached]) -> None:
    host = reach("h1")
    stack.done("deploy", "--up", "--stack", str(stack.file))
    (asked,) = json.loads(stack.ctl("host", "check", "h1", "--json").stdout)["hosts"]
    assert (asked["facts"]["after_reboot"], asked["problems"]) == ("nothing", [])
    assert "the control plane does" in asked["notes"][0]
    observed = host.file(f"{ROOT}/replicas")
    before = {p.parent.name: json.loads(p.read_text())["pid"] for p in observed.glob("*/observed.json")}
    assert before

    host.shell(POWER_CUT)
    again = eventually(
        lambda: {p.parent.name: json.loads(p.read_text())["pid"] for p in observed.glob("*/observed.json")} != before,
        "another process serves",
    )
    assert again
    eventually(lambda: stack.ask()[0] == 200, "clients are answered")
    (row,) = eventually(lambda: [r for r in stack.replicas() if r["state"] == "healthy"], "it is seen healthy")
    assert row["id"] in before
    assert "replica.restart" in stack.done("audit", "tail", "--limit", "200", "--json")
