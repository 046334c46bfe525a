"""From what ``stack.yaml`` and the environment say about the state database to the open store and a name in it."""

from __future__ import annotations

import logging
import secrets
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

from stack.config.forms import database_url
from stack.config.home import Home
from stack.config.settings import OPTIONAL_SECRETS, StackSettings
from stack.core.clock import Clock
from stack.core.errors import InvalidInput
from stack.secrets.source import SecretSource
from stack.store.store import Store

VARIABLE = "STACK_DATABASE"
WAIT_S = 45.0
"""A server that is away is waited for this long at the start: less than ``stackctl up`` waits for the control plane."""
_PASSWORD = OPTIONAL_SECRETS[0]
log = logging.getLogger(__name__)


class BadDatabase(InvalidInput):
    """STACK_DATABASE can't be used: {detail}"""

    hint = "See docs/postgresql.md, or unset it: state is then kept in STACK_HOME/state.db."


def database(settings: StackSettings, home: Home, environ: Mapping[str, str]) -> str | Path:
    """The place of the state: STACK_DATABASE, ``database`` in the stack file, or a file in the state directory."""
    said = environ.get(VARIABLE, "")
    try:
        return (database_url(said) if said else settings.database) or home.database
    except ValueError as error:
        raise BadDatabase(str(error)) from error


def open_store(
    settings: StackSettings, home: Home, environ: Mapping[str, str], source: SecretSource, clock: Clock
) -> Store:
    """Open, up to date, and waited for."""
    return Store.open(
        database(settings, home, environ),
        clock,
        password=password_of(settings, source),
        wait_s=WAIT_S,
        say=log.warning,
    )


def password_of(settings: StackSettings, source: SecretSource) -> Callable[[], str] | None:
    """Read for every connection, if a secret is listed for it."""
    listed = any(found.name == _PASSWORD for found in settings.secrets)
    return (lambda: source.read(_PASSWORD).reveal()) if listed else None


def holder_of(home: Home) -> str:
    """The name under which this state directory's control plane holds the lease: the same after every restart, and no
    other's, though machines made from one image may have one host name and one path. Called by its only process."""
    path = home.run / "instance"
    known = path.read_text(encoding="ascii", errors="replace").strip() if path.is_file() else ""
    if not known:
        known = secrets.token_hex(8)
        new = path.with_suffix(".new")
        new.write_text(known + "\n", encoding="ascii")
        new.replace(path)
    return f"{socket.gethostname()}/{home.root}/{known}"
