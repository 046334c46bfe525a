"""What every command shares: --json, help with examples, the place it works on, and one way to answer."""

from __future__ import annotations

import getpass
import json
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from stack.cli.lazy import JSON_WANTED
from stack.cli.main import EXIT_CODES
from stack.cli.printable import printable
from stack.config.home import Home, Ports, home_from_environment, ports_from_environment


@dataclass(frozen=True, kw_only=True)
class Place:
    """The state directory and the ports this invocation works on. ``token_file``: whose token; None: the shared one."""

    home: Home
    ports: Ports
    token_file: Path | None = None

    @property
    def root(self) -> Path:
        """The state directory, absolute."""
        return self.home.root.absolute()

    @property
    def admin_url(self) -> str:
        """Where the control plane listens."""
        return f"http://127.0.0.1:{self.ports.admin}"

    @property
    def gateway_url(self) -> str:
        """Where the gateway listens."""
        return f"http://127.0.0.1:{self.ports.gateway}"

    def secret(self, name: str) -> Path:
        """The file of a secret."""
        return self.home.secret(name)


def place() -> Place:
    """From STACK_HOME, STACK_GATEWAY_PORT, STACK_ADMIN_PORT and STACK_TOKEN_FILE."""
    named = os.environ.get("STACK_TOKEN_FILE")
    return Place(
        home=home_from_environment(os.environ),
        ports=ports_from_environment(os.environ),
        token_file=Path(named).expanduser() if named else None,
    )


def actor() -> str:
    """Who says to be asking: shown beside the token's name, never believed. Printable, since the API wants it so."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid-{os.getuid()}"
    said = f"{user}@{socket.gethostname()}"[:200]
    return "".join(c if c.isprintable() else "?" for c in said)


def _want_json(ctx: click.Context, _param: click.Parameter, value: bool) -> bool:
    ctx.meta[JSON_WANTED] = value
    return value


def command(name: str, *, examples: str, codes: str = "") -> Callable[[Callable[..., None]], click.Command]:
    """A click command with --json and with ``examples`` (one per line) in its help."""
    lines = "\n".join(f"  {line.strip()}" for line in examples.strip().splitlines())
    special = f"\b\nHere:\n{codes}\n\n" if codes else ""
    epilog = f"\b\nExamples:\n{lines}\n\n{special}{EXIT_CODES}"

    def decorate(function: Callable[..., None]) -> click.Command:
        option = click.option("--json", "as_json", is_flag=True, callback=_want_json, help="Answer in JSON.")
        return click.command(name, epilog=epilog)(option(function))

    return decorate


def answer(body: Any, human: str, *, as_json: bool) -> None:
    """Print the answer: JSON or text."""
    click.echo(json.dumps(body, indent=2) if as_json else printable(human))
