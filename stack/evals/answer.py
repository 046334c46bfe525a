"""An answer as evaluations judge it: what `core.chat_answer` read, and the response it came in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stack.core.chat_answer import ChatAnswer


@dataclass(frozen=True, kw_only=True)
class Answer(ChatAnswer):
    """With the response's facts. `error` is None only when the answer is whole, and the expected model's."""

    status: int | None = None
    latency_s: float | None = None
    release: str | None = None
    slice: str | None = None
    replica: str | None = None

    @classmethod
    def of(cls, read: ChatAnswer, *, expected_model: str | None, **facts: Any) -> Answer:
        """With the response's facts, and an error when another model answered than expected."""
        error = read.error
        if error is None and expected_model is not None and read.model != expected_model:
            error = f"wrong model: {str(read.model)[:100]!r} answered, {expected_model!r} was expected"
        return cls(**{**vars(read), "error": error, **facts})
