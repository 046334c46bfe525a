"""Reading little-endian values from a file's head in bounded memory, never past the end and never past a limit."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator
from typing import Protocol

from stack.core.digest import Digest

WINDOW = 1 << 20
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


class BrokenHeader(ValueError):
    """What is wrong with a header, in words for the operator; its reader adds the file's name."""


class Readable(Protocol):
    """A file that can be read anywhere: its size, and bytes at an offset (as many as there are)."""

    size: int

    def read_at(self, offset: int, count: int) -> bytes:
        """Up to ``count`` bytes from ``offset``."""


class Bytes:
    """Bytes in memory as a ``Readable``."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def read_at(self, offset: int, count: int) -> bytes:
        return self._data[offset : offset + count]


def chunks(file: Readable, start: int, end: int) -> Iterator[bytes]:
    """The bytes from ``start`` to ``end``, a window at a time."""
    while start < end:
        data = file.read_at(start, min(WINDOW, end - start))
        if not data:
            raise BrokenHeader("the file ends early")
        yield data
        start += len(data)


def digest_of_ranges(file: Readable, ranges: list[tuple[int, int]]) -> Digest:
    """SHA-256 over several parts of a file, one after the other."""
    hasher = hashlib.sha256()
    for start, end in ranges:
        for data in chunks(file, start, end):
            hasher.update(data)
    return Digest("sha256:" + hasher.hexdigest())


class Cursor:
    """A position in a file's head that only moves forward."""

    def __init__(self, file: Readable, limit: int, window: int = WINDOW) -> None:
        self._window = window
        self._read: Callable[[int, int], bytes] = file.read_at
        self._end = min(file.size, limit)
        self._limited = file.size > limit
        self._buffer = b""
        self._base = 0
        self._at = 0

    @property
    def offset(self) -> int:
        """Where the next byte is read."""
        return self._base + self._at

    def _need(self, count: int) -> None:
        """Make sure that ``count`` (<= 16 MiB) bytes lie in the buffer."""
        if count > self._end - self.offset:
            raise BrokenHeader(
                f"its header is longer than the {self._end} bytes that are read of one"
                if self._limited
                else f"its header ends after byte {self._end}, in the middle of a value: the file is cut off or damaged"
            )
        if self._at + count <= len(self._buffer):
            return
        start = self.offset
        self._buffer = self._read(start, min(max(self._window, count), self._end - start))
        self._base, self._at = start, 0
        if len(self._buffer) < count:
            raise BrokenHeader("the file ends early")

    def take(self, count: int, most: int) -> bytes:
        """The next ``count`` bytes, of which there may be ``most``."""
        if count > most:
            raise BrokenHeader(f"a value of {count} bytes, where {most} is the most")
        self._need(count)
        self._at += count
        return self._buffer[self._at - count : self._at]

    def skip(self, count: int) -> None:
        """Move on without looking."""
        if self._at + count <= len(self._buffer):
            self._at += count
            return
        if count > self._end - self.offset:
            self._need(count)
        self._base, self._at, self._buffer = self.offset + count, 0, b""

    def u32(self) -> int:
        """A 32-bit unsigned number."""
        return int(_U32.unpack(self.take(4, 4))[0])

    def u64(self) -> int:
        """A 64-bit unsigned number."""
        return int(_U64.unpack(self.take(8, 8))[0])

    def skip_strings(self, count: int) -> None:
        """Move over ``count`` length-prefixed strings."""
        unpack = _U64.unpack_from
        while count:
            self._need(8)
            buffer, at, last = self._buffer, self._at, len(self._buffer) - 8
            while count and at <= last:
                following = at + 8 + unpack(buffer, at)[0]
                if following > last + 8:
                    break
                at = following
                count -= 1
            moved = at != self._at
            self._at = at
            if not moved and count:
                self.skip(self.u64())
                count -= 1
