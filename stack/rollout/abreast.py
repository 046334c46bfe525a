"""Work on several hosts side by side. Decides nothing about what is done there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

from stack.rollout.state import Placement

FORKS = 8
"""Hosts at once. Each is an ansible-playbook here: about half a second of one core and 60 MB."""


def per_host(places: Iterable[Placement]) -> tuple[tuple[Placement, ...], ...]:
    """The placements host by host, in the order given."""
    hosts: dict[str, tuple[Placement, ...]] = {}
    for place in places:
        hosts[place.host] = (*hosts.get(place.host, ()), place)
    return tuple(hosts.values())


def side_by_side(work: Callable[[tuple[Placement, ...]], None], shares: Sequence[tuple[Placement, ...]]) -> None:
    """Do every share. After a failure no other is begun, those under way are waited for, and the first one is raised.

    One share alone is done in the calling thread.
    """
    if len(shares) < 2:
        for share in shares:
            work(share)
        return
    with ThreadPoolExecutor(max_workers=min(FORKS, len(shares)), thread_name_prefix="host") as pool:
        begun = [pool.submit(work, share) for share in shares]
        wait(begun, return_when=FIRST_EXCEPTION)
        pending = [future for future in begun if not future.cancel()]
    for future in pending:
        future.result()
