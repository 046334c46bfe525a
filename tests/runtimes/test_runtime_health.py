"""Health, readiness and warm-up against a real HTTP server with faults: every fault is unhealthy, with its reason."""

from __future__ import annotations

import itertools
import json
import re
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
from standin import HTML, StandIn

from stack.core.clock import ManualClock, SystemClock
from stack.core.release import Release
from stack.runtimes.driver import Driver, driver_for
from stack.runtimes.health import Health, check_health
from stack.runtimes.heartbeat import counter, heartbeat
from stack.runtimes.warm import NeverReady, WarmUpFailed, default_lengths, prompt_of, wait_ready, warm_up
from stack.runtimes.wire import exchange


def driver(release: Release) -> Driver:
    return driver_for(release.runtime.engine)


def checked(engine: StandIn, release: Release, progress: Callable[[], int] | None = None) -> Health:
    return check_health(engine.base, driver(release), release, timeout_s=0.4, clock=SystemClock(), progress=progress)


def test_a_sound_replica_is_healthy(engine: StandIn, release: Release) -> None:
    health = checked(engine, release)
    assert health.ok
    assert health.reasons == ()
    assert json.loads(json.dumps(health.to_json()))["ok"] is True


def test_each_distribution_is_asked_where_it_answers(engine: StandIn, release: Release) -> None:
    checked(engine, release)
    knows_itself = release.runtime.distribution != "llama-cpp-python"
    assert ("/health" in engine.paths) == knows_itself
    # Asked without a name, only an engine that knows its own can answer with the right one.
    assert ("model" not in engine.requests[0]) == knows_itself


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "status": ({"status": 500}, "completion: HTTP 500"),
    "html with 200": ({"body": HTML}, "completion: 200, but not a chat completion"),
    "gibberish json": ({"body": b'{"x": [1,2]}'}, "completion: 200, but not a chat completion"),
    "json list": ({"body": b"[]"}, "completion: 200, but not a chat completion"),
    "deep json": ({"body": b"[" * 100_000}, "completion: 200, but not a chat completion"),
    "empty": ({"answer": ""}, "completion: 200 with an empty answer"),
    "blank": ({"answer": " \n "}, "completion: 200 with an empty answer"),
    "binary": ({"answer": "\x00\x01\ufffd\ufffda"}, "completion: 200 with an answer that is not text"),
    "unfinished": ({"finish": None}, "completion: 200, but the answer did not finish"),
    "wrong model": ({"answered_as": "tiny-other"}, "completion: 'tiny-other' answered"),
    "hang": ({"hang": True}, "completion: no complete answer within 0.4 s"),
    "drip": ({"drip": True}, "completion: no complete answer within 0.4 s"),
    "other listed": ({"listed": ["tiny-other"]}, "model list: it serves tiny-other, not tiny-"),
    "none listed": ({"listed": []}, "model list: it serves nothing"),
    "list is html": ({"list_body": HTML}, "HTTP|model list: the model list is not one|web page"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_unhealthy_with_its_reason(engine: StandIn, release: Release, name: str) -> None:
    faults, reason = FAULTS[name]
    for field, value in faults.items():
        setattr(engine, field, value)
    health = checked(engine, release)
    assert not health.ok
    assert re.search(reason, health.reason)


@pytest.mark.parametrize(("field", "value"), [("health_status", 503), ("health_html", True)])
def test_a_liveness_path_that_does_not_say_yes(field: str, value: object, engine: StandIn, release: Release) -> None:
    setattr(engine, field, value)
    health = checked(engine, release)
    assert health.live == (release.runtime.distribution == "llama-cpp-python")  # which has no such path
    assert health.ok == health.live


def test_nobody_there(release: Release) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        health = check_health(f"http://127.0.0.1:{unused.getsockname()[1]}", driver(release), release, timeout_s=0.4)
    assert (health.live, health.listed, health.answered) == (False, False, False)
    assert "liveness: ConnectionRefusedError" in health.reason


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n",
        b"HTTP/1.1 2",
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
    ],
)
def test_an_answer_that_breaks_off_or_is_none_is_an_error(answer: bytes) -> None:
    def serve() -> None:
        with listening.accept()[0] as peer:
            peer.recv(4096)
            peer.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        reply = exchange("GET", f"http://127.0.0.1:{listening.getsockname()[1]}/", clock=SystemClock(), timeout_s=5)
        thread.join(10)
    assert reply.status is None and reply.error and not reply.timed_out and reply.chunks == ()


@pytest.mark.parametrize("url", ["https://127.0.0.1:1/", "ftp://127.0.0.1/", "http://127.0.0.1:99999/", "http:///x"])
def test_what_is_no_replicas_address_is_an_error(url: str) -> None:
    assert exchange("GET", url, clock=SystemClock(), timeout_s=5).error


def test_late_but_emitting_tokens_is_healthy(engine: StandIn, release: Release) -> None:
    engine.hang = True
    health = checked(engine, release, itertools.count(5, 7).__next__)
    assert health.ok
    assert "emitting tokens" in health.notes[0]


