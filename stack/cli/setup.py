"""The state directory as ``up`` leaves it: private directories, and random secrets with mode 0600."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from stack.core.errors import Unavailable

SECRETS = ("admin.token", "client.key", "probe.key")
_DIRECTORIES = ("", "run", "logs", "secrets")


class HomeNotWritable(Unavailable):
    """The state directory {path} can't be used: {detail}."""

    hint = "Give it to this user, or set STACK_HOME to a directory that can be written."


def prepare(root: Path) -> None:
    """Make what is missing; never changes a secret that exists. Group and others get nothing."""
    try:
        for name in _DIRECTORIES:
            (root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in SECRETS:
            _make_secret(root / "secrets" / name)
    except OSError as error:
        raise HomeNotWritable(str(error), path=root) from error


def _make_secret(path: Path) -> None:
    """Whole or not at all: written beside, then linked in."""
    if path.exists():
        return
    new = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32) + "\n")
        os.link(new, path)
    except FileExistsError:
        pass
    finally:
        new.unlink()
