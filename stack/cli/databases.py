"""``database show`` and ``database copy``: processes of their own do the work, so nothing heavy is imported here."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import click

from stack.cli import processes
from stack.cli.client import Garbled, left_behind
from stack.cli.command import Place, actor, answer, command, place
from stack.cli.tables import columns
from stack.core.errors import Unavailable

LOOK, COPY = "stack.app.database_look", "stack.app.database_copy"
_FAILED, _SHOW_S, _COPY_S = 4, 60.0, 24 * 3600.0
Json = dict[str, Any]
stack_option = click.option(
    "--stack",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("stack.yaml"),
    show_default=True,
    help="The desired state, which names the database.",
)


class NoAnswer(Unavailable):
    """The state database did not answer within {limit:g} s."""

    hint = "Look at its server, and at what holds its locks. docs/postgresql.md"


def asked(module: str, where: Place, stack: Path, *words: str, limit_s: float) -> Json:
    """What a process of ours answers; its error as ours. What it says on stderr goes to stderr."""
    argv = processes.python_module(module, "--home", str(where.root), "--stack", str(stack.absolute()), *words)
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=limit_s, env=os.environ)
    except subprocess.TimeoutExpired as error:
        raise NoAnswer(limit=limit_s) from error
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    last = lines[-1] if lines else ""
    if done.returncode and last.startswith('{"error"'):
        raise left_behind(last)
    try:
        body = json.loads(last)
    except ValueError as error:
        raise Garbled(f"{module} ended with {done.returncode} and {last[:100]!r}") from error
    return dict(body)


@command("show", examples="stackctl database show\nstackctl database show --json", codes="\b\n  0 well   4 it is not")
@stack_option
@click.pass_context
def show(ctx: click.Context, stack: Path, as_json: bool) -> None:
    """What the state database is, whether it is well, and who leads by it. Changes nothing."""
    body = asked(LOOK, place(), stack, limit_s=_SHOW_S)
    rows = body["findings"]
    human = columns(("check", "", "found"), [(row["name"], row["level"], row["found"]) for row in rows])
    todo = "\n".join(f"{row['name']}: {row['todo']}" for row in rows if row["todo"])
    well = all(row["level"] != "fail" for row in rows)
    answer({"ok": well, **body}, human + (f"\n\nwhat to do\n{todo}" if todo else ""), as_json=as_json)
    ctx.exit(0 if well else _FAILED)


@command(
    "copy",
    examples="stackctl database copy --to postgresql://stack@db.example/stack --dry-run",
    codes="\b\n  0 copied, or it was before   3 the target is not empty, or differs   5 a control plane works on it",
)
@click.option("--to", required=True, help="The URL of an empty PostgreSQL database.")
@click.option("--dry-run", is_flag=True, help="Say what would be copied; write nothing.")
@stack_option
def copy(to: str, dry_run: bool, stack: Path, as_json: bool) -> None:
    """Bring what is in state.db into PostgreSQL, all or nothing; state.db stays as it is.

    Refused while a control plane works on either. Every table and the audit log are checked before it counts.
    """
    words = ["--to", to, "--actor", actor(), *(["--dry-run"] if dry_run else [])]
    body = asked(COPY, place(), stack, *words, limit_s=_COPY_S)
    answer(body, _said(body), as_json=as_json)


def _said(body: Json) -> str:
    rows = sum(body["rows"].values())
    if body.get("dry_run"):
        return f"would copy {rows} rows to {body['target']}; nothing was written"
    if not body["copied"]:
        return f"nothing to do: {body['reason']}"
    return (
        f"copied {rows - 1} rows to {body['target']}, and one record that says so\n"
        f"now set it in stack.yaml:  database: {body['target']}\n"
        "keep state.db somewhere else, so that nobody goes on with it"
    )
