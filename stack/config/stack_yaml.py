"""Loads ``stack.yaml``: bytes -> settings, or one error with every mistake and its line.

``core.strict_yaml`` reads YAML, ``settings`` says what may stand in it, ``references`` checks what must fit together.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stack.config.fields import WRONG, Section
from stack.config.references import check, resolved
from stack.config.settings import (
    Document,
    GatewaySettings,
    HostSettings,
    RolloutSettings,
    ServiceSettings,
    StackSettings,
)
from stack.core.digest import Digest
from stack.core.errors import InvalidInput
from stack.core.strict_yaml import Ledger, Limits, NotReadable, Problem, compose

__all__ = [
    "ConfigurationError",
    "GatewaySettings",
    "HostSettings",
    "NoStackFile",
    "RolloutSettings",
    "ServiceSettings",
    "StackSettings",
    "load_stack",
]


LIMITS = Limits(size=256 << 10, depth=12, values=20_000)


class NoStackFile(InvalidInput):
    """{path} can't be read: {detail}"""

    hint = "Run where stack.yaml is, or name the file."


class ConfigurationError(InvalidInput):
    """{path} has {count} mistake(s):
    {detail}"""

    hint = "Correct these lines; nothing was changed."

    def __init__(self, path: Path, problems: Sequence[Problem]) -> None:
        errors = [problem.to_json() for problem in problems]
        super().__init__("; ".join(map(str, problems)), path=str(path), count=len(problems), errors=errors)
        self.problems = tuple(problems)


def load_stack(path: Path) -> StackSettings:
    """The settings in this file. Raises ConfigurationError (all mistakes at once) or NoStackFile."""
    try:
        with path.open("rb") as file:
            data = file.read(LIMITS.size + 1)
    except OSError as error:
        raise NoStackFile(error.strerror or str(error), path=str(path)) from error
    return parse(data, path.absolute())


def parse(data: bytes, path: Path) -> StackSettings:
    """The settings in these bytes; files they name are looked for beside ``path``."""
    ledger = Ledger()
    try:
        root = compose(data, LIMITS)
    except NotReadable as unreadable:
        raise ConfigurationError(path, [unreadable.problem]) from unreadable
    document = Section(Document).read(root, "", ledger)
    check(root, path.parent, ledger)
    if ledger.problems or document is WRONG:
        raise ConfigurationError(path, sorted(set(ledger.problems)))
    return resolved(document, path, Digest.of(data))
