"""New files of one's own: never over one that exists, never readable by others."""

from __future__ import annotations

import os
from pathlib import Path

from stack.core.errors import Conflict, Unavailable


class FileExists(Conflict):
    """{path} exists already, and was left as it is."""

    hint = "Name another file, or remove that one."


class CannotWrite(Unavailable):
    """{path} can't be written: {detail}."""

    hint = "Name a file in a directory of yours with room for it."


def reserve(path: Path) -> None:
    """Make it, empty and for its owner only (0600)."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
    except FileExistsError as error:
        raise FileExists(path=path) from error
    except OSError as error:
        raise CannotWrite(error.strerror or str(error), path=path) from error


def fill(path: Path, content: bytes) -> None:
    """Write what ``reserve`` made room for."""
    try:
        with path.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise CannotWrite(error.strerror or str(error), path=path) from error


def write_new(path: Path, content: bytes) -> None:
    """A new file with this content, or none."""
    reserve(path)
    try:
        fill(path, content)
    except CannotWrite:
        path.unlink(missing_ok=True)
        raise
