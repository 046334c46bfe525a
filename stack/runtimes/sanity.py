"""Is what a replica sent a sane answer of the expected model? Pure; each function gives the reason why not, or None.

200 alone proves nothing: an engine with damaged weights is ready, and answers 200 with garbage or nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stack.runtimes.wire import Reply, parse_json

FINISHED = ("stop", "length")


@dataclass(frozen=True, kw_only=True)
class Streamed:
    """What a stream came to."""

    problem: str | None
    ttft_s: float | None = None
    total_s: float | None = None
    pieces: int = 0
    prompt_tokens: int | None = None


def liveness_problem(reply: Reply) -> str | None:
    """Of the liveness path: 200, and not a web page of something else that listens there."""
    if reply.error or reply.status != 200:
        return reply.error or f"HTTP {reply.status}"
    if reply.body.lstrip()[:1] == b"<":
        return "200 with a web page: something else listens there"
    return None


def listing_problem(reply: Reply, expected: str) -> str | None:
    """Of the model list: it must name exactly the expected model."""
    if reply.error or reply.status != 200:
        return reply.error or f"HTTP {reply.status}"
    body = parse_json(reply.body)
    rows = body.get("data") if isinstance(body, dict) else None
    if not isinstance(rows, list):
        return "the model list is not one"
    names = [row.get("id") for row in rows if isinstance(row, dict)]
    if expected not in names:
        return f"it serves {', '.join(str(name)[:80] for name in names) or 'nothing'}, not {expected}"
    return None


def completion_problem(reply: Reply, expected: str) -> str | None:
    """Of a chat completion."""
    if reply.error or reply.status != 200:
        return reply.error or f"HTTP {reply.status}: {reply.body[:120].decode('utf-8', 'replace')}"
    body = parse_json(reply.body)
    try:
        choice = body["choices"][0]
        text, finish, model = choice["message"]["content"], choice["finish_reason"], body["model"]
    except (KeyError, IndexError, TypeError):
        return "200, but not a chat completion"
    return _answer_problem(text, finish, model, expected)


def read_stream(reply: Reply, expected: str) -> Streamed:
    """Of a streamed chat completion, with the time of its first text."""
    if reply.error or reply.status != 200:
        return Streamed(problem=reply.error or f"HTTP {reply.status}: {reply.body[:120].decode('utf-8', 'replace')}")
    events, done = _events(reply)
    text: list[str] = []
    first: float | None = None
    finish = model = None
    usage: Any = None
    try:
        for moment, event in events:
            if event is None or "error" in event:
                return Streamed(problem=f"the stream broke: {str(event)[:120]}")
            model = event.get("model") or model
            usage = event.get("usage") or usage
            for choice in event["choices"][:1]:
                piece = choice["delta"].get("content")
                finish = choice.get("finish_reason") or finish
                if piece:
                    first = moment if first is None else first
                    text.append(piece)
        problem = _answer_problem("".join(text), finish, model, expected)
    except (KeyError, TypeError, AttributeError):
        return Streamed(problem="the stream carries what is not a chat completion chunk")
    if not done:
        problem = "the stream ended without [DONE]"
    tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    total = reply.chunks[-1][0] if reply.chunks else None
    return Streamed(problem=problem, ttft_s=first, total_s=total, pieces=len(text), prompt_tokens=tokens)


def _events(reply: Reply) -> tuple[list[tuple[float, Any]], bool]:
    events: list[tuple[float, Any]] = []
    pending = b""
    for moment, chunk in reply.chunks:
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            data = line.strip()
            if data == b"data: [DONE]":
                return events, True
            if data.startswith(b"data:"):
                events.append((moment, parse_json(data[5:])))
    return events, False


def _answer_problem(text: Any, finish: Any, model: Any, expected: str) -> str | None:
    if model != expected:
        return f"{str(model)[:100]!r} answered, not {expected!r}"
    if not isinstance(text, str) or not text.strip():
        return "200 with an empty answer"
    broken = sum(not (c.isprintable() or c.isspace()) or c == "\N{REPLACEMENT CHARACTER}" for c in text)
    if 2 * broken >= len(text):
        return "200 with an answer that is not text"
    if finish not in FINISHED:
        return f"the answer did not finish: {finish}"
    return None
