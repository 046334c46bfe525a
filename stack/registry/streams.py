"""Moving and hashing bytes with two fixed buffers, whatever the size of the file.

One file uses two cores: the caller's thread reads and hashes while a second one writes. Knows nothing of stores.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections.abc import Callable

from stack.core.digest import Digest

BUFFER = 1 << 20
_FLUSH_EVERY = 64 << 20
Advance = Callable[[int], None]


class OpenFile:
    """A descriptor as a ``Readable`` (``formats.cursor``); the descriptor stays its owner's."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size

    def read_at(self, offset: int, count: int) -> bytes:
        return os.pread(self._descriptor, count, offset)


def hash_file(descriptor: int, advance: Advance) -> Digest:
    """SHA-256 of a file from its beginning."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    hasher = hashlib.sha256()
    view = memoryview(bytearray(BUFFER))
    while count := os.readv(descriptor, [view]):
        hasher.update(view[:count])
        advance(count)
    return Digest("sha256:" + hasher.hexdigest())


def copy_and_hash(source: int, target: int, advance: Advance) -> Digest:
    """Append to ``target`` what it lacks of ``source``; the digest of all of ``target``, durable on return.

    What ``target`` has already is hashed from its beginning: nothing that was not read here is trusted.
    """
    hasher = hashlib.sha256()
    have = _hash_existing(target, hasher.update, advance)
    os.lseek(source, have, os.SEEK_SET)
    os.posix_fadvise(source, have, 0, os.POSIX_FADV_SEQUENTIAL)
    with _Writer(target) as writer:
        while True:
            view = writer.buffer()
            count = os.readv(source, [view])
            if not count:
                break
            writer.write(view, count)
            hasher.update(view[:count])
            writer.release(view)
            advance(count)
    os.fsync(target)
    return Digest("sha256:" + hasher.hexdigest())


def _hash_existing(target: int, update: Callable[[memoryview], None], advance: Advance) -> int:
    os.lseek(target, 0, os.SEEK_SET)
    view = memoryview(bytearray(BUFFER))
    have = 0
    while count := os.readv(target, [view]):
        update(view[:count])
        advance(count)
        have += count
    return have


def write_all(descriptor: int, data: memoryview) -> None:
    """Write every byte."""
    while data:
        data = data[os.write(descriptor, data) :]


class _Writer:
    """A thread that writes buffers in order. A buffer is free again when it is written and the caller released it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        self._full: queue.SimpleQueue[tuple[memoryview, int] | None] = queue.SimpleQueue()
        self._written: queue.SimpleQueue[OSError | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        for _ in range(2):
            self._free.put(memoryview(bytearray(BUFFER)))

    def __enter__(self) -> _Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._full.put(None)
        self._thread.join()

    def buffer(self) -> memoryview:
        """A buffer to read into."""
        return self._free.get()

    def write(self, view: memoryview, count: int) -> None:
        """Begin to write the first ``count`` bytes of a buffer."""
        self._full.put((view, count))

    def release(self, view: memoryview) -> None:
        """Wait until the buffer is written; raise what writing it raised."""
        error = self._written.get()
        self._free.put(view)
        if error is not None:
            raise error

    def _run(self) -> None:
        while (job := self._full.get()) is not None:
            view, count = job
            try:
                write_all(self._descriptor, view[:count])
            except OSError as error:
                self._written.put(error)
            else:
                self._written.put(None)
