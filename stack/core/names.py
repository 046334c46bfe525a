"""Meaningful strings with a type, each checked where it enters the program.

Names end up in file names, unit names, URLs and playbook variables, so one narrow alphabet holds for all.
"""

from __future__ import annotations

import re
import secrets
from typing import ClassVar, Self

from stack.core.errors import InvalidInput


class BadName(InvalidInput):
    """{text} can't be used as {kind}: use 1-{longest} of a-z, 0-9, '.', '_' and '-', first a letter or digit."""


class _Name(str):
    """Base of the name types: lower-case, shell-safe, path-safe."""

    __slots__ = ()
    kind: ClassVar[str] = "a name"
    longest: ClassVar[int] = 63
    _form: ClassVar[re.Pattern[str]] = re.compile(r"[a-z0-9][a-z0-9._-]*\Z")

    def __new__(cls, text: str) -> Self:
        if not cls._form.match(text) or len(text) > cls.longest or ".." in text:
            raise BadName(text=repr(text)[:90], kind=cls.kind, longest=cls.longest)
        return super().__new__(cls, text)


class HostName(_Name):
    """A host of the inventory."""

    __slots__ = ()
    kind = "a host name"


class ServiceName(_Name):
    """A public model name that clients call."""

    __slots__ = ()
    kind = "a service name"


class ReplicaId(_Name):
    """One running process of a release on one host."""

    __slots__ = ()
    kind = "a replica id"


class RolloutId(_Name):
    """One rollout, ``ro-`` and 10 random base-32 characters."""

    __slots__ = ()
    kind = "a rollout id"

    @classmethod
    def new(cls) -> RolloutId:
        """A fresh random id."""
        return cls("ro-" + "".join(secrets.choice("abcdefghjkmnpqrstvwxyz0123456789") for _ in range(10)))


class OperationId(_Name):
    """One thing done on one host, derived from the rollout's state: the same step has the same id after a restart."""

    __slots__ = ()
    kind = "an operation id"
    longest = 120


class RequestId(_Name):
    """One request for approval, ``rq-`` and 20 random base-32 characters: what makes a signature usable once."""

    __slots__ = ()
    kind = "a request id"

    @classmethod
    def new(cls) -> RequestId:
        """A fresh random id (98 bits)."""
        return cls("rq-" + "".join(secrets.choice("abcdefghjkmnpqrstvwxyz0123456789") for _ in range(20)))


class ChangeId(_Name):
    """A change's ticket as people write it, e.g. CHG-1; capitals are kept. Ours (requests, rollouts) are told apart."""

    __slots__ = ()
    kind = "a change id"
    _form = re.compile(r"(?!(?i:r[oq]-))[A-Za-z0-9][A-Za-z0-9._-]*\Z", re.ASCII)
