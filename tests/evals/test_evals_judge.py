"""Judging answers: each assertion type in both directions, and that no broken answer passes."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stack.core.chat_answer import parse_reply, parse_stream
from stack.evals.answer import Answer
from stack.evals.assertions import judge
from stack.evals.bounded_regex import TooSlow, search
from stack.evals.suite import Assertion, Case, Options
from stack.evals.vocabulary import KINDS

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def case_of(*checks: Assertion, threshold: float | None = None, tools: list[dict[str, Any]] | None = None) -> Case:
    return Case(
        id="t", task="all", messages=(), asserts=checks, threshold=threshold, options=Options(tools=tools)
    )  # fmt: skip


def answer_of(text: str = "Paris", **more: Any) -> Answer:
    return Answer(text=text, finish_reason="stop", model="m", status=200, latency_s=0.2, **more)


def call(name: str = "weather", arguments: str = '{"city": "Oslo"}') -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


HOLDS: list[tuple[str, Any, str, bool]] = [
    ("equals", "Paris", "Paris", True),
    ("equals", "Paris", "Paris.", False),
    ("equals", {"a": [1]}, '{ "a": [1] }', True),
    ("equals", {"a": [1]}, "a", False),
    ("contains", "ari", "Paris", True),
    ("contains", "ARI", "Paris", False),
    ("icontains", "ARI", "Paris", True),
    ("contains-all", ["P", "s"], "Paris", True),
    ("contains-all", ["P", "x"], "Paris", False),
    ("contains-any", ["x", "P"], "Paris", True),
    ("contains-any", ["x", "y"], "Paris", False),
    ("icontains-all", ["p", "S"], "Paris", True),
    ("icontains-any", ["X", "p"], "Paris", True),
    ("icontains-any", ["X", "q"], "Paris", False),
    ("starts-with", "Pa", "Paris", True),
    ("starts-with", "a", "Paris", False),
    ("regex", "^P.ris$", "Paris", True),
    ("regex", "^p", "Paris", False),
    ("regex", "(a|b)+c{2}", "xabacc", True),
    ("is-json", None, "[1, 2]", True),
    ("is-json", None, "[1, 2", False),
    ("is-json", None, "NaN", False),
    ("is-json", None, "1e999", False),
    ("is-json", None, "[" * 100_000, False),
    ("is-json", {"type": "object", "required": ["a"]}, '{"a": 1}', True),
    ("is-json", {"type": "object", "required": ["a"]}, "{}", False),
    ("is-json", {"type": "integer"}, "true", False),
    ("is-json", {"enum": [1]}, "true", False),
    ("is-json", {"items": {"maximum": 3}}, "[1, 4]", False),
    ("is-json", {"properties": {"a": {"minLength": 2}}, "additionalProperties": False}, '{"a": "xy"}', True),
    ("is-json", {"properties": {"a": {}}, "additionalProperties": False}, '{"b": 1}', False),
    ("contains-json", None, 'so: {"a": 1} ok', True),
    ("contains-json", None, "so: {a} [b", False),
    ("contains-json", {"required": ["b"]}, '{"a": 1} {"b": 2}', True),
    ("contains-json", {"required": ["c"]}, '{"a": 1} {"b": 2}', False),
    ("finish-reason", "stop", "Paris", True),
    ("finish-reason", "length", "Paris", False),
]


@pytest.mark.parametrize(("kind", "value", "text", "holds"), HOLDS)
def test_an_assertion_and_its_negation(kind: str, value: Any, text: str, holds: bool) -> None:
    check = Assertion(type=kind, value=value)
    judgement = judge(case_of(check), answer_of(text))
    assert judgement.passed is holds
    assert bool(judgement.reason) is not holds
    assert judge(case_of(replace(check, negated=True)), answer_of(text)).passed is not holds


def test_every_type_is_judged_somewhere() -> None:
    tested = {kind for kind, *_ in HOLDS} | {"latency", "stream-parity", "is-valid-openai-tools-call"}
    assert tested == set(KINDS)


def test_latency() -> None:
    case = case_of(Assertion(type="latency", threshold=200))
    assert judge(case, answer_of()).passed
    assert not judge(case, replace(answer_of(), latency_s=0.2001)).passed
    assert not judge(case, replace(answer_of(), latency_s=None)).passed


@pytest.mark.parametrize(
    ("calls", "holds"),
    [
        ((call(),), True),
        ((), False),
        ((call(name="launch"),), False),
        ((call(arguments="{}"),), False),
        ((call(arguments="{"),), False),
        ((call(arguments="[]"),), False),
        ((call(), call(arguments="")), False),
        (({"type": "function"},), False),
        (({"function": {"name": "weather", "arguments": "{}"}},), False),
        ((call(arguments=7),), False),  # type: ignore[arg-type]
    ],
)
def test_tool_calls(calls: tuple[dict[str, Any], ...], holds: bool) -> None:
    case = case_of(Assertion(type="is-valid-openai-tools-call"), tools=[TOOL])
    assert judge(case, answer_of("" if calls else "text", tool_calls=calls)).passed is holds


@pytest.mark.parametrize(
    "streamed",
    [
        None,
        answer_of("Pari"),
        replace(answer_of(), finish_reason="length"),
        replace(answer_of(), model="n"),
        replace(answer_of(), error="cut"),
        answer_of(usage={"prompt_tokens": 4}),
        answer_of(tool_calls=(call(),)),
    ],
)
def test_stream_parity(streamed: Answer | None) -> None:
    case = case_of(Assertion(type="stream-parity"))
    whole = answer_of(usage={"prompt_tokens": 3})
    assert judge(case, whole, answer_of()).passed
    assert not judge(case, whole, streamed).passed


def test_weights_and_threshold() -> None:
    good, bad = Assertion(type="contains", value="P", weight=3), Assertion(type="contains", value="x", weight=1)
    assert not judge(case_of(good, bad), answer_of()).passed
    assert judge(case_of(good, bad, threshold=0.75), answer_of()).passed
    assert not judge(case_of(good, bad, threshold=0.76), answer_of()).passed
    assert judge(case_of(good, replace(bad, weight=0.0)), answer_of()).passed
    assert not judge(case_of(replace(good, weight=0.0)), answer_of()).passed


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_an_empty_answer_never_passes(text: str) -> None:
    judgement = judge(case_of(Assertion(type="contains", value="x", negated=True)), answer_of(text))
    assert (judgement.passed, judgement.reason) == (False, "empty answer")


def test_an_error_never_passes() -> None:
    answer = replace(answer_of(), error="wrong model: 'x'")
    judgement = judge(case_of(Assertion(type="equals", value="Paris"), threshold=0.1), answer)
    assert (judgement.passed, judgement.reason) == (False, "wrong model: 'x'")


@pytest.mark.parametrize(("pattern", "text"), [("(a+)+$", "a" * 60 + "b"), ("(x+x+)+y", "x" * 60)])
def test_a_catastrophic_pattern_ends(pattern: str, text: str) -> None:
    with pytest.raises(TooSlow, match="longer than"):
        search(pattern, text, seconds=0.5)
    with pytest.raises(TooSlow, match="characters"):
        search("a", "a" * 20_001)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_an_answer_or_an_error(data: bytes) -> None:
    for answer in (parse_reply(data), parse_stream([(0.0, data)])):
        assert answer.error is not None


BODIES = {
    "deep": b'{"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}], "usage": {"a": %s}}'
    % (b"[" * 300 + b"]" * 300),
    "null": b"null",
    "no choices": b'{"choices": []}',
    "odd choice": b'{"choices": [7]}',
    "no finish": b'{"choices": [{"message": {"content": "hi"}}]}',
    "odd tools": b'{"choices": [{"message": {"content": "hi", "tool_calls": [1]}, "finish_reason": "stop"}]}',
    "nan": b'{"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}], "usage": NaN}',
    "surrogate": b'{"choices": [{"message": {"content": "\\ud800"}, "finish_reason": "stop"}]}',
}


@pytest.mark.parametrize("name", BODIES)
def test_a_broken_reply_is_an_error(name: str) -> None:
    assert parse_reply(BODIES[name]).error


def chunk(text: str, finish: str = "null") -> bytes:
    return b'data: {"model":"m","choices":[{"delta":{"content":"%s"},"finish_reason":%s}]}\n\n' % (
        text.encode(),
        finish.encode(),
    )


DONE = b"data: [DONE]\n\n"


@given(st.lists(st.integers(0, 200), max_size=6))
def test_a_stream_reads_the_same_however_it_is_cut(cuts: list[int]) -> None:
    whole = chunk("Pa") + b": a comment\n\n" + chunk("ris", '"stop"') + DONE
    edges = [0, *sorted({min(cut, len(whole)) for cut in cuts}), len(whole)]
    parts = [(float(i), whole[a:b]) for i, (a, b) in enumerate(itertools.pairwise(edges))]
    answer = parse_stream(parts)
    assert (answer.text, answer.finish_reason, answer.model, answer.error) == ("Paris", "stop", "m", None)
    assert answer.ttft_s is not None


@pytest.mark.parametrize(
    "data",
    [
        chunk("a"),
        chunk("a") + DONE,
        chunk("a", '"stop"'),
        chunk("a") + b'data: {"error": {"message": "aborted"}}\n\n' + DONE,
        chunk("a", '"stop"').replace(b'"a"', b"5") + DONE,
        chunk("a", '"stop"').replace(b'"content":"a"', b'"tool_calls": [{"index": "x"}]') + DONE,
        chunk("a") + b"event: error\ndata: {}\n\n" + chunk("b", '"stop"') + DONE,
        b"data: [1]\n\n" + DONE,
        b"data: {\n\n" + DONE,
    ],
)
def test_a_broken_stream_is_an_error(data: bytes) -> None:
    assert parse_stream([(0.0, data)]).error
