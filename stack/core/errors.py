"""The one error tree.

A class's docstring is the operator's message (``{name}`` is filled from the facts given); ``hint`` says
what to do; ``exit_code`` is what ``stackctl`` leaves with. Rooms derive their own errors from the
categories here, so that the command line and the API need to know the categories only.

===========  ===========================================================
exit code    meaning
===========  ===========================================================
0            done, or nothing to do
1            failed for a reason of our own (a bug: please report it)
2            the input is wrong (manifest, ``stack.yaml``, arguments)
3            refused by the evidence: the candidate is worse, or a check failed
4            something needed is not available (host, runtime, disk, port)
5            conflict: somebody else is doing it, or the state has moved on
6            inconclusive: not enough evidence; the rollout is paused
7            waits for an approval
===========  ===========================================================
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar


class StackError(Exception):
    """Something failed that should not have: {detail}."""

    exit_code: ClassVar[int] = 1
    hint: ClassVar[str] = ""

    def __init__(self, detail: str = "", *, advice: str = "", **facts: Any) -> None:
        self.detail = detail
        self.advice = advice or self.hint
        self.facts: Mapping[str, Any] = facts
        super().__init__(self.message)

    @property
    def code(self) -> str:
        """The stable, machine-readable name, e.g. ``DigestMismatch``."""
        return type(self).__name__

    @property
    def message(self) -> str:
        """The class docstring's first paragraph with the facts filled in."""
        text = " ".join((inspect.cleandoc(type(self).__doc__ or "")).split("\n\n")[0].split())
        try:
            return text.format(detail=self.detail, **self.facts)
        except (KeyError, IndexError):
            return self.detail or text

    def to_json(self) -> dict[str, Any]:
        """The shape of every error in ``--json`` output and in the API."""
        return {
            "error": {
                "code": self.code,
                "message": self.message,
                "hint": self.advice,
                "exit_code": self.exit_code,
                "facts": {k: v if isinstance(v, (int, float, bool, list)) else str(v) for k, v in self.facts.items()},
            }
        }


class InvalidInput(StackError):
    """{detail}"""

    exit_code = 2


class Refused(StackError):
    """Refused: {detail}"""

    exit_code = 3


class Unavailable(StackError):
    """{detail}"""

    exit_code = 4


class Conflict(StackError):
    """{detail}"""

    exit_code = 5


class NotEnoughEvidence(StackError):
    """Not enough evidence: {detail}"""

    exit_code = 6


class ApprovalNeeded(StackError):
    """Needs an approval: {detail}"""

    exit_code = 7


class BypassAttempt(Refused):
    """Refused by policy: {detail}"""

    hint = "It was recorded and the INC-04 alert was raised. See docs/runbooks/inc-04-bypass-attempt.md."
