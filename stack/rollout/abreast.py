"""Work on several hosts side by side. Decides nothing about what is done there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed

from stack.core.errors import StackError
from stack.rollout.state import Placement

Failure = tuple[tuple[Placement, ...], StackError]

FORKS = 8
"""Hosts at once. Each is an ansible-playbook here: about half a second of one core and 60 MB."""

ASKED = 32
"""Hosts at once where nothing runs here for each but a thread that waits for its answers."""


def per_host(places: Iterable[Placement]) -> tuple[tuple[Placement, ...], ...]:
    """The placements host by host, in the order given."""
    hosts: dict[str, tuple[Placement, ...]] = {}
    for place in places:
        hosts[place.host] = (*hosts.get(place.host, ()), place)
    return tuple(hosts.values())


def side_by_side(
    work: Callable[[tuple[Placement, ...]], None],
    shares: Sequence[tuple[Placement, ...]],
    *,
    allowed: int = 0,
    kind: type[StackError] = StackError,
    width: int = FORKS,
) -> tuple[Failure, ...]:
    """Do every share, ``width`` at once; those that failed, with why. Up to ``allowed`` of ``kind`` are put up with.

    After one more, or of another kind, no other share is begun, those under way are waited for, and it is raised. One
    share alone is done in the calling thread.
    """
    if len(shares) < 2:
        for share in shares:
            work(share)
        return ()
    failures: list[Failure] = []
    with ThreadPoolExecutor(max_workers=min(width, len(shares)), thread_name_prefix="host") as pool:
        begun = {pool.submit(work, share): share for share in shares}
        for future in as_completed(begun):
            error = future.exception()
            if isinstance(error, kind) and len(failures) < allowed:
                failures.append((begun[future], error))
            elif error is not None:
                pool.shutdown(wait=True, cancel_futures=True)
                raise error
    return tuple(failures)
