"""Secrets from environment variables, taken out of the environment before anything can read it there.

``/proc/<pid>/environ`` shows a process's environment as it was at ``execve``; deleting a variable later changes
nothing there. So the values are put into a sealed, anonymous file in memory, and the program is started again with a
cleaned environment and that file's descriptor. The started program reads it once and closes it.

    values = taken_over(variables, os.environ)       # at the start of a process, before it starts threads
    descriptor = sealed(collected(variables, environ)); Popen(..., env=with_descriptor(...), pass_fds=[descriptor])
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import sys
from collections.abc import Iterable, Mapping, MutableMapping, Sequence

from stack.core.errors import Refused
from stack.secrets.inherited import for_our_processes

VARIABLE = "STACK_SECRETS_FD"
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_LIMIT = 1 << 20


class BadHandover(Refused):
    """The secrets handed over to this process can't be read: {detail}."""

    hint = f"Unset {VARIABLE} and start it again; `stackctl up` and `stackctl serve` set it by themselves."


def collected(variables: Iterable[str], environ: Mapping[str, str]) -> dict[str, str]:
    """The values of these variables that are set."""
    return {name: environ[name] for name in variables if name in environ}


def sealed(values: Mapping[str, str]) -> int:
    """The descriptor of a sealed file in memory that holds the values; children inherit it."""
    descriptor = os.memfd_create("stack-secrets", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    data = json.dumps(dict(values)).encode()
    while data:
        data = data[os.write(descriptor, data) :]
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    os.set_inheritable(descriptor, True)
    return descriptor


def handed_on(
    variables: Iterable[str], environ: Mapping[str, str], values: Mapping[str, str]
) -> tuple[dict[str, str], list[int]]:
    """The environment for a child that needs the values, and the descriptors to leave open for it (and to close)."""
    names = [*variables, VARIABLE]
    clean = for_our_processes(environ, names)
    if not values:
        return clean, []
    descriptor = sealed(values)
    return {**clean, VARIABLE: str(descriptor)}, [descriptor]


def received(environ: MutableMapping[str, str]) -> dict[str, str]:
    """What was handed to this process, once: the file is closed and its variable removed. Empty when nothing was."""
    text = environ.pop(VARIABLE, "")
    if not text:
        return {}
    if not text.isascii() or not text.isdigit() or len(text) > 6 or int(text) < 3:
        raise BadHandover(detail="no descriptor")
    descriptor = int(text)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode) or fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) != _SEALS:
            raise BadHandover(detail="the descriptor is not the sealed file")
        data = os.pread(descriptor, _LIMIT, 0)
    except OSError as error:
        raise BadHandover(detail=error.strerror or "unreadable") from None
    os.close(descriptor)
    return _values(data)


def _values(data: bytes) -> dict[str, str]:
    try:
        found = json.loads(data)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise BadHandover(detail="it is not what was handed over")
    return found


def taken_over(
    variables: Sequence[str], environ: MutableMapping[str, str], argv: Sequence[str] | None = None
) -> dict[str, str]:
    """The values of these variables, whoever brought them. Starts this program again where the environment holds one.

    Call it before threads are started and files are opened that must not be lost: it may not return.
    """
    values = {**received(environ), **collected(variables, environ)}
    if any(name in environ for name in variables):
        clean, _ = handed_on(variables, environ, values)
        words = list(argv if argv is not None else sys.orig_argv)
        os.execve(sys.executable, [sys.executable, *words[1:]], clean)  # noqa: S606 - this program, once more
    return values
