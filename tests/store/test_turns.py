"""Who asked first writes first."""

from __future__ import annotations

import threading
import time

from stack.store.turns import Turns


def waiting(turns: Turns, count: int) -> None:
    """Until so many wait."""
    end = time.monotonic() + 20
    while len(turns._waiting) < count:
        assert time.monotonic() < end
        time.sleep(0.001)


def test_the_order_is_that_of_asking() -> None:
    turns, order = Turns(), list[int]()
    assert turns.acquire(1)

    def write(number: int) -> None:
        assert turns.acquire(20)
        order.append(number)
        turns.release()

    threads = []
    for number in range(12):
        threads.append(threading.Thread(target=write, args=(number,)))
        threads[-1].start()
        waiting(turns, number + 1)
    turns.release()
    for thread in threads:
        thread.join(20)
    assert order == list(range(12))


def test_one_that_asks_again_and_again_is_behind_those_who_wait() -> None:
    turns, done = Turns(), threading.Event()
    assert turns.acquire(1)
    waiter = threading.Thread(target=lambda: turns.acquire(20) and done.set())
    waiter.start()
    waiting(turns, 1)
    turns.release()
    assert not turns.acquire(0.01)
    waiter.join(20)
    assert done.is_set()


def test_whoever_gave_up_is_not_given_it() -> None:
    turns = Turns()
    assert turns.acquire(1)
    assert not turns.acquire(0.01)
    turns.release()
    assert turns.acquire(0.01)


def test_at_most_one_has_it_whoever_gives_up_meanwhile() -> None:
    turns, inside, most = Turns(), list[int](), list[int]()

    def write() -> None:
        for _ in range(200):
            if turns.acquire(0.0005):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.0002)
                inside.pop()
                turns.release()

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert set(most) == {1}
    assert turns.acquire(1), "nobody keeps it"
