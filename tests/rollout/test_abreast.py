"""Hosts side by side: everything is done, a failure is raised and begins nothing more."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stack.core.names import HostName, ReplicaId
from stack.rollout.abreast import FORKS, per_host, side_by_side
from stack.rollout.state import Placement


def placed(host: int, number: int = 0) -> Placement:
    return Placement(replica=ReplicaId(f"r-h{host}-{number}"), host=HostName(f"h{host}"), port=20000 + number)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), unique=True))
def test_every_placement_is_in_exactly_one_share_and_a_share_is_one_host(pairs: list[tuple[int, int]]) -> None:
    places = [placed(host, number) for host, number in pairs]
    shares = per_host(places)
    assert sorted(p.replica for share in shares for p in share) == sorted(p.replica for p in places)
    assert all(len({p.host for p in share}) == 1 for share in shares)
    assert len({share[0].host for share in shares}) == len(shares)


def test_hosts_are_worked_on_at_the_same_time() -> None:
    together = threading.Barrier(3, timeout=10)  # breaks when one waits for another
    side_by_side(lambda share: void(together.wait()), per_host([placed(n) for n in range(3)]))


def void(_: object) -> None:
    return


def test_one_share_is_done_where_it_was_asked_for() -> None:
    seen: list[threading.Thread] = []
    side_by_side(lambda share: seen.append(threading.current_thread()), [(placed(1),)])
    assert seen == [threading.current_thread()]


def test_a_failure_is_raised_after_what_was_under_way_and_nothing_more_is_begun() -> None:
    done: list[str] = []
    failed = threading.Event()

    def work(share: tuple[Placement, ...]) -> None:
        if share[0].host == "h0":
            failed.set()
            raise ValueError("h0")
        failed.wait(10)
        threading.Event().wait(0.2)  # time for the failure to be seen
        done.append(share[0].host)

    with pytest.raises(ValueError, match="h0"):
        side_by_side(work, per_host([placed(n) for n in range(FORKS * 6)]))
    assert len(done) < FORKS * 6 - 1
