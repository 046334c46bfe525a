"""The state directory as ``up`` leaves it: private directories, and random secrets with mode 0600."""

from __future__ import annotations

import os
import secrets
from collections.abc import Container
from pathlib import Path

from stack.config.home import Home, HomeUnusable

SECRETS = ("admin.token", "client.key", "probe.key", "checkpoint.key")


def prepare(home: Home, elsewhere: Container[str] = ()) -> None:
    """Make what is missing; never changes a secret that exists. Group and others get nothing."""
    home.create()
    try:
        for name in SECRETS:
            if name not in elsewhere:
                _make_secret(home.secret(name))
    except OSError as error:
        raise HomeUnusable(error.strerror or str(error), path=home.secrets) from error


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
