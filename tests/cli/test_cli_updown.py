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

from stack.cli.lifecycle import say_of_policies
from stack.cli.starting import port_of

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

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "stack.cli", *arguments]
        return subprocess.run(
            command,
            cwd=REPOSITORY,
            env={**environment, **more},
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
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
    for variable, name in (("STACK_GATEWAY_PORT", "gateway"), ("STACK_ADMIN_PORT", "control_plane")):
        moved = json.loads(stackctl("up", "--json", **{variable: "9"}).stdout)["error"]
        assert (moved["code"], moved["facts"]["port"], moved["facts"]["wanted"]) == (
            "OtherPort",
            first[name]["port"],
            9,
        )
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


@pytest.mark.parametrize("broken", ["missing", "invalid"])
def test_policies_that_deny_everything_are_said_by_up(
    broken: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stack = tmp_path / "stack.yaml"
    stack.write_text((REPOSITORY / "stack.yaml").read_text() + f"\npolicies: {tmp_path}/policies\n")
    if broken == "invalid":
        shutil.copytree(REPOSITORY / "policies", tmp_path / "policies")
        (tmp_path / "policies" / "risk.yaml").write_text("[broken")
    say_of_policies(stack)
    said = capsys.readouterr().err
    assert said.startswith("policies: ") and "denied" in said
    say_of_policies(REPOSITORY / "stack.yaml")
    assert "denied" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "variable", "port"),
    [
        (["python", "-m", "x", "--port", "81"], "82", 81),
        (["python", "--port"], "82", 82),
        (["--port", "x"], None, None),
        ([], "x", None),
    ],
)
def test_the_port_that_a_process_was_started_with(words: list[str], variable: str | None, port: int | None) -> None:
    assert port_of(words, variable) == port


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
