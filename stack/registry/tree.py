"""Opening an artifact's files below its root, so that no symbolic link and no swap of one can lead outside.

Every component is opened relative to the directory before it, with O_NOFOLLOW. Which paths are allowed at
all is decided in ``paths``.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stack.registry.errors import UnsafePath
from stack.registry.paths import path_problem

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@contextmanager
def open_below(base: Path, path: str) -> Iterator[int]:
    """A descriptor of the regular file ``path`` below ``base``. Raises ``UnsafePath`` for anything else."""
    reason = path_problem(path)
    if reason:
        raise UnsafePath(path=repr(path)[:200], reason=reason)
    try:
        descriptor = _descend(base, path.split("/"))
    except OSError as error:
        raise UnsafePath(path=path, reason=_why(error)) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise UnsafePath(path=path, reason="it is not a regular file")
        yield descriptor
    finally:
        os.close(descriptor)


def _descend(base: Path, parts: list[str]) -> int:
    current = os.open(base, _DIRECTORY)
    try:
        for part in parts[:-1]:
            inner = os.open(part, _DIRECTORY | os.O_NOFOLLOW, dir_fd=current)
            os.close(current)
            current = inner
        return os.open(parts[-1], _FILE, dir_fd=current)
    finally:
        os.close(current)


def _why(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, NotADirectoryError) or error.errno == errno.ELOOP:
        return "part of the path is a symbolic link or not a directory"
    return (error.strerror or "it can't be opened").lower()


def file_size(base: Path, path: str) -> int:
    """The size of a regular file below ``base``."""
    with open_below(base, path) as descriptor:
        return os.fstat(descriptor).st_size
