"""Secrets in files that nobody but their owner may read. A link, a foreign owner or a wider mode is refused.

The file is opened first and then looked at, so what was checked is what is read.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stack.secrets.source import LONGEST, NoSecret, Secret, SecretTooOpen, usable


@dataclass(frozen=True, kw_only=True)
class FileSource:
    """``paths``: secret name -> its file."""

    paths: Mapping[str, Path]

    def read(self, name: str) -> Secret:
        """The file's text."""
        path = self.paths.get(name)
        if path is None:
            raise NoSecret(name=name, place="files", detail="no file is configured for it")
        return read_file(path, name)


def read_file(path: Path, name: str) -> Secret:
    """The secret in one file."""
    place = f"the file {path}"
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise SecretTooOpen(path=path, detail="it is a symbolic link") from None
        raise NoSecret(name=name, place=place, detail=error.strerror or "unreadable") from error
    try:
        _require_private(os.fstat(descriptor), path)
        data = os.pread(descriptor, LONGEST + 3, 0)
    except OSError as error:
        raise NoSecret(name=name, place=place, detail=error.strerror or "unreadable") from error
    finally:
        os.close(descriptor)
    return usable(data, name, place)


def _require_private(found: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise SecretTooOpen(path=path, detail="it is no regular file")
    if found.st_uid != os.geteuid():
        raise SecretTooOpen(path=path, detail=f"it belongs to the user {found.st_uid}")
    if stat.S_IMODE(found.st_mode) & ~0o600:
        raise SecretTooOpen(path=path, detail=f"its mode is {stat.S_IMODE(found.st_mode):04o}")
