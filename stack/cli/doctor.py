"""``doctor``: every check with what was found, and what to do about it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from stack.cli.checks import all_checks
from stack.cli.command import answer, command, place
from stack.cli.tables import columns
from stack.core.clock import SystemClock

_LOCKS = Path(__file__).parents[2] / "playbooks" / "roles" / "runtime" / "files" / "locks"
_FAILED = 4


@command(
    "doctor", examples="stackctl doctor\nstackctl doctor --json", codes="\b\n  0 nothing failed   4 a check failed"
)
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Check this machine and this state directory, and say what to do."""
    checks = list(all_checks(place(), SystemClock(), _LOCKS))
    body = {"ok": all(check.level != "fail" for check in checks), "checks": [asdict(check) for check in checks]}
    human = columns(("check", "", "found"), [(check.name, check.level, check.found) for check in checks])
    todo = "\n".join(f"{check.name}: {check.todo}" for check in checks if check.todo)
    answer(body, human + ("\n\nwhat to do\n" + todo if todo else ""), as_json=as_json)
    ctx.exit(0 if body["ok"] else _FAILED)
