"""The token that this invocation calls with. It stays in its file: never an argument, never shown."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from stack.core.errors import Unavailable

LONGEST = 512


class NoAdminToken(Unavailable):
    """The admin token can't be read from {path}: {detail}."""

    hint = "Run stackctl up in the same directory (or with the same STACK_HOME) as the user who owns it."


class BadTokenFile(Unavailable):
    """STACK_TOKEN_FILE names {path}, which can't be used: {detail}."""

    hint = "It must be a file of yours with mode 0600 that holds one token. Without it the shared one is used."


def shared_token(path: Path) -> str:
    """The token of the state directory."""
    try:
        return _only(path.read_bytes()[: LONGEST + 1])
    except (OSError, ValueError) as error:
        raise NoAdminToken(str(error), path=path) from error


def personal_token(path: Path) -> str:
    """The token in a file that nobody else can read. What is checked is what is read: one open."""
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise BadTokenFile("it is no file", path=path)
            if found.st_uid != os.geteuid():
                raise BadTokenFile("it belongs to another user", path=path)
            if found.st_mode & 0o177:
                raise BadTokenFile(f"its mode is {stat.S_IMODE(found.st_mode):04o}, not 0600", path=path)
            return _only(file.read(LONGEST + 1))
    except (OSError, ValueError) as error:
        raise BadTokenFile(str(getattr(error, "strerror", None) or error), path=path) from error


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def _only(content: bytes) -> str:
    """One printable word; the message never repeats it."""
    word = content.strip()
    if not word or len(content) > LONGEST or any(not 0x21 <= byte <= 0x7E for byte in word):
        raise ValueError("it does not hold one token")
    return word.decode("ascii")
