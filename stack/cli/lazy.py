"""Click groups that import a command's module when the command runs, and one way to print errors.

``stackctl --help`` and completion read the table below the group only, so they stay fast.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import click

from stack.cli.printable import printable
from stack.core.errors import ApprovalNeeded, StackError

JSON_WANTED = "stack.cli.json"


class Entry(NamedTuple):
    """Where a command is, and its line in the group's help."""

    where: str
    summary: str


class LazyGroup(click.Group):
    """A group whose commands are ``name -> Entry("module:attribute", summary)``."""

    def __init__(self, *args: Any, entries: Mapping[str, Entry] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.entries: Mapping[str, Entry] = entries or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self.entries.get(cmd_name)
        if entry is None:
            return None
        module, _, attribute = entry.where.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in self.entries.items()])


class RootGroup(LazyGroup):
    """The outermost group: StackErrors leave with their exit code, as text or as JSON."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except StackError as error:
            report(error, as_json=bool(ctx.meta.get(JSON_WANTED)))
            ctx.exit(error.exit_code)
        except BrokenPipeError:
            ctx.exit(1)


def report(error: StackError, *, as_json: bool) -> None:
    """With --json the error goes to stdout, where the answer would have been; else to stderr."""
    if as_json:
        click.echo(json.dumps(error.to_json(), indent=2))
        return
    click.echo(f"stackctl: {printable(error.message)}", err=True)
    for problem in error.facts.get("errors") or error.facts.get("problems") or []:
        click.echo(f"  - {printable(_problem(problem))}", err=True)
    if error.exit_code == ApprovalNeeded.exit_code:
        for line in _needed(error):
            click.echo(line, err=True)
    if error.advice:
        click.echo(f"  {error.advice}", err=True)


def _needed(error: StackError) -> list[str]:
    from stack.cli.change_screens import needed

    return needed(error.facts)


def _problem(problem: Any) -> str:
    if not isinstance(problem, dict):
        return str(problem)
    line = f"line {problem['line']}: " if problem.get("line") else ""
    line = f"{problem['file']} {line or ': '}" if problem.get("file") else line
    path = f"{problem['path']}: " if problem.get("path") else ""
    return f"{line}{path}{problem.get('problem', problem)}"
