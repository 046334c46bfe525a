"""The plan: the exact, canonical description of what will be done. Pure; its digest is what later gets approved.

Two plans that would do the same from the same starting state are equal, byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from stack.core.digest import Digest
from stack.core.errors import Conflict, InvalidInput
from stack.core.names import HostName, ServiceName
from stack.core.release import Release
from stack.rollout.state import Kind


class NoLastKnownGood(Conflict):
    """Service {service} has no last known good release to go back to."""

    hint = "A last known good exists from the second promoted release on. See `stackctl status`."


class NothingServed(Conflict):
    """Service {service} serves nothing yet."""

    hint = "Deploy a first release: `stackctl deploy`."


class NoSuchService(InvalidInput):
    """There is no service {service} in the stack file; it has: {known}."""


@dataclass(frozen=True, kw_only=True)
class Suites:
    """Digests of the prompt suites' bytes: what will count as proof is part of the plan."""

    smoke: Digest
    evaluation: Digest


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What will be done: bring ``release`` into ``service``, from the state ``stable``, ``lkg`` and ``weights``.

    ``inventory`` says how each of ``hosts`` is reached; ``variables`` what every replica's playbook is given (its own
    id and port apart); ``settings`` are the rollout's limits; ``playbooks`` is the digest of the playbook tree that
    will run, ``policy`` that of the policies by which it is asked; ``gates`` the per cents before which they ask again.
    """

    kind: Kind
    environment: str
    service: ServiceName
    release: Release
    stable: Digest | None
    lkg: Digest | None
    weights: Mapping[str, int]
    hosts: tuple[HostName, ...]
    inventory: Mapping[str, Mapping[str, Any]]
    variables: Mapping[str, Any]
    replicas: int
    ladder: tuple[int, ...]
    gates: tuple[int, ...]
    suites: Suites
    settings: dict[str, Any]
    playbooks: Digest
    policy: Digest

    def to_json(self) -> dict[str, Any]:
        """The canonical body; its digest is the plan's."""
        return {**asdict(self), "release": self.release.to_json(), "release_digest": str(self.release.digest)}

    @property
    def digest(self) -> Digest:
        """What an approval signs."""
        return Digest.of_value(self.to_json())

    @property
    def nothing_to_do(self) -> bool:
        """Whether the service already serves exactly this release."""
        return self.release.digest == self.stable

    def steps(self) -> tuple[str, ...]:
        """What will happen, in words, in order."""
        if self.kind == "rollback":
            return (
                f"check that {self.release.model} ({self.release.digest.short}) is warm on {', '.join(self.hosts)}",
                "send all traffic to it",
                "smoke prompts",
                "stop the replicas of the release it replaces",
            )
        rungs = " -> ".join(f"{p} %" for p in self.ladder)
        return (
            f"preflight on {', '.join(self.hosts)}: memory, disk, port, artifact {self.release.artifact.short}",
            f"install {self.release.runtime.ref} beside what is there, place the artifact, start a replica",
            "wait until ready, warm up, smoke prompts",
            "paired eval against stable" if self.stable else "eval against the absolute floor (no stable yet)",
            f"traffic {rungs}, a verdict from evidence at each",
            *(f"wait for approval before {p} %" for p in self.gates),
            "promote; the release it replaces stays warm as last known good",
        )


def ladder_from(ladder: tuple[int, ...], stable: Digest | None) -> tuple[int, ...]:
    """The rungs to climb: without a stable release there is nobody to share traffic with, so one rung of 100."""
    return ladder if stable else (100,)


RUNS_ON = frozenset({"policy", "weights", "gates"})
"""What may change once a rollout has begun: policies are asked anew at each gate, and traffic is what it moves."""


def departures(planned: Mapping[str, Any], now: Mapping[str, Any], *, begun: bool) -> tuple[str, ...]:
    """Which parts of a plan are not what they would be if it were made now. What it does not mention can't differ:
    a plan of an older release has fewer parts, and its ``settings`` fewer limits."""
    parts = (key for key in planned if not (begun and key in RUNS_ON))
    return tuple(key for key in parts if key not in now or not _same(planned[key], now[key], key == "settings"))


def _same(planned: Any, now: Any, only_mentioned: bool) -> bool:
    if only_mentioned and isinstance(planned, Mapping) and isinstance(now, Mapping):
        return all(key in now and _same(value, now[key], True) for key, value in planned.items())
    return bool(planned == now)
