"""SSH's wire form (RFC 4251, section 5), read strictly and written. Pure.

Reading believes nothing: every length is checked against what is there, an mpint must be non-negative and in its
shortest form, and ``end`` refuses trailing bytes, so each value has one spelling. Round trip: what ``string``,
``uint32`` and ``mpint`` write, ``Reader`` reads back as the same value, and what ``Reader`` accepts they write again
byte for byte. What the fields mean is left to the readers of keys and signatures.
"""

from __future__ import annotations

from stack.core.errors import InvalidInput


class Malformed(InvalidInput):
    """This is not SSH's wire form: {detail}."""


class Reader:
    """Takes one field after the other from ``data``."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        left = len(self._data) - self._at
        if count > left:
            raise Malformed(f"{count} bytes are announced and {left} are there")
        self._at += count
        return self._data[self._at - count : self._at]

    def byte(self) -> int:
        """The next byte."""
        return self.take(1)[0]

    def uint32(self) -> int:
        """The next four bytes as a number."""
        return int.from_bytes(self.take(4), "big")

    def string(self) -> bytes:
        """A length and that many bytes."""
        return self.take(self.uint32())

    def text(self) -> str:
        """A string that must be printable ASCII."""
        raw = self.string()
        if not raw.isascii() or not (decoded := raw.decode("ascii")).isprintable():
            raise Malformed("a name is not printable ASCII")
        return decoded

    def mpint(self) -> int:
        """A number of any size: not negative, in its shortest form."""
        raw = self.string()
        number = int.from_bytes(raw, "big")
        if mpint(number)[4:] != raw:
            raise Malformed("a number is negative or not in its shortest form")
        return number

    @property
    def empty(self) -> bool:
        """Whether all is read."""
        return self._at == len(self._data)

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self._data) - self._at)

    def end(self) -> None:
        """Nothing may be left."""
        if left := len(self._data) - self._at:
            raise Malformed(f"{left} bytes too many")


def uint32(number: int) -> bytes:
    """``number`` in four bytes."""
    return number.to_bytes(4, "big")


def string(data: bytes | str) -> bytes:
    """``data`` with its length before it."""
    raw = data.encode() if isinstance(data, str) else data
    return uint32(len(raw)) + raw


def mpint(number: int) -> bytes:
    """``number`` (not negative) in its shortest form: a zero byte in front only where the top bit is set."""
    return string(number.to_bytes(number.bit_length() // 8 + 1, "big") if number else b"")