def test_the_engines_own_steps_are_a_heartbeat(engine: StandIn, release: Release) -> None:
    engine.hang = True
    steps = heartbeat(engine.base, driver(release), release, clock=SystemClock())
    assert not checked(engine, release, steps).ok
    engine.steps_each_read = 3
    assert checked(engine, release, steps).ok == (release.runtime.distribution != "llama-cpp-python")
    gone = heartbeat("http://127.0.0.1:1", driver(release), release, clock=SystemClock())
    assert gone() == 0


@pytest.mark.parametrize(
    ("text", "value"),
    [("a 5\nx:n 7\n", 7), ("x:n 7.0", 7), ("x:n NaN", 0), ("xx:n 7", 0), ("x:n -1", 0), ("", 0), ("x:n 1e9", 0)],
)
def test_a_counter_is_a_number_or_nothing(text: str, value: int) -> None:
    assert counter(text, "x:n") == value


def test_late_without_progress_is_not(engine: StandIn, release: Release) -> None:
    engine.hang = True
    assert not checked(engine, release, lambda: 5).answered


def test_progress_excuses_nothing_but_lateness(engine: StandIn, release: Release) -> None:
    engine.answered_as = "tiny-other"
    assert not checked(engine, release, itertools.count().__next__).ok


def test_wait_ready_waits_for_all_three(engine: StandIn, release: Release) -> None:
    engine.loading = 3
    clock = ManualClock()
    assert wait_ready(engine.base, driver(release), release, deadline_s=60, clock=clock).ok
    waited = clock.monotonic()
    assert (waited > 0) == (release.runtime.distribution != "llama-cpp-python")


def test_wait_ready_gives_up_with_the_last_reason(engine: StandIn, release: Release) -> None:
    engine.answer = ""
    clock = ManualClock()
    with pytest.raises(NeverReady, match="within 20 s: completion: 200 with an empty answer") as caught:
        wait_ready(engine.base, driver(release), release, deadline_s=20, clock=clock)
    assert caught.value.exit_code == 3
    assert clock.monotonic() >= 20


def test_wait_ready_without_any_time_is_never_ready(engine: StandIn, release: Release) -> None:
    with pytest.raises(NeverReady, match="never asked"):
        wait_ready(engine.base, driver(release), release, deadline_s=0, clock=ManualClock())


def test_wait_ready_sees_the_process_end(engine: StandIn, release: Release) -> None:
    engine.status = 500
    lives = iter([True, False])
    with pytest.raises(NeverReady, match="its process has ended; last: completion: HTTP 500"):
        wait_ready(
            engine.base, driver(release), release, deadline_s=60, clock=ManualClock(), still_alive=lambda: next(lives)
        )


def test_warm_up_measures_every_length(engine: StandIn, release: Release) -> None:
    evidence = warm_up(engine.base, driver(release), release, clock=SystemClock(), timeout_s=20)
    assert [step.target_tokens for step in evidence.steps] == [8, 64, 128]
    assert all(0 < step.cold_ttft_s <= step.cold_total_s for step in evidence.steps)
    assert all(request["stream"] for request in engine.requests)
    sent = [request["messages"][0]["content"] for request in engine.requests]
    assert len(set(sent)) == len(sent) == 6
    body = json.loads(json.dumps(evidence.to_json()))
    assert len(body["steps"]) == 3
    assert "8/64/128 prompt tokens" in evidence.summary


WARM_FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "too long": ({"longest_prompt": 100}, "at about 128 prompt tokens: HTTP 400"),
    "empty": ({"answer": ""}, "at about 8 prompt tokens: 200 with an empty answer"),
    "cut": ({"stream_end": "cut"}, "ended without"),
    "error then done": ({"stream_end": "error"}, "the stream broke"),
    "no finish": ({"stream_end": "unfinished"}, "did not finish"),
    "wrong model": ({"answered_as": "x"}, "'x' answered"),
    "hang": ({"hang": True}, "no complete answer"),
    "not a stream": ({"body": b'{"choices":[]}'}, "answered, not|ended without"),
}


@pytest.mark.parametrize("name", WARM_FAULTS)
def test_a_fault_at_any_length_refuses_the_replica(engine: StandIn, release: Release, name: str) -> None:
    faults, reason = WARM_FAULTS[name]
    for field, value in faults.items():
        setattr(engine, field, value)
    with pytest.raises(WarmUpFailed, match=reason) as caught:
        warm_up(engine.base, driver(release), release, clock=SystemClock(), timeout_s=0.6)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("context", [1, 7, 16, 128, 129, 4096])
def test_prompts_fit_the_context(context: int) -> None:
    lengths = default_lengths(context)
    assert lengths == tuple(sorted(set(lengths)))
    assert all(1 <= tokens <= max(1, context // 2) for tokens in lengths)
    for tokens in (5, *lengths):
        assert prompt_of(tokens, 0)
        assert len(prompt_of(tokens, 1)) <= max(tokens, 5)
