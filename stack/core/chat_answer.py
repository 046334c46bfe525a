"""Reads what a chat-completions server sent: one JSON object, or a stream of events. Pure.

What the text is worth is for the caller. Whatever is not clearly a complete answer becomes an `error`; in particular
a stream without a finish reason, or with an error event before its `[DONE]`, is not an answer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from stack.core.strict_json import NotJson, parse_json


@dataclass(frozen=True, kw_only=True)
class ChatAnswer:
    """What came back. `error` is None only when the answer is whole; `text` may still be empty."""

    text: str = ""
    finish_reason: str | None = None
    tool_calls: tuple[dict[str, Any], ...] = ()
    model: str | None = None
    usage: dict[str, Any] | None = None
    ttft_s: float | None = None
    pieces: int = 0
    error: str | None = None


def parse_reply(data: bytes) -> ChatAnswer:
    """An answer from one JSON body."""
    try:
        reply = parse_json(data)
        choice = reply["choices"][0]
        message = choice["message"]
        content, calls = message.get("content"), message.get("tool_calls") or ()
    except NotJson as error:
        return ChatAnswer(error=f"not a chat completion: not JSON: {error}")
    except (KeyError, IndexError, TypeError, AttributeError):
        return ChatAnswer(error="not a chat completion: no choices[0].message")
    text = content if isinstance(content, str) else ""
    answer = ChatAnswer(text=text, model=_text(reply.get("model")), usage=_mapping(reply.get("usage")))
    return _complete(answer, calls, choice.get("finish_reason"))


def _complete(answer: ChatAnswer, calls: Any, finish: Any) -> ChatAnswer:
    if not isinstance(finish, str) or not finish:
        return replace(answer, error="the answer did not finish: it has no finish_reason")
    if not isinstance(calls, (list, tuple)) or not all(isinstance(call, dict) for call in calls):
        return replace(answer, error="not a chat completion: tool_calls is not a list of mappings")
    return replace(answer, tool_calls=tuple(calls), finish_reason=finish)


def parse_stream(arrived: Sequence[tuple[float, bytes]]) -> ChatAnswer:
    """An answer from the chunks of an event stream, each with the seconds since the request began."""
    state = _Stream()
    pending = b""
    for moment, chunk in arrived:
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            state.line(line.rstrip(b"\r"), moment)
    return state.answer()


@dataclass(kw_only=True)
class _Stream:
    parts: list[str] = field(default_factory=list)
    calls: dict[int, dict[str, Any]] = field(default_factory=dict)
    model: str | None = None
    usage: dict[str, Any] | None = None
    finish: Any = None
    ttft: float | None = None
    error: str | None = None
    done: bool = False

    def line(self, line: bytes, moment: float) -> None:
        if self.error or not line.startswith(b"data:"):
            if line.startswith(b"event:") and line[6:].strip() == b"error":
                self.error = "the stream broke with an error event"
            return
        data = line[5:].strip()
        if data == b"[DONE]":
            self.done = True
            return
        try:
            self._event(parse_json(data), moment)
        except NotJson as error:
            self.error = f"the stream carries what is not JSON: {error}"
        except (KeyError, IndexError, TypeError, AttributeError, ValueError):
            self.error = "the stream carries what is not a chat completion chunk"

    def _event(self, event: dict[str, Any], moment: float) -> None:
        if "error" in event:
            self.error = f"the stream broke: {json.dumps(event['error'])[:200]}"
            return
        self.model = _text(event.get("model")) or self.model
        self.usage = _mapping(event.get("usage")) or self.usage
        if not event["choices"]:
            return
        choice = event["choices"][0]
        delta = choice.get("delta") or {}
        if delta.get("content") or delta.get("tool_calls"):
            self.ttft = moment if self.ttft is None else self.ttft
        piece = delta.get("content") or ""
        if not isinstance(piece, str):
            raise TypeError("content is not text")
        self.parts.append(piece)
        for call in delta.get("tool_calls") or ():
            self._call(call)
        self.finish = choice.get("finish_reason") or self.finish

    def _call(self, part: dict[str, Any]) -> None:
        call = self.calls.setdefault(int(part.get("index", 0)), {"type": "function", "function": {"arguments": ""}})
        call.update({key: part[key] for key in ("id", "type") if part.get(key)})
        function = part.get("function") or {}
        if function.get("name"):
            call["function"]["name"] = function["name"]
        call["function"]["arguments"] += function.get("arguments") or ""

    def answer(self) -> ChatAnswer:
        calls = [self.calls[index] for index in sorted(self.calls)]
        answer = ChatAnswer(
            text="".join(self.parts),
            model=self.model,
            usage=self.usage,
            ttft_s=self.ttft,
            pieces=sum(map(bool, self.parts)),
        )
        if self.error:
            return replace(answer, error=self.error)
        if not self.done:
            return replace(answer, error="the stream ended without [DONE]")
        return _complete(answer, calls, self.finish)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _mapping(value: Any) -> dict[str, Any] | None:
    return value if isinstance(value, dict) else None
