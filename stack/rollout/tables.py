"""From what is stored to what the gateway routes by: pure. Replicas change role here, and only here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from stack.core.digest import Digest
from stack.core.names import ReplicaId, ServiceName
from stack.core.release import Release
from stack.rollout.state import Phase, RolloutState
from stack.store.rows import ReplicaRow, ServiceRow

ROUTABLE = ("stable", "candidate", "lkg")
_WARM = (Phase.SMOKING, Phase.SWITCHING)
_WITHOUT_LOST = {Phase.PLACING: (Phase.WARMING,), Phase.WARMING: _WARM}
"""From which phase to which a rollout goes on without hosts that failed."""


def routing_table(
    version: int,
    services: Sequence[ServiceRow],
    releases: Mapping[Digest, Release],
    replicas: Iterable[ReplicaRow],
    keys: Sequence[Mapping[str, Any]],
    limits: Mapping[str, Any],
    addresses: Mapping[str, str],
    waits: Mapping[ServiceName, float],
) -> dict[str, Any]:
    """The table's JSON. ``addresses`` maps a host's name to where its replicas listen; ``waits`` says of services that
    have no replica at the moment how many seconds a request waits for one.

    A service without weights serves nothing and is left out. A replica is a target only while its role has a release
    of that role: what is not accounted for gets no traffic. A candidate is one only while it has a share: a table that
    is pushed before that, or never again, must not name it.
    """
    rows = sorted(replicas, key=lambda r: r.id)
    return {
        "version": version,
        "services": [
            {**_service(s, releases, [r for r in rows if r.service == s.name], addresses), **_waiting(s, waits)}
            for s in services
            if s.weights
        ],
        "keys": [dict(k) for k in keys],
        "limits": dict(limits),
    }


def _waiting(service: ServiceRow, waits: Mapping[ServiceName, float]) -> dict[str, Any]:
    return {"hold_s": waits[service.name]} if service.name in waits else {}


def _service(
    service: ServiceRow, releases: Mapping[Digest, Release], rows: Sequence[ReplicaRow], addresses: Mapping[str, str]
) -> dict[str, Any]:
    roles = {"stable": service.stable, "candidate": service.candidate, "lkg": service.lkg}
    targets = [
        _target(row, releases[row.release], addresses)
        for row in rows
        if row.slice in ROUTABLE and row.state == "ready" and row.release == roles[row.slice]
        if row.slice != "candidate" or service.weights.get("candidate")
    ]
    return {"name": service.name, "aliases": [], "weights": dict(service.weights), "targets": targets}


def _target(row: ReplicaRow, release: Release, addresses: Mapping[str, str]) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "slice": row.slice,
        "release": str(row.release),
        "model": release.model,
        "host": addresses[row.host],
        "port": row.port,
        "served_model": release.served_model,
    }


def recast(before: Phase, state: RolloutState, rows: Sequence[ReplicaRow]) -> tuple[ReplicaRow, ...]:
    """The service's replica rows that the transition ``before -> state.phase`` changes.

    Placed: those that were left out are draining. Warm: own replicas become ready. Promotion: candidate -> stable,
    stable -> lkg, lkg -> retired. Rollback by hand: own lkg -> stable, all others -> retired. After cleaning and
    retiring: stopped, and what is not known to have ended, as its host does not answer, is draining: not routed to, and
    in the list of the next rollout that retires replicas.

    One after the other: what makes room is draining (not routed to, not revived, its port its own) until it is wanted
    again, which only stable is, or the other release has taken its place: stopped, whatever its role.
    """
    if state.phase is before:
        return ()
    own = {p.replica for p in state.placements}
    retired = {p.replica for p in state.retire}
    changed = list(rows)
    if state.phase in _WITHOUT_LOST.get(before, ()):
        changed = [_left_out(r, state) for r in changed]
    if before is Phase.WARMING and state.phase in _WARM:
        changed = [replace(r, state="ready") if r.id in own else r for r in changed]
    if state.phase is Phase.PROMOTING:
        changed = [_role(r, own, {"stable": "lkg", "lkg": "retired", "candidate": "retired"}) for r in changed]
    if state.phase is Phase.SWITCHING:
        changed = [_role(r, own, {"lkg": "retired", "stable": "retired"}) for r in changed]
    changed = [_swapped(before, state, r) for r in changed]
    if before is Phase.CLEANING and state.phase.final:
        changed = [_ended(r, own, r.slice == "candidate" and r.release == state.release) for r in changed]
    if before is Phase.RETIRING and state.phase.final:
        changed = [_ended(r, retired, r.slice == "retired") for r in changed]
    return tuple(new for old, new in zip(rows, changed, strict=True) if new != old)


def _swapped(before: Phase, state: RolloutState, row: ReplicaRow) -> ReplicaRow:
    if state.swap is None or row.id not in {p.replica for p in state.swap.ends}:
        return row
    if state.phase is Phase.QUEUEING:
        return replace(row, state="draining")
    if before is Phase.RESTORING and state.phase is Phase.REVERTING:
        return replace(row, state="ready" if row.slice == "stable" else "stopped")
    if state.phase in (Phase.PROMOTING, Phase.SWITCHING):
        return replace(row, state="stopped")
    return row


def _ended(row: ReplicaRow, ended: set[ReplicaId], meant: bool) -> ReplicaRow:
    """Stopped if it ended, draining if it was ``meant`` to."""
    if row.id in ended:
        return replace(row, state="stopped", slice="retired")
    return replace(row, state="draining", slice="retired") if meant and row.live else row


def _left_out(row: ReplicaRow, state: RolloutState) -> ReplicaRow:
    """A replica that this rollout meant to start and could not: nobody waits for it or routes to it.

    It may run all the same, once its host answers again: a later rollout ends it.
    """
    own = {p.replica for p in state.placements}
    mine = row.release == state.release and row.state == "starting" and row.id not in own
    return replace(row, state="draining", slice="retired") if mine else row


def _role(row: ReplicaRow, own: set[ReplicaId], moves: Mapping[str, str]) -> ReplicaRow:
    return replace(row, slice="stable" if row.id in own else moves.get(row.slice, row.slice))


def placed(state: RolloutState, rows: Iterable[ReplicaRow], now: datetime) -> tuple[ReplicaRow, ...]:
    """Rows for the replicas that PLACING will start, and that are not written down yet."""
    known = {r.id for r in rows}
    role = "candidate" if state.kind == "deploy" else "lkg"
    return tuple(
        ReplicaRow(
            id=p.replica,
            service=state.service,
            release=state.release,
            host=p.host,
            port=p.port,
            state="starting",
            slice=role,
            observed_digest=None,
            updated_at=now,
        )
        for p in state.placements
        if p.replica not in known
    )
