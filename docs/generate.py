"""Writes the pages that repeat what the code says: errors.md, cli.md, stack-yaml.md, policy-table.md.

    .venv/bin/python docs/generate.py            # write them
    .venv/bin/python docs/generate.py --check    # exit 1 when a committed page is not current

Everything is read from the code itself (the error tree, the click commands, the settings classes) and from the policies
that ship, so these pages can't say something else. All other pages are written by hand; tests/docs holds them to the
code.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import importlib
import inspect
import itertools
import pkgutil
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import stack  # noqa: E402
from stack.cli.main import cli  # noqa: E402
from stack.config import policies as policy_files  # noqa: E402
from stack.config import settings  # noqa: E402
from stack.config.fields import ListOf, Number, OneOf, Section, Text, Whole  # noqa: E402
from stack.config.policy_values import ClassRule, Policies  # noqa: E402
from stack.core import errors  # noqa: E402
from stack.core.actions import Action  # noqa: E402
from stack.core.errors import StackError  # noqa: E402

NOTE = "<!-- written by docs/generate.py; change the code, then run it -->"
ROOMS = (
    *("core", "config", "secrets", "store", "registry", "runtimes", "evals", "policy", "audit", "fleet", "gateway"),
    *("rollout", "app", "api", "cli"),
)
ERRORS_INTRO = """
Every failure has one shape. On the screen: the message, each single problem, what to do. With `--json`, and from the
admin API: `{"error": {"code", "message", "hint", "exit_code", "facts"}}`. `code` is stable; programs should look at
it and at the exit code, never at the message. `{name}` stands for a fact that is filled in. Errors without a way out
here say what to do in their message, or get their advice where they are raised.
"""
CLI_INTRO = """
`make` targets are thin wrappers of these. `STACK_HOME`, `STACK_GATEWAY_PORT` and `STACK_ADMIN_PORT` say which stack is
meant. Answers go to stdout; errors and the progress of `stackctl up` and of single commands to stderr. With `--json`
stdout holds one JSON document, also for an error. Exit codes are those of [errors](errors.md) unless a command says
otherwise.
"""
SETTINGS_INTRO = """
Desired state: what should run, and how a change is made. The control plane reads it when it starts; after a change
restart it: `stackctl down --keep-replicas`, then `stackctl up`. The replicas go on; the gateway does not answer in
between. `stackctl plan` shows what a deploy would do, `stackctl diff` where reality differs. `--stack FILE` of
`stackctl up` names another file.

The file is checked whole before anything starts: every mistake is reported at once, with its line. Unknown and
repeated keys, anchors and aliases, unquoted version numbers and YAML 1.1's surprises (`010`, `1:20`) are refused.
Paths are relative to the file. Only `services[].name` and `services[].model` must be given.
"""
SETTINGS_END = """
Without `hosts`, there is one: `{name: local, connection: local}`. `rollout.ladder` must rise and end with 100. Suites
left out are `evals/<service>-smoke.yaml` and `evals/<service>-eval.yaml` beside the manifest. Engines with a driver
today: llamacpp. The others are accepted as words here and refused when a release is planned.
"""

POLICY_INTRO = """
What `policies/risk.yaml` says as it ships: every action there is, its class in each environment, and what a class asks
for. Yours may say something else; how to change it is in [policies](policies.md). An action without a class is denied.
"""


def opening(title: str, intro: str) -> list[str]:
    """A page's head."""
    return [f"# {title}", "", NOTE, "", *intro.strip().splitlines()]


def cell(text: str) -> str:
    """Text as it may stand in a table."""
    return text.replace("``", "`").replace("|", "\\|")


# -- errors


