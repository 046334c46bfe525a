"""What a replica's answer says about itself: usage, the model that gave it, whether it is whole. No I/O.

A stream passes through untouched, event by event; ``StreamWatch`` looks closely only at events that could matter
(usage, errors, the end). It takes the extra usage event out again when the client had not asked for one.
An answer or a stream that can't be read never counts as a good one.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple, Self

import orjson

WHOLE = 65_536  # answers up to this size are parsed whole; of larger ones the ends are looked at
TAIL = 4_096
_HELD = 262_144  # an event longer than this is passed on unread

_END = re.compile(rb"\r?\n\r?\n|\r\r")
_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_DECODER = json.JSONDecoder()


class Usage(NamedTuple):
    """Tokens as the engine counted them."""

    prompt: int
    completion: int

    @classmethod
    def read(cls, value: Any) -> Self | None:
        """From the engine's ``usage`` object; None unless both counts are whole numbers >= 0."""
        if not isinstance(value, dict):
            return None
        prompt, completion = value.get("prompt_tokens"), value.get("completion_tokens", 0)
        if type(prompt) is int and type(completion) is int and prompt >= 0 and completion >= 0:
            return cls(prompt, completion)
        return None


class Reading(NamedTuple):
    """What an answer turned out to be."""

    sound: bool
    model: str | None = None
    usage: Usage | None = None


NONSENSE = Reading(sound=False)


def read_answer(body: bytes) -> Reading:
    """Judge a whole non-streamed answer."""
    if len(body) > WHOLE:
        return read_ends(body[:WHOLE], body[-TAIL:])
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return NONSENSE
    if not isinstance(document, dict):
        return NONSENSE
    choices, model = document.get("choices"), document.get("model")
    if not isinstance(choices, list):
        return NONSENSE
    return Reading(bool(choices), model if isinstance(model, str) else None, Usage.read(document.get("usage")))


def read_ends(first: bytes, tail: bytes) -> Reading:
    """Judge a long answer by its beginning and its end."""
    sound = first.lstrip().startswith(b"{") and tail.rstrip().endswith(b"}") and b'"choices"' in first
    return Reading(sound=sound, usage=usage_from_tail(tail))


def usage_from_tail(tail: bytes) -> Usage | None:
    """The last ``usage`` object in these bytes."""
    found = list(_USAGE.finditer(tail))
    if not found:
        return None
    try:
        value, _ = _DECODER.raw_decode(tail[found[-1].end() - 1 :].decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return Usage.read(value)


class StreamWatch:
    """Follows one server-sent event stream: ``feed`` gives back what the client should see.

    However the bytes are cut into pieces, the joined outputs of ``feed`` and ``rest`` are the same.
    """

    __slots__ = ("_drop", "_pending", "done", "failed", "model", "seen", "usage")

    def __init__(self, *, drop_usage: bool) -> None:
        self._drop = drop_usage
        self._pending = b""
        self.seen = False
        self.done = False
        self.failed = False
        self.model: str | None = None
        self.usage: Usage | None = None

    @property
    def sound(self) -> bool:
        """The stream came to its end and told of no error."""
        return self.done and not self.failed and not self._pending.strip()

    def feed(self, data: bytes) -> bytes:
        """The next bytes from the replica -> the bytes for the client."""
        if (
            self.seen
            and not self._pending
            and data.endswith((b"\n\n", b"\r\n\r\n"))
            and b"error" not in data
            and b"[DONE]" not in data
            and (b'"usage"' not in data or _USAGE.search(data) is None)
        ):
            return data
        return self._closely(data)

    def rest(self) -> bytes:
        """What is left when the replica has finished: an event without its blank line."""
        left, self._pending = self._pending, b""
        return left

    def _closely(self, data: bytes) -> bytes:
        data = self._pending + data
        out, start = [], 0
        for end in _END.finditer(data):
            event = data[start : end.end()]
            start = end.end()
            if self._keeps(event):
                out.append(event)
        self._pending = data[start:]
        if len(self._pending) > _HELD:
            out.append(self.rest())
        return b"".join(out)

    def _keeps(self, event: bytes) -> bool:
        lines = event.splitlines()
        payload = b"\n".join(line[5:] for line in lines if line.startswith(b"data:")).strip()
        if not payload:
            return True
        if any(line.startswith(b"event:") and line[6:].strip() == b"error" for line in lines):
            self.failed = True
        if payload == b"[DONE]":
            self.done = True
            return True
        return self._reads(payload)

    def _reads(self, payload: bytes) -> bool:
        try:
            document = orjson.loads(payload)
        except orjson.JSONDecodeError:
            document = None
        if not isinstance(document, dict) or document.get("error") is not None:
            self.seen = self.failed = True
            return True
        if not self.seen:
            self.seen = True
            model = document.get("model")
            self.model = model if isinstance(model, str) else None
        usage = Usage.read(document.get("usage"))
        self.usage = usage or self.usage
        return not (self._drop and usage is not None and not document.get("choices"))
