"""Places off the database that keep checkpoints: a file, a command, an HTTP address.

A sink takes a checkpoint or says why not; when to try again is ``checkpointer``'s. The file sink is a witness: it
checks itself that what it is given grows out of what it holds, and refuses anything else.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import httpx

from stack.audit.merkle import verify_consistency
from stack.audit.note import LONGEST_NOTE, BadNote, Checkpoint, VerifierKey, open_checkpoint
from stack.config.settings import CheckpointSettings, SinkSettings
from stack.core.errors import Refused, Unavailable

_PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR", "SSH_AUTH_SOCK")
_TOLD = 300


class SinkFailed(Unavailable):
    """Checkpoint sink {sink} failed: {detail}"""

    hint = "It is tried again by itself. Checkpoints stay in the database meanwhile: `stackctl audit head`."


class SinkContradicts(Refused):
    """Checkpoint sink {sink} holds a checkpoint that this log does not grow out of: {detail}"""

    hint = "The log was rewritten, or the file is another log's. See docs/runbooks/audit-broken.md."


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """A checkpoint on its way. ``consistency(old)`` proves that its tree begins with that of ``old`` records."""

    note: str
    checkpoint: Checkpoint
    key: VerifierKey
    consistency: Callable[[int], Sequence[bytes]]


class Sink(Protocol):
    """Keeps checkpoints."""

    @property
    def name(self) -> str:
        """What status calls it."""

    @property
    def off_host(self) -> bool:
        """Whether it can be somewhere else than this host's own disk, as far as one can tell."""

    def deliver(self, delivery: Delivery) -> None:
        """Keep it; returns when it is kept. Raises SinkFailed or SinkContradicts."""