def error_classes() -> list[type[StackError]]:
    """Every class of the error tree, from every module of the program, by name."""
    for module in pkgutil.walk_packages(stack.__path__, "stack."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    below = (kind for kind in _below(StackError) if not kind.__name__.startswith("_"))  # those never leave their module
    found = {kind for kind in below if kind.__module__.startswith("stack.")}
    return sorted(found, key=lambda kind: (kind.__name__, kind.__module__))


def _below(kind: type[StackError]) -> Iterator[type[StackError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from _below(child)


def room_of(kind: type[StackError]) -> str:
    """The room an error belongs to."""
    return kind.__module__.split(".")[1]


def message_of(kind: type[StackError]) -> str:
    """The first paragraph of the class's own docstring, its holes as ``{name}``."""
    text = " ".join(inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0].split())
    return re.sub(r"\{(\w+):[^}]*\}", r"{\1}", text)


def exit_codes() -> dict[int, str]:
    """Code -> meaning, from the table in ``stack.core.errors``."""
    rows = (line.split(None, 1) for line in (errors.__doc__ or "").splitlines() if line[:1].isdigit())
    return {int(code): meaning.strip().replace("``", "`") for code, meaning in rows}


def errors_page() -> str:
    """docs/errors.md."""
    codes = [f"| {code} | {meaning} |" for code, meaning in exit_codes().items()]
    lines = [*opening("Errors", ERRORS_INTRO), "", "| exit code | meaning |", "|---|---|", *codes]
    classes = error_classes()
    for room in sorted({room_of(k) for k in classes}, key=lambda r: (ROOMS.index(r) if r in ROOMS else len(ROOMS), r)):
        lines += ["", f"## {room}", "", "| code | exit | message | what to do |", "|---|---|---|---|"]
        lines += [_error_row(kind) for kind in classes if room_of(kind) == room]
    return "\n".join(lines) + "\n"


def _error_row(kind: type[StackError]) -> str:
    code = "as answered" if kind.__name__ == "Answered" else str(kind.exit_code)
    return f"| `{kind.__name__}` | {code} | {cell(message_of(kind))} | {cell(kind.hint)} |"


# -- commands


def commands() -> Iterator[tuple[str, click.Command]]:
    """``stackctl ...`` -> command, in the order of the help, groups left out."""
    yield from _walk("stackctl", cli)


def _walk(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield path, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        child = command.get_command(context, name)
        if child is not None:
            yield from _walk(f"{path} {name}", child)


def cli_page() -> str:
    """docs/cli.md."""
    lines = opening("Commands", CLI_INTRO)
    for path, command in commands():
        lines += ["", *_command(path, command)]
    return "\n".join(lines) + "\n"


def _command(path: str, command: click.Command) -> Iterator[str]:
    arguments = [p.make_metavar(click.Context(command)) for p in command.params if isinstance(p, click.Argument)]
    yield from (f"## {' '.join([path, *arguments])}", "")
    yield from textwrap.wrap(" ".join((command.help or "").split()), 118, break_long_words=False)
    yield from ("", "| option | default | |", "|---|---|---|")
    yield from (_option(p) for p in command.params if isinstance(p, click.Option))
    parts = _epilog(command.epilog or "")
    if parts.get("Here:"):
        codes = "; ".join(piece.strip() for line in parts["Here:"] for piece in line.split("   ") if piece.strip())
        yield from ("", *textwrap.wrap(f"Exit codes of its own: {codes}.", 118))
    yield from ("", *(f"    {line}" for line in parts.get("Examples:", [])))


def _option(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    kind = "" if option.is_flag else " " + option.make_metavar(click.Context(cli)).replace("|", ", ")
    if option.secondary_opts:
        default = f"`{option.opts[0] if option.default else option.secondary_opts[0]}`"
    elif option.required:
        default = "required"
    else:
        given = not option.is_flag and isinstance(option.default, (str, int, float, Path))
        default = f"`{option.default}`" if given else ""
    return f"| {names}{kind} | {default} | {cell(option.help or '')} |"


def _epilog(text: str) -> dict[str, list[str]]:
    """The epilog's indented lines below each of its headings."""
    parts: dict[str, list[str]] = {}
    heading = ""
    for line in text.replace("\b", "").splitlines():
        if line.strip() and not line.startswith(" "):
            heading = line.strip()
        elif line.strip():
            parts.setdefault(heading, []).append(line.strip())
    return parts


# -- stack.yaml


def setting_rows(cls: type[Any] = settings.Document, prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """``(path, kind, default, what it is)`` of every field below a settings class, in the file's order."""
    texts = _field_docs(cls)
    for field in dataclasses.fields(cls):
        kind = field.metadata["kind"]
        path = f"{prefix}{field.metadata['key'] or field.name}"
        inner = kind.kind if isinstance(kind, ListOf) else kind
        if isinstance(inner, Section):
            yield from setting_rows(inner.cls, f"{path}{'[]' if isinstance(kind, ListOf) else ''}.")
        else:
            yield path, kind_words(kind), default_words(field.default), texts[field.name]


def kind_words(kind: Any) -> str:
    """What may stand there."""
    match kind:
        case OneOf():
            return ", ".join(kind.words)
        case Whole():
            return f"whole number, {kind.low} to {kind.high}"
        case Number():
            return f"number, {kind.low:g} to {kind.high:g}"
        case ListOf():
            return f"list of up to {kind.most}: {kind_words(kind.kind)}"
        case Text():
            return "text"
    raise TypeError(f"docs/generate.py does not know the kind {kind!r}")


def default_words(value: Any) -> str:
    """A default as one would write it in the file."""
    if value is dataclasses.MISSING:
        return "required"
    if value in (None, "", Path()):
        return "none"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _field_docs(cls: type[Any]) -> dict[str, str]:
    """Field name (of an enumeration: member's name) -> the text that stands below it."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body  # type: ignore[attr-defined]
    found: dict[str, str] = {}
    for pair in itertools.pairwise(body):
        match pair:
            case (
                ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = " ".join(text.split())
    return found


def settings_page() -> str:
    """docs/stack-yaml.md."""
    head = [*opening("stack.yaml", SETTINGS_INTRO), "", "| field | kind | default | what it is |", "|---|---|---|---|"]
    rows = [f"| `{path}` | {kind} | {default} | {cell(text)} |" for path, kind, default, text in setting_rows()]
    return "\n".join([*head, *rows, "", *SETTINGS_END.strip().splitlines()]) + "\n"


# -- policies


def policy_page() -> str:
    """docs/policy-table.md."""
    shipped, texts = policy_files.load_policies(HERE.parent / "policies"), _field_docs(Action)
    where = shipped.environments
    head = ["", "## Actions", "", f"| action | {' | '.join(where)} | what it is |", f"|---|{'---|' * len(where)}---|"]
    lines = [*opening("Policy table", POLICY_INTRO), *head]
    for action in Action:
        given = shipped.actions.get(action, {})
        risks = " | ".join(str(given.get(name, "denied")) for name in where)
        lines.append(f"| `{action.value}` | {risks} | {cell(texts[action.name])} |")
    lines += [
        "",
        "## Classes",
        "",
        "| class | ticket in | approvals | who asked counts | good for | held up by freezes |",
        "|---|---|---|---|---|---|",
    ]
    lines += [_class_row(str(risk), rule) for risk, rule in sorted(shipped.classes.items())]
    gates = ", ".join(_gate_words(shipped)) or "none"
    lines += ["", f"Gates: {gates}.", "", "## Roles of tokens", "", "| role | may ask for |", "|---|---|"]
    lines += [f"| `{role}` | {_asked(allowed)} |" for role, allowed in shipped.roles.items()]
    return "\n".join(lines) + "\n"


def _class_row(risk: str, rule: ClassRule) -> str:
    roles = ", ".join(f"`{role}`" for role in rule.roles)
    people = f"{rule.approvers} of {roles}" if rule.approvers else "none"
    people += ", for different roles" if rule.different_roles else ""
    asker = ("no" if rule.separation else "yes") if rule.approvers else "-"
    good = f"{rule.ttl_s // 60} minutes" if rule.approvers else "-"
    ticket = ", ".join(sorted(rule.ticket)) or "none"
    return f"| {risk} | {ticket} | {people} | {asker} | {good} | {'yes' if rule.frozen else 'no'} |"


def _gate_words(shipped: Policies) -> Iterator[str]:
    for gate in shipped.gates:
        yield f"{gate.risk} before {gate.before} % of `{gate.action.value}` in {gate.environment}"


def _asked(allowed: frozenset[Action]) -> str:
    if allowed >= set(Action):
        return "everything"
    return ", ".join(f"`{action.value}`" for action in Action if action in allowed)


PAGES = {
    "errors.md": errors_page,
    "cli.md": cli_page,
    "stack-yaml.md": settings_page,
    "policy-table.md": policy_page,
}


def stale() -> list[str]:
    """The pages that are not what would be written now."""
    current = {name: HERE / name for name in PAGES}
    return [n for n, path in current.items() if not path.is_file() or path.read_text(encoding="utf-8") != PAGES[n]()]


def main() -> int:
    """Write or compare; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say which pages are not current")
    check = parser.parse_args().check
    found = stale()
    for name in found:
        print(f"{'not current' if check else 'written'}: docs/{name}")
        if not check:
            (HERE / name).write_text(PAGES[name](), encoding="utf-8")
    return 1 if check and found else 0


if __name__ == "__main__":
    sys.exit(main())
