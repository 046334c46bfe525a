"""``up`` and ``down`` with the real gateway and the real control plane, side by side with other checkouts."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def stackctl(tmp_path: Path) -> Iterator[Run]:
    """The installed command with a state directory and ports of its own."""
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        ports = {"STACK_GATEWAY_PORT": str(one.getsockname()[1]), "STACK_ADMIN_PORT": str(two.getsockname()[1])}
    environment = {**os.environ, "STACK_HOME": str(tmp_path / "s"), **ports}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "stack.cli", *arguments]
        return subprocess.run(
            command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False, timeout=200
        )

    yield run
    run("down")


def test_up_status_down(stackctl: Run, tmp_path: Path) -> None:
    up = stackctl("up", "--json")
    assert up.returncode == 0, up.stderr
    first = json.loads(up.stdout)
    again = json.loads(stackctl("up", "--json").stdout)
    for name in ("gateway", "control_plane"):
        assert (first[name]["started"], again[name]["started"]) == (True, False)
        assert first[name]["pid"] == again[name]["pid"]
    status = json.loads(stackctl("status", "--json").stdout)
    assert {"services", "rollouts", "gateway", "control_plane"} <= set(status)
    assert status["control_plane"]["pid"] == first["control_plane"]["pid"]
    assert stackctl("doctor").returncode == 0
    token = (tmp_path / "s" / "secrets" / "admin.token").read_text().strip()
    for log in (tmp_path / "s" / "logs").iterdir():
        assert token not in log.read_text()
    down = stackctl("down")
    assert down.returncode == 0, down.stderr
    for name in ("gateway", "control_plane"):
        assert not Path(f"/proc/{first[name]['pid']}").exists() or _zombie(first[name]["pid"])
    assert stackctl("status").returncode == 4


def _zombie(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_wrong_stack_file_is_said_by_up_with_all_its_mistakes(stackctl: Run, tmp_path: Path) -> None:
    wrong = tmp_path / "stack.yaml"
    shutil.copy(REPOSITORY / "stack.yaml", wrong)
    wrong.write_text(wrong.read_text() + "\nnonsense: 1\nmore: 2\n")
    up = stackctl("up", "--stack", str(wrong))
    assert up.returncode == 2, up.stderr
    assert "nonsense" in up.stderr
    assert "more" in up.stderr
    assert "line" in up.stderr


def test_serve_in_the_foreground_refuses_a_second_one(stackctl: Run) -> None:
    assert stackctl("up").returncode == 0
    for name in ("serve", "gateway"):
        second = stackctl(name)
        assert second.returncode == 5, second.stderr
        assert "runs already" in second.stderr