class FileSink:
    """Appends to a file, fsynced; what a crash left half-written at its end is cut off first."""

    def __init__(self, name: str, path: Path, state: Path) -> None:
        self.name, self._path, self._state = name, path, state

    @property
    def off_host(self) -> bool:
        """Another file system than the database's at least."""
        with suppress(OSError):
            return self._path.parent.stat().st_dev != self._state.stat().st_dev
        return False

    def deliver(self, delivery: Delivery) -> None:
        """Twice the same is once."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            with os.fdopen(descriptor, "r+b", buffering=0) as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._append(file.fileno(), delivery)
        except OSError as error:
            raise SinkFailed(f"{self._path}: {error.strerror or error}", sink=self.name) from error

    def _append(self, descriptor: int, delivery: Delivery) -> None:
        end = os.fstat(descriptor).st_size
        begin = max(0, end - 2 * LONGEST_NOTE)
        tail = os.pread(descriptor, end - begin, begin)
        whole = _whole(tail)
        torn = tail[whole:].lstrip(b"\n")
        if torn and not (delivery.note.encode()[: len(torn)].startswith(torn[: len(delivery.checkpoint.origin)])):
            raise SinkContradicts(f"{self._path} ends with something else than a checkpoint", sink=self.name)
        last = self._last(tail[:whole], delivery.key, begin == 0)
        if last is not None and not self._follows(last, delivery):
            return
        data = (b"\n" if begin + whole else b"") + delivery.note.encode()
        os.ftruncate(descriptor, begin + whole)
        if os.pwrite(descriptor, data, begin + whole) != len(data):
            os.ftruncate(descriptor, begin + whole)
            raise SinkFailed(f"{self._path}: the disk is full", sink=self.name)
        os.fsync(descriptor)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _last(self, tail: bytes, key: VerifierKey, complete: bool) -> Checkpoint | None:
        """The newest one it holds; None for an empty file."""
        if not tail:
            if complete:
                return None
            raise SinkContradicts(f"{self._path} does not end with a checkpoint", sink=self.name)
        before = tail.rfind(b"\n\n", 0, max(0, tail.rfind(b"\n\n")))
        try:
            return open_checkpoint(tail[before + 2 if before >= 0 else 0 :], key)
        except BadNote as error:
            raise SinkContradicts(f"{self._path}: {error}", sink=self.name) from error

    def _follows(self, last: Checkpoint, delivery: Delivery) -> bool:
        """False: it is there already. Raises when the log does not grow out of ``last``."""
        new = delivery.checkpoint
        if last.size == new.size and last.root == new.root:
            return False
        if last.size >= new.size:
            raise SinkContradicts(f"it has {last.size} records, this one {new.size}", sink=self.name)
        if not verify_consistency(last.size, new.size, delivery.consistency(last.size), last.root, new.root):
            raise SinkContradicts(f"its first {last.size} records are not this log's", sink=self.name)
        return True


class CommandSink:
    """Runs a program with the note on its standard input; exit code 0 means kept."""

    off_host = True

    def __init__(self, name: str, argv: Sequence[str], timeout_s: float, environ: Mapping[str, str]) -> None:
        self.name, self._argv, self._timeout_s = name, list(argv), timeout_s
        self._environ = {key: environ[key] for key in _PASSED_ON if key in environ}

    def deliver(self, delivery: Delivery) -> None:
        """In a session of its own, which ends with the time that it has."""
        try:
            child = subprocess.Popen(
                self._argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=self._environ,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise SinkFailed(f"{self._argv[0]}: {error}", sink=self.name) from error
        try:
            _, said = child.communicate(delivery.note.encode(), timeout=self._timeout_s)
        except subprocess.TimeoutExpired as error:
            _end(child)
            raise SinkFailed(f"{self._argv[0]} took more than {self._timeout_s:g} s", sink=self.name) from error
        if child.returncode:
            words = said.decode("utf-8", "replace").strip()[-_TOLD:]
            raise SinkFailed(f"{self._argv[0]} left with {child.returncode}: {words}", sink=self.name)


class HttpSink:
    """POSTs the note as text/plain; 200, 201, 202 and 204 mean kept."""

    off_host = True

    def __init__(self, name: str, url: str, timeout_s: float) -> None:
        self.name, self._url, self._timeout_s = name, url, timeout_s
        self._near = (urlsplit(url).hostname or "") in ("127.0.0.1", "::1", "localhost")

    def deliver(self, delivery: Delivery) -> None:
        """Redirects are not followed: another address is another sink."""
        headers = {"content-type": "text/plain; charset=utf-8"}
        try:
            with (
                httpx.Client(timeout=self._timeout_s, trust_env=not self._near) as client,
                client.stream("POST", self._url, content=delivery.note.encode(), headers=headers) as answer,
            ):
                status = answer.status_code
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise SinkFailed(f"{_shown(self._url)}: {error or type(error).__name__}", sink=self.name) from error
        if status not in (200, 201, 202, 204):
            raise SinkFailed(f"{_shown(self._url)} answered {status}", sink=self.name)


def make_sinks(settings: CheckpointSettings, fallback: Path, environ: Mapping[str, str]) -> tuple[Sink, ...]:
    """The sinks of the settings; without any, the file ``fallback`` in the state directory."""
    if not settings.sinks:
        return (FileSink("local", fallback, fallback.parent),)
    return tuple(_made(sink, fallback.parent, environ) for sink in settings.sinks)


def _made(sink: SinkSettings, state: Path, environ: Mapping[str, str]) -> Sink:
    if sink.file is not None:
        return FileSink(sink.name, Path(sink.file), state)
    if sink.command:
        return CommandSink(sink.name, sink.command, sink.timeout_s, environ)
    return HttpSink(sink.name, sink.http, sink.timeout_s)


def _whole(tail: bytes) -> int:
    """Where the last whole note ends; what is behind it was never acknowledged."""
    dash = "— ".encode()
    end = len(tail)
    while end:
        end = tail.rfind(b"\n", 0, end) + 1
        line = tail.rfind(b"\n", 0, end - 1) + 1 if end else 0
        if end and tail.startswith(dash, line):
            return end
        end = line
    return 0


def _shown(url: str) -> str:
    """Without its query, which may be a secret."""
    return url.partition("?")[0]


def _end(child: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    for pipe in (child.stdin, child.stderr):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
