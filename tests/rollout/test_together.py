"""Writes of several threads in one transaction: each is stored or its own error is raised, and waits are shared."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from stack.core.errors import StackError, Unavailable
from stack.rollout.together import Together


class Disk:
    """What was committed, transaction by transaction. ``slow`` holds the first commit until it is set."""

    def __init__(self) -> None:
        self.commits: list[list[int]] = []
        self.slow = threading.Event()
        self.busy = threading.Event()
        self.broken = 0

    @contextmanager
    def begin(self) -> Iterator[Any]:
        written: list[int] = []
        yield written
        self.busy.set()
        self.slow.wait(20)
        if self.broken:
            self.broken -= 1
            raise Unavailable("the disk is gone")
        self.commits.append(written)


def adding(number: int) -> Callable[[Any], None]:
    return lambda tx: tx.append(number)


def during_a_slow_commit(disk: Disk, together: Together, numbers: range) -> list[BaseException | None]:
    """0 is being committed while the others come; what became of each of them."""

    def write(number: int) -> None:
        def act(tx: Any) -> None:
            if number == 13:
                raise StackError("13 can't be written")
            tx.append(number)

        together.write(act)

    with ThreadPoolExecutor(max_workers=len(numbers) + 1) as pool:
        first = pool.submit(write, 0)
        assert disk.busy.wait(20)
        others = [pool.submit(write, number) for number in numbers]
        while len(together._waiting) < len(numbers):
            threading.Event().wait(0.01)
        disk.slow.set()
        return [future.exception() for future in [first, *others]]


def test_those_that_wait_share_one_commit() -> None:
    disk = Disk()
    assert during_a_slow_commit(disk, Together(disk.begin), range(1, 9)) == [None] * 9
    assert [sorted(commit) for commit in disk.commits] == [[0], [*range(1, 9)]]


def test_an_act_that_fails_fails_alone() -> None:
    disk = Disk()
    errors = during_a_slow_commit(disk, Together(disk.begin), range(11, 16))
    assert [isinstance(error, StackError) for error in errors] == [False, False, False, True, False, False]
    assert sorted(number for commit in disk.commits for number in commit) == [0, 11, 12, 14, 15]


def test_a_commit_that_fails_is_told_to_all_and_nothing_is_tried_again() -> None:
    disk = Disk()
    together = Together(disk.begin)
    disk.slow.set()
    together.write(adding(7))
    disk.broken = 1
    with pytest.raises(Unavailable):
        together.write(adding(8))
    together.write(adding(9))
    assert disk.commits == [[7], [9]]


def test_a_bug_in_one_act_is_raised_there_and_the_others_are_written() -> None:
    disk = Disk()
    together = Together(disk.begin)
    disk.slow.set()
    with pytest.raises(ZeroDivisionError):
        together.write(lambda tx: 1 / 0)
    together.write(adding(1))
    assert disk.commits == [[1]]
