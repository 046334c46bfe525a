"""Test hosts come and go: what ``up`` made, ``down`` takes away, also when a host or ``up`` itself was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest_fleet import REPOSITORY
from conftest_hosts import no_hosts_wanted

from demo.hosts.machine import mounted
from demo.hosts.network import mark_of

pytestmark = [pytest.mark.hosts, pytest.mark.timeout(480)]


def hosts(verb: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "demo.hosts", verb, "--root", str(folder), *words]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=200)


def left(folder: Path) -> list[str]:
    """Everything of the group that is still on this machine."""
    mark = mark_of(folder)
    links = subprocess.run(["ip", "-br", "link"], check=True, capture_output=True, text=True).stdout.split()
    spaces = subprocess.run(["ip", "netns"], check=True, capture_output=True, text=True).stdout.split()
    groups = [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/{mark}*")]
    running = [
        path.parent.name
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if os.fsencode(folder) in read(path) and path.parent.name != str(os.getpid())
    ]
    named = [word for word in (*links, *spaces) if word.startswith(mark)]
    return [*named, *groups, *mounted(folder), *running, *map(str, folder.glob("*"))]


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    no_hosts_wanted()
    yield tmp_path / "hosts"
    hosts("down", tmp_path / "hosts")


def test_up_status_a_dead_host_and_down_leaves_nothing(folder: Path) -> None:
    came = hosts("up", folder, "--count", "1", "--systemd")
    assert came.returncode == 0, came.stderr
    assert hosts("status", folder).returncode == 0
    again = hosts("up", folder, "--count", "1")
    assert (again.returncode, "has hosts already" in again.stderr) == (1, True)
    os.kill(json.loads((folder / "hosts.json").read_text())["hosts"][0]["pid"], signal.SIGKILL)
    dead = hosts("status", folder)
    assert (dead.returncode, "not running" in dead.stdout) == (3, True)
    assert hosts("down", folder).returncode == 0
    assert left(folder) == []
    assert hosts("down", folder).stdout == f"no hosts in {folder}\n"


@pytest.mark.parametrize("moment", ["a bridge", "a root", "a process"])
def test_up_killed_in_the_middle(folder: Path, moment: str) -> None:
    command = [sys.executable, "-m", "demo.hosts", "up", "--root", str(folder), "--count", "6"]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    there = {
        "a bridge": lambda: Path(f"/sys/class/net/{mark_of(folder)}br").exists(),
        "a root": lambda: bool(mounted(folder)),
        "a process": lambda: (folder / "h2" / "console.log").exists(),
    }[moment]
    while not there() and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert left(folder) != []
    assert hosts("down", folder).returncode == 0
    assert left(folder) == []
