"""``make`` is a thin wrapper: each target is one ``stackctl`` call with the right arguments."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
TARGETS = {"help", "deploy", "rollback", "status", "up", "down", "test", "test-fast", "check", "bench", "lock", "clean"}
TARGETS |= {"fleet-demo", "fleet-demo-down"}


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The repository's Makefile with nothing of this test's environment but PATH."""
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=REPOSITORY,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """An environment that is up to date, whose stackctl prints its arguments, one per line."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / "bin" / "stackctl").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\nexit 3\n')
    (tmp_path / "bin" / "stackctl").chmod(0o755)
    content = b"".join((REPOSITORY / name).read_bytes() for name in ("requirements/base.txt", "pyproject.toml"))
    (tmp_path / f".base-{hashlib.sha256(content).hexdigest()[:32]}").touch()
    return tmp_path


def test_make_alone_prints_every_target() -> None:
    done = make()
    assert done.returncode == 0, done.stderr
    assert set(re.findall(r"^  make (\S+)", done.stdout, re.MULTILINE)) == TARGETS


@pytest.mark.parametrize(
    ("given", "called"),
    [
        (["deploy"], ["deploy", "--up"]),
        (["deploy", "MODEL=models/tiny 1.1.yaml"], ["deploy", "--up", "--model", "models/tiny 1.1.yaml"]),
        (["deploy", "RUNTIME=e/d", "DRY_RUN=1"], ["deploy", "--up", "--runtime", "e/d", "--dry-run"]),
        (["deploy", "ENV=production", "CHANGE=CHG-1"], ["deploy", "--up", "--env", "production", "--change", "CHG-1"]),
        (["rollback"], ["rollback"]),
        (["rollback", "ENV=staging", "CHANGE=CHG-1"], ["rollback", "--env", "staging", "--change", "CHG-1"]),
        (["rollback", "SERVICE=tiny"], ["rollback", "--service", "tiny"]),
        (["status"], ["status"]),
        (["up"], ["up"]),
        (["down"], ["down"]),
    ],
)
def test_targets_call_stackctl_and_fail_with_it(venv: Path, given: list[str], called: list[str]) -> None:
    done = make(*given, f"VENV={venv}")
    assert done.stdout.splitlines() == called, done.stderr
    assert done.returncode != 0


def test_variables_of_the_shell_do_not_leak_in(venv: Path) -> None:
    assert make("deploy", f"VENV={venv}", MODEL="other.yaml").stdout.splitlines() == ["deploy", "--up"]


def test_an_old_python_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = make("up", f"VENV={tmp_path / 'venv'}", f"PYTHON={old}")
    assert done.returncode != 0
    assert "3.11" in done.stderr
    assert not (tmp_path / "venv").exists()
