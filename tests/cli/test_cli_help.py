"""Help: fast, complete, with examples; every command speaks JSON."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from stack.cli.lazy import LazyGroup
from stack.cli.main import cli

HEAVY = {"fastapi", "sqlalchemy", "scipy", "rich", "httpx", "pydantic", "uvicorn", "yaml", "ansible_runner", "numpy"}
NAMED_IN_THE_ISSUE = {
    "up", "down", "serve", "gateway", "model register", "model list", "model show", "model verify", "model scrub",
    "plan", "deploy", "rollback", "rollout list", "rollout show", "rollout watch", "rollout resume", "rollout abort",
    "eval run", "eval compare", "status", "diff", "doctor",
    "audit tail", "audit show", "audit head", "audit export", "audit prove", "audit verify",
    "change list", "change show", "change approve", "change reject", "change revoke", "change report",
    "token create", "token list", "token revoke", "alert list", "alert ack", "host list", "host check",
    "database show", "database copy",
}  # fmt: skip


def leaves(group: LazyGroup, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    found = []
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, LazyGroup):
            found += leaves(command, (*path, name))
        else:
            found.append(((*path, name), command))
    return found


LEAVES = leaves(cli)


def test_all_commands_are_there() -> None:
    assert {" ".join(path) for path, _ in LEAVES} == NAMED_IN_THE_ISSUE


@pytest.mark.parametrize(("path", "command"), LEAVES, ids=[" ".join(path) for path, _ in LEAVES])
def test_every_command_has_json_an_example_and_exit_codes(path: tuple[str, ...], command: click.Command) -> None:
    result = CliRunner().invoke(cli, [*path, "--help"])
    assert result.exit_code == 0
    assert "--json" in result.output
    assert f"stackctl {' '.join(path)}" in result.output.split("Examples:")[1]
    assert "Exit codes:" in result.output
    assert command.name == path[-1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["rollout", "--help"],
        ["deploy", "--help"],
        ["change", "approve", "--help"],
        ["token", "create", "--help"],
    ],
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys\nfrom stack.cli.main import cli\n"
        f"try:\n    cli({arguments!r})\nexcept SystemExit:\n    pass\n"
        "print('MODULES', *sorted({m.partition('.')[0] for m in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split("MODULES")[1].split())
    assert "click" in loaded
    assert loaded & HEAVY == set()


def test_an_unknown_command_and_a_wrong_option_are_wrong_input() -> None:
    assert CliRunner().invoke(cli, ["frobnicate"]).exit_code == 2
    assert CliRunner().invoke(cli, ["status", "--frobnicate"]).exit_code == 2
