"""Canonical JSON (RFC 8785), by the ``rfc8785`` library: equal values give equal bytes."""

from __future__ import annotations

from typing import Any

import rfc8785

from stack.core.errors import InvalidInput


class NotCanonical(InvalidInput):
    """This value has no canonical JSON form: {detail}."""


def canonical(value: Any) -> bytes:
    """UTF-8 bytes of ``value`` per RFC 8785. NaN, infinities and integers beyond 2**53 are refused."""
    try:
        return rfc8785.dumps(value)
    except rfc8785.CanonicalizationError as error:
        raise NotCanonical(str(error)) from error
