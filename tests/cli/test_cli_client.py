"""Asking: answers as text and JSON, errors with their exit codes, and nothing taken for success that is not."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import pytest
from cli_shell import Open
from click.testing import CliRunner
from fake_operator import Busy, FakeOperator

from stack.cli.main import cli
from stack.core.errors import InvalidInput, NotEnoughEvidence, Refused, StackError, Unavailable


@pytest.mark.parametrize(
    "arguments",
    [
        ("status",), ("diff",), ("plan",), ("rollout", "list"), ("rollout", "show"), ("model", "list"),
        ("model", "show", "tiny@1.0"), ("model", "verify", "tiny@1.0"), ("model", "scrub"), ("audit", "tail"),
    ],
)  # fmt: skip
def test_every_question_has_a_text_and_a_json_answer(shell: Open, arguments: tuple[str, ...]) -> None:
    opened = shell()
    text = opened.run(*arguments)
    assert text.exit_code == 0, text.output
    assert text.output.strip()
    as_json = opened.run(*arguments, "--json")
    assert as_json.exit_code == 0
    assert isinstance(json.loads(as_json.stdout), dict)


def test_status_json_is_what_the_operator_said(shell: Open) -> None:
    opened = shell()
    assert json.loads(opened.run("status", "--json").stdout) == opened.operator.status()


def test_status_on_one_screen_names_what_is_not_known(shell: Open) -> None:
    screen = shell().run("status").output
    assert "tiny@1.0" in screen
    assert "100 %" in screen
    assert "not observed" in screen
    assert len(screen.splitlines()) < 24


@pytest.mark.parametrize(
    "raised",
    [
        InvalidInput("x"),
        Refused("x"),
        Unavailable("x"),
        Busy(service="tiny", rollout="ro-1"),
        NotEnoughEvidence("x"),
        StackError("x"),
    ],
)
def test_errors_come_back_as_they_were_raised(shell: Open, raised: StackError) -> None:
    opened = shell(FakeOperator(failing={"status": raised}))
    text = opened.run("status")
    assert text.exit_code == raised.exit_code
    assert text.stdout == ""
    assert raised.message in text.stderr
    assert raised.advice in text.stderr
    as_json = opened.run("status", "--json")
    assert as_json.exit_code == raised.exit_code
    assert json.loads(as_json.stdout) == raised.to_json()


def test_a_wrong_token_is_said(shell: Open) -> None:
    opened = shell()
    (opened.home / "secrets" / "admin.token").write_text("w" * 64)
    result = opened.run("status")
    assert result.exit_code == 3
    assert "token" in result.stderr


def test_without_a_control_plane_the_error_says_what_to_do(home: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    result = CliRunner().invoke(cli, ["status"], env={"STACK_HOME": str(home), "STACK_ADMIN_PORT": port})
    assert result.exit_code == 4
    assert "stackctl up" in result.stderr
    assert port in result.stderr


@pytest.mark.parametrize(
    "said",
    [
        b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]", b"HTTP/1.1 500 No\r\ncontent-length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ncontent-length: 90\r\n\r\n{", b'HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n"\xff"',
    ],
)  # fmt: skip
def test_nonsense_from_the_port_is_never_success(home: Path, said: bytes) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def speak() -> None:
        connection, _ = listener.accept()
        connection.recv(65536)
        connection.sendall(said)
        connection.close()

    thread = threading.Thread(target=speak)
    thread.start()
    environment = {"STACK_HOME": str(home), "STACK_ADMIN_PORT": str(listener.getsockname()[1])}
    result = CliRunner().invoke(cli, ["status"], env=environment)
    thread.join()
    listener.close()
    assert result.exit_code == 4, result.output


def test_drift_verify_and_scrub_leave_with_a_code(shell: Open) -> None:
    opened = shell()
    opened.operator.in_sync = opened.operator.ok = False
    assert opened.run("diff").exit_code == 5
    assert opened.run("model", "verify", "tiny@1.0").exit_code == 3
    assert opened.run("model", "scrub").exit_code == 3


def test_register_sends_an_absolute_path(shell: Open, tmp_path: Path) -> None:
    opened = shell()
    manifest = tmp_path / "m.yaml"
    manifest.write_text("schema: 1\n")
    result = opened.run("model", "register", str(manifest), "--json")
    assert result.exit_code == 0, result.output
    assert opened.operator.calls[-1][1][:2] == (str(manifest), "gguf")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_registration_without_a_result_is_a_failure(shell: Open, tmp_path: Path) -> None:
    opened = shell()
    opened.operator.truncate_stream = True
    manifest = tmp_path / "m.yaml"
    manifest.write_text("schema: 1\n")
    result = opened.run("model", "register", str(manifest))
    assert result.exit_code == 4
    assert "before its result" in result.stderr


def test_a_manifest_that_is_not_there(shell: Open) -> None:
    for arguments in (("model", "register", "no.yaml"), ("deploy", "--model", "no.yaml")):
        result = shell().run(*arguments)
        assert result.exit_code == 2
        assert "no.yaml" in result.stderr
