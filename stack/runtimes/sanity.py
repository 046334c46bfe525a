"""Is what a replica sent a sane answer of the expected model? Pure; each function gives the reason why not, or None.

200 alone proves nothing: an engine with damaged weights is ready, and answers 200 with garbage or nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from stack.core.chat_answer import ChatAnswer, parse_reply, parse_stream
from stack.core.strict_json import NotJson, parse_json
from stack.runtimes.wire import Reply

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
    try:
        body = parse_json(reply.body)
    except NotJson:
        body = None
    rows = body.get("data") if isinstance(body, dict) else None
    if not isinstance(rows, list):
        return "the model list is not one"
    names = [row.get("id") for row in rows if isinstance(row, dict)]
    if expected not in names:
        return f"it serves {', '.join(str(name)[:80] for name in names) or 'nothing'}, not {expected}"
    return None


def completion_problem(reply: Reply, expected: str) -> str | None:
    """Of a chat completion."""
    return _refusal(reply) or _answer_problem(parse_reply(reply.body), expected)


def read_stream(reply: Reply, expected: str) -> Streamed:
    """Of a streamed chat completion, with the time of its first text."""
    if refused := _refusal(reply):
        return Streamed(problem=refused)
    answer = parse_stream(reply.chunks)
    tokens = (answer.usage or {}).get("prompt_tokens")
    return Streamed(
        problem=_answer_problem(answer, expected),
        ttft_s=answer.ttft_s,
        total_s=reply.chunks[-1][0] if reply.chunks else None,
        pieces=answer.pieces,
        prompt_tokens=tokens,
    )


def _refusal(reply: Reply) -> str | None:
    if reply.error or reply.status != 200:
        return reply.error or f"HTTP {reply.status}: {reply.body[:120].decode('utf-8', 'replace')}"
    return None


def _answer_problem(answer: ChatAnswer, expected: str) -> str | None:
    if answer.error:
        return f"200, but {answer.error}"
    if answer.model != expected:
        return f"{str(answer.model)[:100]!r} answered, not {expected!r}"
    if not answer.text.strip():
        return "200 with an empty answer"
    broken = sum(not (c.isprintable() or c.isspace()) or c == "\N{REPLACEMENT CHARACTER}" for c in answer.text)
    if 2 * broken >= len(answer.text):
        return "200 with an answer that is not text"
    if answer.finish_reason not in FINISHED:
        return f"the answer did not finish: {answer.finish_reason}"
    return None
