"""What is true now: stored roles beside what the gateway and the hosts were seen to do. Pure builders over rows.

The JSON of ``status`` is a stable interface: fields are added, never renamed or removed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from stack.core.clock import stamp
from stack.core.digest import Digest
from stack.core.release import Release
from stack.rollout.state import RolloutState
from stack.store.rows import ReplicaRow, RolloutRow, ServiceRow


def release_json(digest: Digest | None, releases: Mapping[Digest, Release]) -> dict[str, Any] | None:
    """``{release, model, runtime}`` or None."""
    if digest is None:
        return None
    release = releases[digest]
    return {"release": str(digest), "model": release.model, "runtime": release.runtime.ref}


def service_json(
    row: ServiceRow,
    releases: Mapping[Digest, Release],
    replicas: Sequence[ReplicaRow],
    routed: Mapping[str, Any] | None,
    states: Mapping[str, str],
    memory: Mapping[str, Mapping[str, int]] = MappingProxyType({}),
) -> dict[str, Any]:
    """One service. ``routed``: the gateway's own table; its weights are what is true, null when it does not answer.

    ``states``: what a health check just said of each replica; a replica that nobody could ask is ``unknown``.
    ``memory``: what was predicted for a replica, and what it was measured to take.
    """
    weights = targets = None
    if routed is not None:
        mine = next((s for s in routed.get("services", ()) if s["name"] == row.name), None)
        weights = {"stable": 0, "candidate": 0, **mine["weights"]} if mine else {}
        targets = sorted({(t["slice"], t["release"]) for t in mine["targets"]}) if mine else []
    return {
        "name": str(row.name),
        "stable": release_json(row.stable, releases),
        "candidate": release_json(row.candidate, releases),
        "lkg": release_json(row.lkg, releases),
        "weights": weights,
        "desired_weights": dict(row.weights),
        "routed": None if targets is None else [{"slice": s, "release": r} for s, r in targets],
        "replicas": [replica_json(r, states, memory.get(r.id)) for r in replicas if r.service == row.name],
    }


def replica_json(row: ReplicaRow, states: Mapping[str, str], memory: Mapping[str, int] | None = None) -> dict[str, Any]:
    """One replica: ``observed_digest`` is what its process opened, as its host saw it; null unless it answers now.

    A healthy replica lists the model name that only this release serves, so the observation still stands.
    """
    state = states.get(row.id, "unknown") if row.state == "ready" else row.state
    proven = row.observed_digest if state in ("healthy", "starting") else None
    return {
        "id": str(row.id),
        "host": str(row.host),
        "port": row.port,
        "release": str(row.release),
        "slice": row.slice,
        "state": state,
        "observed_digest": str(proven) if proven else None,
        "memory": dict(memory) if memory else None,
    }


def rollout_json(row: RolloutRow, evidence: str | None) -> dict[str, Any]:
    """One rollout in a list."""
    state = RolloutState.from_json(dict(row.state))
    return {
        "id": str(row.id),
        "service": str(row.service),
        "kind": state.kind,
        "state": str(state.phase),
        "verdict": str(state.verdict) if state.verdict else None,
        "reason": state.reason,
        "percent": state.percent if state.exposed and not state.phase.final else None,
        "release": str(state.release),
        "plan": str(state.plan),
        "environment": state.environment,
        "change": state.change,
        "notes": list(state.notes),
        "created_at": stamp(row.created_at),
        "updated_at": stamp(row.updated_at),
        "evidence": evidence,
    }


def differences(
    desired: Mapping[str, Mapping[str, Any]], services: Sequence[Mapping[str, Any]], gateway: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Where what is observed differs from what is wanted. ``desired``: service name -> {model, runtime, replicas}."""
    found: list[dict[str, Any]] = []

    def differ(what: str, wanted: Any, seen: Any) -> None:
        if wanted != seen:
            found.append({"what": what, "desired": wanted, "observed": seen})

    differ("gateway healthy", True, gateway.get("healthy", False))
    by_name = {s["name"]: s for s in services}
    for name, wanted in desired.items():
        seen = by_name.get(name)
        if seen is None or seen["stable"] is None:
            found.append({"what": f"service {name}", "desired": wanted["model"], "observed": None})
            continue
        differ(f"{name}: model", wanted["model"], seen["stable"]["model"])
        differ(f"{name}: runtime", wanted["runtime"], seen["stable"]["runtime"])
        if seen["candidate"] is None:
            differ(f"{name}: weights", seen["desired_weights"], _nonzero(seen["weights"]))
        stable = [t["release"] for t in seen["routed"] or () if t["slice"] == "stable"]
        differ(f"{name}: release that the gateway routes to", [seen["stable"]["release"]], stable)
        serving = [r for r in seen["replicas"] if r["slice"] == "stable" and r["state"] == "healthy"]
        differ(f"{name}: healthy stable replicas", wanted["replicas"], len(serving))
        for replica in seen["replicas"]:
            if replica["state"] not in ("stopped", "starting"):
                differ(f"{name}: release loaded by {replica['id']}", replica["release"], replica["observed_digest"])
    for name in sorted(set(by_name) - set(desired)):
        found.append({"what": f"service {name}", "desired": None, "observed": "not in the stack file"})
    return found


def _nonzero(weights: Mapping[str, int] | None) -> dict[str, int] | None:
    return None if weights is None else {k: v for k, v in weights.items() if v}
