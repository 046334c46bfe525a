"""SHA-256 digests as a type of their own, written ``sha256:<64 hex>``."""

from __future__ import annotations

import hashlib
import re
from typing import Any, Self

from stack.core.canonical import canonical
from stack.core.errors import InvalidInput

_FORM = re.compile(r"sha256:[0-9a-f]{64}\Z")


class NotADigest(InvalidInput):
    """{text} is not a digest: write sha256: followed by 64 lower-case hex digits."""


class Digest(str):
    """``sha256:<64 lower-case hex>``; ``Digest(str(d)) == d``."""

    __slots__ = ()

    def __new__(cls, text: str) -> Self:
        if not _FORM.match(text):
            raise NotADigest(text=repr(text)[:90])
        return super().__new__(cls, text)

    @classmethod
    def of(cls, data: bytes) -> Self:
        """The digest of these bytes."""
        return cls("sha256:" + hashlib.sha256(data).hexdigest())

    @classmethod
    def of_value(cls, value: Any) -> Self:
        """The digest of a JSON value's canonical form (RFC 8785)."""
        return cls.of(canonical(value))

    @property
    def hex(self) -> str:
        """The 64 hex digits alone."""
        return self[7:]

    @property
    def short(self) -> str:
        """The first 12 hex digits: for people, never for comparison."""
        return self[7:19]
