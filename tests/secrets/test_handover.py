"""Values from environment variables are in no ``/proc/<pid>/environ``: looked at in real processes."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stack.secrets.handover import VARIABLE, BadHandover, collected, handed_on, received, sealed

PROGRAM = Path(__file__).with_name("handover_program.py")
REPOSITORY = Path(__file__).parents[2]


def run(words: list[str], **variables: str) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), **variables}
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *words], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_the_values_arrive_and_no_environment_shows_them() -> None:
    values = {"CANARY_KEY": secrets.token_urlsafe(30) + "é\n ", "CANARY_TOKEN": secrets.token_hex(20)}
    seen = run(["--pass-on", "a b", ""], **values, UNRELATED_TOKEN="hush-unrelated")
    assert seen["values"] == values
    assert seen["child"]["values"] == values
    assert seen["argv"] == ["--pass-on", "a b", ""], "the same arguments as before"
    for shown in (seen["own"], seen["inherits"], seen["child"]["own"], seen["child"]["inherits"]):
        assert "PATH=" in shown
        assert not [value for value in (*values.values(), "hush-unrelated") if value in shown]
    for kept in (seen["open"], seen["child"]["open"]):
        assert not [link for link in kept if "stack-secrets" in link], "the file in memory is closed"


def test_the_check_can_fail() -> None:
    """The same values under names that nobody configured to be secret, and that processes of ours get, are seen."""
    seen = run([], PYTHONCANARY="hush-not-configured")
    assert "hush-not-configured" in seen["own"]


def test_deleting_a_variable_is_not_enough() -> None:
    """Why the program is started again: the kernel shows the environment of ``execve``."""
    script = "import os; del os.environ['CANARY_KEY']; print(open('/proc/self/environ').read())"
    environment = {**os.environ, "CANARY_KEY": "hush-deleted"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert "hush-deleted" in done.stdout


def test_without_such_variables_nothing_is_started_again() -> None:
    seen = run([], PYTHONCANARY="x")
    assert seen["values"] == {}
    assert VARIABLE not in seen["own"]


def test_round_trip_once() -> None:
    environ = {VARIABLE: str(sealed({"A": "x", "B": ""})), "PATH": "p"}
    assert received(environ) == {"A": "x", "B": ""}
    assert environ == {"PATH": "p"}
    assert received(environ) == {}


def test_the_sealed_file_can_not_be_changed() -> None:
    descriptor = sealed({"A": "x"})
    try:
        for change in (lambda: os.pwrite(descriptor, b"y", 0), lambda: os.ftruncate(descriptor, 1)):
            with pytest.raises(OSError):
                change()
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("text", ["0", "1", "2", "-1", "x", "999999", "99999999", " 5", "٣"])
def test_a_descriptor_that_nobody_handed_over(text: str) -> None:
    with pytest.raises(BadHandover):
        received({VARIABLE: text})


def test_a_file_that_is_not_the_sealed_one(tmp_path: Path) -> None:
    with (tmp_path / "f").open("w+") as file:
        file.write('{"A": "planted"}')
        file.flush()
        with pytest.raises(BadHandover):
            received({VARIABLE: str(file.fileno())})


def test_what_is_handed_on() -> None:
    environ = {"A": "secret", "PATH": "p", "AWS_SECRET_ACCESS_KEY": "k", "STACK_HOME": "h", VARIABLE: "9"}
    assert collected(("A", "B"), environ) == {"A": "secret"}
    assert handed_on(("A",), environ, {}) == ({"PATH": "p", "STACK_HOME": "h"}, [])
    environment, (descriptor,) = handed_on(("STACK_HOME",), environ, {"STACK_HOME": "h"})
    assert environment == {"PATH": "p", VARIABLE: str(descriptor)}
    assert received(environment) == {"STACK_HOME": "h"}
