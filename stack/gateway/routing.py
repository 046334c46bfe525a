"""Which replica answers, and which ones after it: pure decisions over a service of the routing table.

The caller brings the random number, the load and what looks down; nothing here waits, asks or remembers.

1. The slice: the pinned one, or by weight among the slices that have replicas.
2. Within the slice: least in flight first; ties are broken by the same random number. Of a slice with more than WIDE
   replicas, WIDE are looked at, from a place that the random number gives on, those that look down only if there are
   not as many others: the best of 32 is as good as the best of a thousand, and a thousand would cost more than the
   rest of the request.
3. After it, unless pinned: the other slices with a weight above 0, heaviest first; then ``lkg``, the last resort.
4. Replicas that look down come last, in the same order: if all look down they are tried all the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import islice

from stack.gateway.table import SLICES, Service, Slice, Target

WIDE = 32


@dataclass(frozen=True, kw_only=True)
class Route:
    """A service made ready for picking: cumulative weights, and per slice the replicas in retry order."""

    service: Service
    cumulative: tuple[tuple[int, Slice], ...]
    groups: Mapping[Slice, tuple[tuple[Target, ...], ...]]
    pinned: Mapping[Slice, tuple[Target, ...]]
    simple: Mapping[Slice, tuple[Target, ...] | None]


def compile_route(service: Service) -> Route:
    """What ``pick`` needs, computed once per table."""
    members = {s: tuple(t for t in service.targets if t.slice == s) for s in SLICES}
    live = [s for s in SLICES if service.weights.get(s, 0) > 0 and members[s]]
    heaviest = sorted(live, key=lambda s: -service.weights[s])
    last: list[Slice] = ["lkg"] if members["lkg"] and "lkg" not in live else []
    order: dict[Slice, tuple[Slice, ...]] = {s: (s, *(o for o in (*heaviest, *last) if o != s)) for s in live or last}
    groups = {s: tuple(members[o] for o in names) for s, names in order.items()}
    return Route(
        service=service,
        cumulative=_cumulate(service, live) if live else tuple((1, s) for s in order),
        groups=groups,
        pinned={s: m for s, m in members.items() if m},
        simple={s: sum(g, ()) if all(len(m) == 1 for m in g) else None for s, g in groups.items()},
    )


def _cumulate(service: Service, live: list[Slice]) -> tuple[tuple[int, Slice], ...]:
    total, rows = 0, []
    for name in live:
        total += service.weights[name]
        rows.append((total, name))
    return tuple(rows)


def pick(
    route: Route, *, pin: Slice | None, roll: float, load: Mapping[str, int], down: Collection[str]
) -> tuple[Target, ...]:
    """The replicas to try, in order; empty when the service (or the pinned slice) has none. ``0 <= roll < 1``."""
    if pin is not None:
        return _arrange((route.pinned.get(pin, ()),), roll, load, down)
    chosen = slice_for(route, roll)
    if chosen is None:
        return ()
    ready = route.simple[chosen]
    return ready if ready is not None and not down else _arrange(route.groups[chosen], roll, load, down)


def slice_for(route: Route, roll: float) -> Slice | None:
    """The slice that this roll of the dice falls in."""
    steps = route.cumulative
    if len(steps) <= 1:
        return steps[0][1] if steps else None
    point = roll * steps[-1][0]
    for upper, name in steps:
        if point < upper:
            return name
    return steps[-1][1]


def _arrange(
    groups: tuple[tuple[Target, ...], ...], roll: float, load: Mapping[str, int], down: Collection[str]
) -> tuple[Target, ...]:
    ordered: list[Target] = []
    for group in groups:
        start = int(roll * 7919 * len(group)) % len(group) if group else 0
        turned = group[start:] + group[:start]
        if len(group) > WIDE:
            turned = _some(turned, down)
        ordered += sorted(turned, key=lambda t: load.get(t.id, 0))
    return tuple(sorted(ordered, key=lambda t: t.id in down)) if down else tuple(ordered)


def _some(turned: tuple[Target, ...], down: Collection[str]) -> tuple[Target, ...]:
    """The first WIDE, preferably of those that do not look down."""
    if not down:
        return turned[:WIDE]
    up = tuple(islice((t for t in turned if t.id not in down), WIDE))
    return up + tuple(islice((t for t in turned if t.id in down), WIDE - len(up))) if len(up) < WIDE else up
