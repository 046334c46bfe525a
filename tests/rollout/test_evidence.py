"""Reading the gateway's books: what counts, what does not, and that losses are seen."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from stack.rollout.evidence import extended, opened
from stack.rollout.verdict import Observed


def books(items: list[list[Any]], *, boot: str = "b1", lost: int = 0, target: str = "r1") -> dict[str, Any]:
    cursor = max((i[0] for i in items), default=0)
    target_books = {"slice": "candidate", "items": items, "lost": lost}
    return {"boot_id": boot, "cursor": cursor, "targets": {target: target_books}}


def attempt(
    seq: int, status: int = 200, latency: Any = 0.2, ttft: Any = 0.1, slice_name: str = "candidate"
) -> list[Any]:
    return [seq, status, latency, ttft, 7, slice_name, False, "ok"]


def test_good_and_bad_answers_are_counted_and_client_faults_are_not() -> None:
    window = opened(books([]))
    seen = extended(
        window,
        books([attempt(1), attempt(2, 599), attempt(3, 500), attempt(4, 400), attempt(5, 499)]),
        ["r1"],
        8.0,
    )
    assert seen is not None
    assert seen.of("candidate") == Observed(requests=3, errors=2, latencies=(0.2,), ttfts=(0.1,))
    assert (seen.cursor, seen.of("stable")) == (5, Observed())


def test_other_services_replicas_do_not_count() -> None:
    seen = extended(opened(books([])), books([attempt(1)], target="other"), ["r1"], 8.0)
    assert seen is not None and seen.slices == {}


def test_a_restarted_gateway_is_told_apart() -> None:
    assert extended(opened(books([], boot="b1")), books([attempt(1)], boot="b2"), ["r1"], 8.0) is None


def test_what_fell_out_of_the_ring_is_lost_evidence() -> None:
    seen = extended(opened(books([])), books([attempt(9)], lost=4), ["r1"], 8.0)
    assert seen is not None and seen.of("candidate").lost == 4


@given(st.one_of(st.none(), st.booleans(), st.text(), st.floats()))
def test_a_time_that_is_no_time_is_lost_not_fast(value: Any) -> None:
    seen = extended(opened(books([])), books([attempt(1, latency=value)]), ["r1"], 8.0)
    assert seen is not None
    measured = seen.of("candidate")
    assert measured.requests == 1 and measured.errors == 0
    assert (measured.lost, len(measured.latencies)) in ((1, 0), (0, 1))
    assert all(0 <= t < float("inf") for t in measured.latencies)


def test_a_client_that_left_after_waiting_too_long_was_failed() -> None:
    late, soon = attempt(1, 499, 9.0), attempt(2, 499, 0.5)
    seen = extended(opened(books([])), books([late, soon]), ["r1"], 8.0)
    assert seen is not None
    assert (seen.of("candidate").requests, seen.of("candidate").errors) == (1, 1)
