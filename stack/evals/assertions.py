"""Judges one answer by a case's assertions. Pure, but for the bounded search of patterns.

Order of the decision (numbers repeated in `judge`):
1. The answer has an error (no answer, wrong status, wrong model, not JSON) -> failed, whatever the suite says.
2. It is empty, and no tool call was asked for -> failed.
3. Every assertion is evaluated, with a reason for each.
4. With a threshold: the weighted share of what held must reach it. Without: all that weigh anything must hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from stack.core.strict_json import NotJson, find_json, parse_json
from stack.evals.answer import Answer
from stack.evals.bounded_regex import TooSlow, search
from stack.evals.schema import schema_problems, violations
from stack.evals.suite import Assertion, Case


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one assertion said about one answer."""

    type: str
    passed: bool
    reason: str
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Passed or not, why, and each assertion's outcome."""

    passed: bool
    reason: str
    outcomes: tuple[Outcome, ...] = ()


def judge(case: Case, answer: Answer, streamed: Answer | None = None) -> Judgement:
    """`answer` by the assertions of `case`; `streamed` is the same prompt streamed, where the case wants it."""
    if answer.error is not None:  # 1
        return Judgement(passed=False, reason=answer.error)
    if not answer.text.strip() and not (case.wants_tools and answer.tool_calls):  # 2
        return Judgement(passed=False, reason="empty answer")
    outcomes = tuple(_outcome(check, case, answer, streamed) for check in case.asserts)  # 3
    broken = [o for o in outcomes if not o.passed and o.weight > 0]
    total = sum(o.weight for o in outcomes)
    if not total > 0:
        return Judgement(passed=False, reason="nothing that weighs anything was asserted", outcomes=outcomes)
    share = sum(o.weight for o in outcomes if o.passed) / total
    passed = share >= case.threshold if case.threshold is not None else not broken  # 4
    reason = "" if passed else "; ".join(f"{o.type}: {o.reason}" for o in broken)
    return Judgement(passed=passed, reason=reason, outcomes=outcomes)


def _outcome(check: Assertion, case: Case, answer: Answer, streamed: Answer | None) -> Outcome:
    try:
        if check.type == "stream-parity":
            why = next(_parity(answer, streamed), None)
        elif check.type == "is-valid-openai-tools-call":
            why = next(_tool_calls(case, answer), None)
        else:
            why = _CHECKS[check.type](check, answer)
    except TooSlow as error:
        return Outcome(type=check.name, passed=False, reason=str(error), weight=check.weight)
    passed = (why is None) != check.negated
    reason = "" if passed else why or f"it does hold: {_short(check.value)}"
    return Outcome(type=check.name, passed=passed, reason=reason, weight=check.weight)


def _equals(check: Assertion, answer: Answer) -> str | None:
    if isinstance(check.value, (dict, list)):
        try:
            same = parse_json(answer.text) == check.value
        except NotJson:
            same = False
    else:
        same = answer.text == str(check.value)
    return None if same else f"{_short(answer.text)} is not {_short(check.value)}"


def _contains(check: Assertion, answer: Answer) -> str | None:
    """All eight `contains` forms: `i` ignores case; `-all` / `-any` take several texts."""
    words = [str(v) for v in check.value] if isinstance(check.value, list) else [str(check.value)]
    text = answer.text
    if check.type.startswith("i"):
        words, text = [word.lower() for word in words], text.lower()
    missing = [word for word in words if word not in text]
    if not missing or (check.type.endswith("-any") and len(missing) < len(words)):
        return None
    return f"{_short(answer.text)} lacks {_short(', '.join(missing))}"


def _starts_with(check: Assertion, answer: Answer) -> str | None:
    held = answer.text.startswith(str(check.value))
    return None if held else f"{_short(answer.text)} does not start with {_short(check.value)}"


def _regex(check: Assertion, answer: Answer) -> str | None:
    return None if search(check.value, answer.text) else f"{_short(answer.text)} does not match {_short(check.value)}"


