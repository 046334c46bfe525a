"""A secret as a value that does not show itself, and what every source of secrets answers and raises.

``reveal`` is the one way to the text; it is called where the text is used and nowhere else. No error names a value.
"""

from __future__ import annotations

import hmac
from typing import NoReturn, Protocol

from stack.core.errors import InvalidInput, Refused, Unavailable

MASK = "***"
LONGEST = 64 << 10


class NoSecret(Unavailable):
    """The secret {name} can't be had from {place}: {detail}."""

    hint = "`stackctl up` makes the files of a state directory; `secrets` in stack.yaml names other places."


class SecretTooOpen(Refused):
    """The secret file {path} is not private: {detail}."""

    hint = "Make it a plain file of the user who runs the control plane, and close it: chmod 600 <file>"


class SecretUnusable(InvalidInput):
    """What {place} holds for the secret {name} can't be a secret: {detail}."""

    hint = "A secret is text of 1 byte to 64 KiB without NUL characters; one newline at the end is left out."


class DummySecret(Refused):
    """The secret {name} from {place} is no real one: {detail}."""

    hint = "Put a random one there, for example: openssl rand -hex 32. Only in the environment dev anything goes."


class Secret:
    """A value that is printed, formatted and logged as ``***``, compared in constant time, and never pickled."""

    __slots__ = ("__value",)

    def __init__(self, value: str) -> None:
        object.__setattr__(self, "_Secret__value", value)

    def reveal(self) -> str:
        """The text itself."""
        return str(object.__getattribute__(self, "_Secret__value"))

    def __repr__(self) -> str:
        return MASK

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self.reveal().encode(), other.reveal().encode())

    __hash__ = None  # type: ignore[assignment]

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError("a secret does not change")

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a secret is not serialised")


class SecretSource(Protocol):
    """Where secrets come from. Read anew at every call, so that a rotated one is seen."""

    def read(self, name: str) -> Secret:
        """The secret of this name; ``NoSecret`` and the other errors here where there is no usable one."""


def usable(text: bytes | str, name: str, place: str) -> Secret:
    """The secret in what was read; one newline at the end does not belong to it."""
    problem, value = "", ""
    try:
        value = text.decode("utf-8") if isinstance(text, bytes) else text
        value.encode("utf-8")
    except UnicodeError:
        problem = "not UTF-8"
    value = value.removesuffix("\n").removesuffix("\r")
    if not problem and not value.strip():
        problem = "empty"
    elif "\0" in value:
        problem = "a NUL character"
    elif len(value) > LONGEST:
        problem = "longer than 64 KiB"
    if problem:
        raise SecretUnusable(name=name, place=place, detail=problem) from None
    return Secret(value)
