"""Calls of strangers: each is accounted for, however many come, and the API stays usable meanwhile."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable

import pytest
from fake_operator import FakeOperator
from hypothesis import given
from hypothesis import strategies as st
from served import Served, served

from stack.api.flood import Flood, RefusedCall
from stack.core.clock import ManualClock
from stack.core.errors import Unavailable

CALL = RefusedCall(what="POST /x", why="no token", peer="127.0.0.1")


class Book:
    """Where refused calls are told; ``broken`` fails instead."""

    def __init__(self) -> None:
        self.whys: list[str] = []
        self.broken = False

    def tell(self, what: str, why: str, peer: str) -> None:
        if self.broken:
            raise Unavailable("disk full")
        self.whys.append(why)

    @property
    def total(self) -> int:
        return accounted(self.whys)


def accounted(whys: list[str]) -> int:
    """How many calls these records stand for."""
    return sum(1 + sum(int(n) for n in re.findall(r"\(and (\d+) more such calls since\)", why)) for why in whys)


Step = st.one_of(st.just("call"), st.just("flush"), st.just("break"), st.just("mend"), st.floats(0, 2))


@given(st.lists(Step, max_size=200), st.integers(1, 6))
def test_every_call_is_accounted_for_once(steps: list[str | float], singly: int) -> None:
    clock, book, calls = ManualClock(), Book(), 0
    flood = Flood(tell=book.tell, clock=clock, singly=singly)
    for step in steps:
        if step == "call":
            calls += 1
            told = flood.refused(CALL)
            assert told or flood.held
        elif step == "flush":
            assert flood.flush() is not bool(flood.held)
        elif isinstance(step, float):
            clock.advance(step)
        else:
            book.broken = step == "break"
        assert book.total + flood.held == calls
    book.broken = False
    assert flood.flush()
    assert (book.total, flood.held) == (calls, 0)


def test_in_one_second_only_a_few_are_written_alone() -> None:
    clock, book = ManualClock(), Book()
    flood = Flood(tell=book.tell, clock=clock, singly=5)
    for _ in range(1000):
        flood.refused(CALL)
    assert len(book.whys) == 5
    flood.flush()
    assert len(book.whys) == 6
    assert book.total == 1000
    clock.advance(1)
    assert flood.refused(CALL)


def test_while_one_is_written_the_others_are_counted_and_wait_for_nothing() -> None:
    writing, go = threading.Event(), threading.Event()

    def slow(what: str, why: str, peer: str) -> None:
        writing.set()
        assert go.wait(10)

    flood = Flood(tell=slow, clock=ManualClock(), singly=5)
    thread = threading.Thread(target=flood.refused, args=(CALL,))
    thread.start()
    assert writing.wait(10)
    assert [flood.refused(CALL) for _ in range(9)] == [False] * 9
    assert not flood.flush()
    go.set()
    thread.join(10)
    assert flood.held == 9


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT"])
def test_a_stranger_who_would_change_something_is_recorded(method: str) -> None:
    operator = FakeOperator()
    with served(operator) as api:
        assert api.ask(method, "/api/v1/deploy", {}, Authorization="Bearer st_guess").status == 401
        assert api.ask(method, "/api/v1/deploy", {}, Host="evil.example").status == 421
        assert api.ask("GET", "/api/v1/status", Authorization="").status == 401
    assert [(what, peer) for what, _, peer in operator.access.told] == [(f"{method} /api/v1/deploy", "127.0.0.1")] * 2
    assert "st_guess" not in str(operator.access.told)


def test_a_flood_is_accounted_for_and_does_not_keep_others_out() -> None:
    operator = FakeOperator()

    def strangers(api: Served) -> None:
        for _ in range(50):
            assert api.ask("POST", "/api/v1/deploy", {}, Authorization="").status == 401

    with served(operator, ManualClock()) as api:  # no second goes by
        threads = [threading.Thread(target=strangers, args=(api,)) for _ in range(6)]
        for thread in threads:
            thread.start()
        assert api.ask("GET", "/api/v1/status").status == 200
        for thread in threads:
            thread.join()
        until(lambda: accounted([why for _, why, _ in operator.access.told]) == 300)
        assert len(operator.access.told) < 150


def test_what_can_not_be_recorded_is_refused_all_the_same_and_recorded_later() -> None:
    operator = FakeOperator(failing={"refused": Unavailable("disk full")})
    with served(operator) as api:
        for _ in range(3):
            assert api.ask("POST", "/api/v1/deploy", {}, Authorization="").status == 401
        operator.failing.clear()
        until(lambda: accounted([why for _, why, _ in operator.access.told]) == 3)


def test_when_nobody_can_be_known_nobody_gets_in() -> None:
    operator = FakeOperator()

    def down(token: str) -> None:
        raise Unavailable("database locked")

    operator.access.authenticate = down  # type: ignore[method-assign,assignment]
    with served(operator) as api:
        answer = api.ask("POST", "/api/v1/deploy", {})
    assert answer.status == 503
    assert operator.calls == []