def _is_json(check: Assertion, answer: Answer) -> str | None:
    try:
        value = parse_json(answer.text)
    except NotJson as error:
        return f"not JSON: {error}"
    return next(violations(value, check.value), None) if check.value is not None else None


def _contains_json(check: Assertion, answer: Answer) -> str | None:
    found = find_json(answer.text)
    if not found:
        return f"no JSON in {_short(answer.text)}"
    if check.value is None or any(next(violations(value, check.value), None) is None for value in found):
        return None
    return next(violations(found[0], check.value))


def _finish_reason(check: Assertion, answer: Answer) -> str | None:
    return None if answer.finish_reason == check.value else f"finished with {answer.finish_reason}, not {check.value}"


def _latency(check: Assertion, answer: Answer) -> str | None:
    if answer.latency_s is None or check.threshold is None:
        return "the latency is not known"
    milliseconds = answer.latency_s * 1000
    return None if milliseconds <= check.threshold else f"took {milliseconds:.0f} ms, over {check.threshold:g} ms"


def _tool_calls(case: Case, answer: Answer) -> Iterator[str]:
    if not answer.tool_calls:
        yield "no tool was called"
    offered = {
        tool["function"]["name"]: tool["function"].get("parameters")
        for tool in case.options.tools or ()
        if isinstance(tool, dict) and isinstance(tool.get("function"), dict) and "name" in tool["function"]
    }
    for call in answer.tool_calls:
        function = call.get("function")
        if call.get("type") != "function" or not isinstance(function, dict):
            yield "a tool call is not of type function"
            continue
        yield from _arguments(function, offered)


def _arguments(function: dict[str, Any], offered: dict[str, Any]) -> Iterator[str]:
    name = function.get("name")
    if not isinstance(name, str) or not name or (offered and name not in offered):
        yield f"called {_short(name)}, which was not offered"
        return
    try:
        arguments = parse_json(function.get("arguments") or "")
    except (NotJson, TypeError, AttributeError):
        yield f"the arguments of {name} are not JSON"
        return
    if not isinstance(arguments, dict):
        yield f"the arguments of {name} are not an object"
        return
    parameters = offered.get(name)
    if parameters is None:
        return
    unknown = next(schema_problems(parameters), None)
    yield from [unknown] if unknown else violations(arguments, parameters, f"{name}()")


def _parity(answer: Answer, streamed: Answer | None) -> Iterator[str]:
    if streamed is None:
        yield "no streamed answer to compare with"
        return
    if streamed.error is not None:
        yield f"streamed: {streamed.error}"
        return
    if streamed.text != answer.text:
        yield f"streamed {_short(streamed.text)}, not streamed {_short(answer.text)}"
    if streamed.finish_reason != answer.finish_reason:
        yield f"streamed finish {streamed.finish_reason}, not streamed {answer.finish_reason}"
    if streamed.model != answer.model:
        yield f"streamed by {streamed.model}, not streamed by {answer.model}"
    if [c.get("function") for c in streamed.tool_calls] != [c.get("function") for c in answer.tool_calls]:
        yield "the tool calls differ"
    for key in ("prompt_tokens", "completion_tokens"):
        left, right = (answer.usage or {}).get(key), (streamed.usage or {}).get(key)
        if left is not None and right is not None and left != right:
            yield f"{key}: {right} streamed, {left} not streamed"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:97] + "..."


_CHECKS: dict[str, Callable[[Assertion, Answer], str | None]] = {
    "equals": _equals,
    "contains": _contains,
    "icontains": _contains,
    "contains-all": _contains,
    "contains-any": _contains,
    "icontains-all": _contains,
    "icontains-any": _contains,
    "starts-with": _starts_with,
    "regex": _regex,
    "is-json": _is_json,
    "contains-json": _contains_json,
    "finish-reason": _finish_reason,
    "latency": _latency,
}
