"""Tokens: shown once or written to a private file; called with from a private file only."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from cli_shell import Open, Shell
from click.testing import CliRunner
from fake_operator import FakeOperator

from stack.cli.main import cli
from stack.cli.token_file import BadTokenFile, personal_token
from stack.core.caller import Caller
from stack.core.errors import Refused

PERSONAL = "st_" + "p" * 43


def token_file(path: Path, content: str | bytes = PERSONAL + "\n", mode: int = 0o600) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    return path


def run_as(opened: Shell, file: Path, *arguments: str) -> Any:
    environment = {
        "STACK_HOME": str(opened.home),
        "STACK_ADMIN_PORT": str(opened.api.port),
        "STACK_TOKEN_FILE": str(file),
    }
    return CliRunner().invoke(cli, list(arguments), env=environment)


def test_a_personal_token_says_who_asks(shell: Open, tmp_path: Path) -> None:
    opened = shell(FakeOperator("preflight"))
    opened.operator.access.callers[PERSONAL] = Caller(name="anna", roles=frozenset({"admin"}))
    result = run_as(opened, token_file(tmp_path / "t"), "rollout", "abort", "ro-aaaaaaaaaa", "--no-wait")
    assert result.exit_code == 0, result.output
    assert opened.operator.calls[-1][1][-1].startswith("anna (")


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o700, 0o660])
def test_a_token_that_others_can_read_is_not_used(shell: Open, tmp_path: Path, mode: int) -> None:
    opened = shell()
    result = run_as(opened, token_file(tmp_path / "t", mode=mode), "status")
    assert result.exit_code == 4
    assert "0600" in result.stderr
    assert opened.operator.calls == []


@pytest.mark.parametrize("content", [b"", b"\n", b"two words", b"a\x00b", b"\xff" * 40, b"x" * 600, b"a\r\nb: c"])
def test_a_file_without_one_token_is_not_used_nor_shown(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(BadTokenFile) as caught:
        personal_token(token_file(tmp_path / "t", content))
    assert "two words" not in caught.value.message


def test_directories_pipes_and_nothing_are_no_token_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "none"):
        with pytest.raises(BadTokenFile):
            personal_token(path)


def test_another_users_file_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = token_file(tmp_path / "t")
    monkeypatch.setattr(os, "geteuid", lambda: file.stat().st_uid + 1)
    with pytest.raises(BadTokenFile, match="another user"):
        personal_token(file)


def test_a_new_token_is_shown_once_and_asked_for_exactly(shell: Open) -> None:
    opened = shell()
    arguments = ("--role", "viewer", "--role", "auditor", "--days", "3", "--change", "CHG-1")
    result = opened.run("token", "create", "vera", *arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0] == "st_shown-once"
    name, (request, _) = opened.operator.calls[-1]
    assert name == "create_token"
    assert request == {"name": "vera", "roles": ["viewer", "auditor"], "days": 3, "change": "CHG-1"}


@pytest.mark.parametrize("extra", [(), ("--json",)])
def test_a_new_token_in_a_file_is_private_and_on_no_screen(shell: Open, tmp_path: Path, extra: tuple[str, ...]) -> None:
    file = tmp_path / "vera.token"
    result = shell().run("token", "create", "vera", "--role", "viewer", "--output", str(file), *extra)
    assert result.exit_code == 0, result.output
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert personal_token(file) == "st_shown-once"
    assert "st_shown-once" not in result.output


def test_nothing_is_made_when_the_file_exists(shell: Open, tmp_path: Path) -> None:
    opened, file = shell(), token_file(tmp_path / "t", "mine")
    assert opened.run("token", "create", "vera", "--role", "viewer", "--output", str(file)).exit_code == 5
    assert file.read_text() == "mine"
    assert opened.operator.calls == []


def test_a_refused_token_leaves_no_file(shell: Open, tmp_path: Path) -> None:
    opened = shell(FakeOperator(failing={"create_token": Refused("no")}))
    assert opened.run("token", "create", "v", "--role", "r", "--output", str(tmp_path / "t")).exit_code == 3
    assert not (tmp_path / "t").exists()


def test_tokens_and_alerts_are_listed_and_ended(shell: Open) -> None:
    opened = shell()
    opened.operator.access.token_rows = [
        {"id": "tk-1", "name": "vera", "roles": ["viewer"], "created_at": "x", "expires_at": None, "revoked_at": None}
    ]
    assert "vera" in opened.run("token", "list").output
    assert opened.run("token", "revoke", "tk-1").exit_code == 0
    assert opened.operator.calls[-1][1][:2] == ("tk-1", "")
    assert "INC-04" in opened.run("alert", "list").output
    assert opened.operator.calls[-1] == ("alerts", (True,))
    opened.run("alert", "list", "--all")
    assert opened.operator.calls[-1] == ("alerts", (False,))
    assert json.loads(opened.run("alert", "ack", "1", "--json").stdout) == {"alerts": []}
    assert opened.operator.calls[-1][1][0] == 1


def test_a_role_that_does_not_suffice_is_said(shell: Open, tmp_path: Path) -> None:
    opened = shell()
    opened.operator.access.callers[PERSONAL] = Caller(name="vera", roles=frozenset({"viewer"}))
    file = token_file(tmp_path / "t")
    assert run_as(opened, file, "status").exit_code == 0
    result = run_as(opened, file, "deploy")
    assert result.exit_code == 3
    assert "rollout.deploy" in result.stderr
    assert not any(name == "deploy" for name, _ in opened.operator.calls)
