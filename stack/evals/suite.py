"""What a suite is once loaded: cases with their messages, options and assertions. Values only.

`load` reads them from YAML, `assertions` judges answers by them, `run` sends them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from stack.core.digest import Digest


@dataclass(frozen=True, kw_only=True)
class Assertion:
    """One thing an answer must (or, `negated`, must not) be."""

    type: str
    negated: bool = False
    value: Any = None
    threshold: float | None = None
    weight: float = 1.0

    @property
    def name(self) -> str:
        """The type as the suite writes it."""
        return f"not-{self.type}" if self.negated else self.type


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the model is asked. Greedy unless the suite says otherwise."""

    temperature: float = 0.0
    max_tokens: int = 256
    seed: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None


@dataclass(frozen=True, kw_only=True)
class Case:
    """One prompt with everything its answer must satisfy; `id` is unique within the suite."""

    id: str
    task: str
    messages: tuple[dict[str, Any], ...]
    asserts: tuple[Assertion, ...]
    options: Options = field(default_factory=Options)
    threshold: float | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def wants_tools(self) -> bool:
        """Is a tool call an answer here (and text not needed)?"""
        return any(a.type == "is-valid-openai-tools-call" and not a.negated for a in self.asserts)

    @property
    def wants_stream(self) -> bool:
        """Must the prompt also be streamed, to compare?"""
        return any(a.type == "stream-parity" for a in self.asserts)


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Cases in order. `digest` is over everything that decides a result, not over the file's layout."""

    name: str
    description: str
    cases: tuple[Case, ...]
    digest: Digest
    providers: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[Case]:
        return iter(self.cases)
