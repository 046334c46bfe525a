"""Running suites against a real HTTP server with faults: every prompt leaves a sample, whatever the server does."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from standin import HTML, StandIn

from stack.core.clock import SystemClock
from stack.evals import Endpoint, EvalRun, Suite, run_suite
from stack.evals.run import BadRunSettings, chosen_cases

SuiteOf = Callable[[str], Suite]
CLOCK = SystemClock()


def suite_text(n: int = 6, check: str = "{type: equals, value: 'a{{q}}'}") -> str:
    tests = "".join(
        f"- description: d{i}\n  metadata: {{task: k{i % 2}}}\n  vars: {{q: '{i}'}}\n  assert: [{check}]\n"
        for i in range(n)
    )
    return f'prompts: ["{{{{q}}}}"]\ntests:\n{tests}'


def endpoint(engine: StandIn, **more: object) -> Endpoint:
    return Endpoint(base_url=engine.base + "/v1", model="asked", timeout_s=0.4, **more)  # type: ignore[arg-type]


@pytest.fixture
def suite(suite_of: SuiteOf, engine: StandIn) -> Suite:
    engine.answers = {str(i): f"a{i}" for i in range(6)}
    return suite_of(suite_text())


def test_a_run_keeps_every_sample(engine: StandIn, suite: Suite) -> None:
    engine.headers = {"x-stack-release": "sha256:r", "x-stack-slice": "stable", "x-stack-replica": "r1"}
    told: list[tuple[int, int, int]] = []
    run = run_suite(
        suite, endpoint(engine), concurrency=3, clock=CLOCK, repeat=2, progress=lambda *numbers: told.append(numbers)
    )
    assert [(s.test_id, s.repeat) for s in run.samples] == [(f"d{i}", r) for r in (0, 1) for i in range(6)]
    assert (run.passed, run.planned, run.complete, run.pass_rate) == (12, 12, True, 1.0)
    first = run.samples[0]
    assert (first.output, first.finish_reason, first.status, first.model) == ("a0", "stop", 200, "stand-in")
    assert (first.release, first.slice, first.replica) == ("sha256:r", "stable", "r1")
    assert run.releases == {"sha256:r"}
    assert [s.seed for s in run.samples] == [42] * 6 + [43] * 6
    assert all(request["temperature"] == 0 and not request["stream"] for request in engine.requests)
    assert told[-1] == (12, 12, 0)
    assert EvalRun.from_json(json.loads(json.dumps(run.to_json()))) == run


def test_streamed_samples_carry_a_first_token_time(engine: StandIn, suite: Suite) -> None:
    run = run_suite(suite, endpoint(engine), clock=CLOCK, stream=True)
    assert run.passed == 6
    assert all(s.ttft_s is not None and s.latency_s is not None and s.ttft_s <= s.latency_s for s in run.samples)
    assert all(s.usage == {"prompt_tokens": 1, "completion_tokens": 5} for s in run.samples)


FAULTS = {
    "status": ({"status": 500}, "HTTP 500"),
    "html": ({"body": HTML}, "not JSON"),
    "nonsense": ({"body": b'{"choices": 7}'}, "not a chat completion"),
    "empty": ({"answers": {}, "answer": ""}, "empty answer"),
    "hang": ({"hang": True}, "timeout"),
    "drip": ({"drip": True}, "timeout"),
    "wrong model": ({"answered_as": "other"}, "wrong model: 'other' answered, 'stand-in' was expected"),
    "no finish": ({"finish": None}, "no finish_reason"),
    "wrong text": ({"answers": {}}, "equals: "),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_a_failed_sample_with_its_reason(engine: StandIn, suite: Suite, name: str) -> None:
    faults, reason = FAULTS[name]
    for field, value in faults.items():
        setattr(engine, field, value)
    run = run_suite(suite, endpoint(engine, expected_model="stand-in"), concurrency=6, clock=CLOCK)
    assert len(run.samples) == 6
    assert run.passed == 0
    assert all(reason in sample.reason for sample in run.samples)


@pytest.mark.parametrize("end", ["cut", "error", "unfinished"])
def test_a_broken_stream_is_a_failed_sample(engine: StandIn, suite: Suite, end: str) -> None:
    engine.stream_end = end
    run = run_suite(suite, endpoint(engine), clock=CLOCK, stream=True)
    assert (run.passed, len(run.samples)) == (0, 6)
    assert all(sample.error for sample in run.samples)


def test_nobody_there(suite: Suite) -> None:
    run = run_suite(suite, Endpoint(base_url="http://127.0.0.1:1/v1", model="m"), clock=CLOCK)
    assert len(run.samples) == 6
    assert all((sample.error or "").startswith("transport: ConnectError") for sample in run.samples)


def test_a_kept_connection_that_was_closed_is_no_failure(engine: StandIn, suite: Suite) -> None:
    engine.drops = "reused"
    run = run_suite(suite, endpoint(engine), concurrency=1, clock=CLOCK)
    assert run.passed == 6
    assert len(engine.requests) > 6


def test_a_fresh_connection_that_is_dropped_is_a_failure(engine: StandIn, suite: Suite) -> None:
    engine.drops = "all"
    run = run_suite(suite, endpoint(engine), concurrency=2, clock=CLOCK)
    assert (run.passed, len(run.samples), len(engine.requests)) == (0, 6, 6)
    assert all((sample.error or "").startswith("transport:") for sample in run.samples)


def test_some_failures_are_counted_and_told(engine: StandIn, suite: Suite) -> None:
    engine.fail_every = 3
    told: list[tuple[int, int, int]] = []
    run = run_suite(suite, endpoint(engine), concurrency=1, clock=CLOCK, progress=lambda *n: told.append(n))
    assert [s.status for s in run.samples] == [200, 200, 503, 200, 200, 503]
    assert [failed for _, _, failed in told] == [0, 0, 1, 1, 1, 2]


def test_stop_ends_early_and_the_run_says_so(engine: StandIn, suite: Suite) -> None:
    asked = iter([False, False, True, True, True])
    run = run_suite(suite, endpoint(engine), concurrency=1, clock=CLOCK, stop=lambda: next(asked))
    assert (len(run.samples), run.planned, run.stopped, run.complete) == (2, 6, True, False)


def test_stream_parity_asks_twice(engine: StandIn, suite_of: SuiteOf) -> None:
    suite = suite_of(suite_text(1, "{type: stream-parity}"))
    run = run_suite(suite, endpoint(engine), clock=CLOCK)
    assert (run.passed, [request["stream"] for request in engine.requests]) == (1, [False, True])
    engine.streamed_answer = "something else"
    run = run_suite(suite, endpoint(engine), clock=CLOCK)
    assert run.passed == 0
    assert "stream-parity: streamed 'something else'" in run.samples[0].reason
    assert run.samples[0].streamed_output == "something else"


def test_tool_calls_need_no_text(engine: StandIn, suite_of: SuiteOf) -> None:
    engine.tool_calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    run = run_suite(suite_of(suite_text(1, "{type: is-valid-openai-tools-call}")), endpoint(engine), clock=CLOCK)
    assert run.passed == 1
    assert run.samples[0].tool_calls[0]["function"]["name"] == "f"


def test_a_subset_sees_every_task(suite: Suite, engine: StandIn) -> None:
    assert [case.id for case in chosen_cases(suite, 3)] == ["d0", "d1", "d2"]
    run = run_suite(suite, endpoint(engine), clock=CLOCK, limit=2)
    assert ({s.task for s in run.samples}, run.planned) == ({"k0", "k1"}, 2)


def test_headers_are_sent_and_never_kept(engine: StandIn, suite: Suite) -> None:
    target = endpoint(engine, headers={"authorization": "Bearer sesame"})
    run = run_suite(suite, target, clock=CLOCK, limit=1)
    assert engine.seen_headers[0]["authorization"] == "Bearer sesame"
    assert "sesame" not in json.dumps(run.to_json())
    assert "sesame" not in repr(target)


@pytest.mark.parametrize("change", [{"concurrency": 0}, {"repeat": 0}, {"limit": 0}])
def test_senseless_settings(engine: StandIn, suite: Suite, change: dict[str, int]) -> None:
    with pytest.raises(BadRunSettings):
        run_suite(suite, endpoint(engine), clock=CLOCK, **change)  # type: ignore[arg-type]
