"""Makes plans from the stack file, the registry and what the store says is running. Changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from stack.config.policy_values import Policies
from stack.config.settings import OPENS
from stack.config.stack_yaml import ServiceSettings, StackSettings
from stack.core.actions import Action
from stack.core.canonical import canonical
from stack.core.digest import Digest
from stack.core.errors import InvalidInput
from stack.core.names import HostName, ServiceName
from stack.core.release import Launch, Release
from stack.fleet.addresses import HostNotResolved, is_ip
from stack.fleet.values import Host
from stack.registry.catalogue import show
from stack.registry.manifest import Manifest, load_manifest
from stack.registry.store import ContentStore
from stack.rollout.plan import NoLastKnownGood, NoSuchService, NothingServed, Plan, Suites, departures, ladder_from
from stack.rollout.state import Kind, Phase, RolloutState
from stack.rollout.told import playbooks_digest, release_variables
from stack.runtimes.locks import locked_runtime
from stack.store.rows import ServiceRow
from stack.store.store import Store


class NotARuntime(InvalidInput):
    """{text} is no runtime: write engine/distribution, e.g. llamacpp/xllamacpp, or engine/distribution@version."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A model version to deploy; ``manifest`` is None when it is registered already."""

    ref: str
    artifact: Digest
    manifest: Manifest | None


@dataclass(frozen=True, kw_only=True)
class Basis:
    """What a plan takes over from the policies; a rollout that has begun keeps what it was planned by.

    ``accept_pause_s``: the pause that whoever asked for it allows, instead of the stack file's.
    """

    policy: Digest
    gates: tuple[int, ...]
    accept_pause_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Planner:
    """Plans of one stack. ``playbooks`` and ``locks`` are directories; ``policies`` reads them as they are now."""

    settings: StackSettings
    store: Store
    content: ContentStore
    inventory: Mapping[HostName, Host]
    policies: Callable[[], Policies]
    playbooks: Path
    locks: Path

    def service(self, name: str | None) -> ServiceSettings:
        """The service of this name; with None, the only (or first) one of the stack file."""
        known: Mapping[ServiceName, ServiceSettings] = self.settings.services
        if name is None:
            return next(iter(known.values()))
        for service in known.values():
            if service.name == name:
                return service
        raise NoSuchService(service=name, known=", ".join(known))

    def source(self, service: ServiceSettings, model: str | None) -> Source:
        """The model to deploy: the stack file's, a manifest's path, or a registered ``name@version``."""
        if model and not Path(model).is_file() and "@" in model:
            ref = model if ":" in model else f"{model}:{service.format}"
            known = show(self.content, ref)
            return Source(ref=known.ref, artifact=known.artifact.digest, manifest=None)
        manifest = load_manifest(Path(model) if model else service.model)
        artifact = manifest.artifacts.get(service.format)
        if artifact is None:
            raise InvalidInput(f"{manifest.name}@{manifest.version} has no {service.format} artifact")
        return Source(ref=f"{manifest.name}@{manifest.version}", artifact=artifact.digest, manifest=manifest)

    def deploy(
        self,
        service: ServiceSettings,
        model: str | None,
        runtime: str | None,
        environment: str | None = None,
        accept_pause_s: float | None = None,
    ) -> Plan:
        """Bring a model version, on a runtime, into a service."""
        release = self.desired(service, model, runtime)
        basis = self._basis("deploy", environment, accept_pause_s)
        return self._plan("deploy", service, release, self._row(service.name), environment, basis)

    def desired(self, service: ServiceSettings, model: str | None = None, runtime: str | None = None) -> Release:
        """The release that the stack file (or what is given) asks for."""
        usual = service.runtime
        named = _runtime(runtime) if runtime else (usual.engine, usual.distribution, usual.version or None)
        engine, distribution, version = named
        service = opened_by(engine, service)
        source = self.source(service, model)
        return Release(
            service=service.name,
            model=source.ref,
            artifact=source.artifact,
            artifact_format=service.format,
            runtime=locked_runtime(engine, distribution, version, locks_dir=self.locks),
            launch=Launch(**asdict(service.launch)),
        )

    def rollback(
        self, service: ServiceSettings, environment: str | None = None, accept_pause_s: float | None = None
    ) -> Plan:
        """Go back to the service's last known good."""
        row = self._row(service.name)
        if row is None or row.stable is None:
            raise NothingServed(service=service.name)
        if row.lkg is None:
            raise NoLastKnownGood(service=service.name)
        with self.store.reading() as tx:
            release = tx.release(row.lkg)
        basis = self._basis("rollback", environment, accept_pause_s)
        return self._plan("rollback", service, release, row, environment, basis)

    def departures(self, state: RolloutState) -> tuple[str, ...]:
        """Which parts of a rollout's plan would be different if it were made now; before it begins also what serves."""
        service = self.settings.services[state.service]
        begun = state.phase is not Phase.PLANNED
        with self.store.reading() as tx:
            planned, release, row = tx.plan(state.plan), tx.release(state.release), tx.service(state.service)
        if planned is None:
            return ("the plan itself",)
        accepted = (planned.get("settings") or {}).get("accept_pause_s")
        if begun:
            row = replace(row, stable=state.stable, lkg=state.lkg)
            policy = Digest(planned.get("policy") or state.plan)
            basis = Basis(policy=policy, gates=state.gates, accept_pause_s=accepted)
        else:
            basis = self._basis(state.kind, state.environment or None, accepted)
        now = self._plan(state.kind, service, release, row, state.environment or None, basis)
        return departures(planned, json.loads(canonical(now.to_json())), begun=begun)

    def _basis(self, kind: Kind, environment: str | None, accept_pause_s: float | None) -> Basis:
        """The policies as they are now, and the per cents before which they ask again on the way of a deploy."""
        policies, where = self.policies(), environment or self.settings.environment
        asked = {g.before for g in policies.gates if g.environment == where and g.action is Action.DEPLOY}
        gates = tuple(sorted(asked)) if kind == "deploy" else ()
        return Basis(policy=policies.digest, gates=gates, accept_pause_s=accept_pause_s)

    def _row(self, name: str) -> ServiceRow | None:
        with self.store.reading() as tx:
            return next((s for s in tx.services() if s.name == name), None)

    def _plan(
        self,
        kind: Kind,
        service: ServiceSettings,
        release: Release,
        row: ServiceRow | None,
        environment: str | None,
        basis: Basis,
    ) -> Plan:
        stable = row.stable if row else None
        ladder = ladder_from(tuple(service.rollout.ladder), stable)
        where = environment or self.settings.environment
        return Plan(
            kind=kind,
            environment=where,
            service=service.name,
            release=release,
            stable=stable,
            lkg=row.lkg if row else None,
            weights=dict(row.weights) if row else {},
            hosts=tuple(service.hosts),
            inventory={name: reached(self.inventory[name]) for name in service.hosts},
            variables=release_variables(release),
            replicas=service.replicas,
            ladder=ladder,
            gates=basis.gates,
            suites=Suites(smoke=_file_digest(service.suites.smoke), evaluation=_file_digest(service.suites.evaluation)),
            settings={
                "hold": asdict(service.rollout.hold),
                "thresholds": asdict(service.rollout.thresholds),
                "timeouts": asdict(service.rollout.timeouts),
                "replay": service.rollout.replay,
                "tolerate_hosts": service.rollout.tolerate_hosts,
                "longest_pause_s": service.rollout.longest_pause_s,
                **({} if basis.accept_pause_s is None else {"accept_pause_s": basis.accept_pause_s}),
            },
            playbooks=playbooks_digest(self.playbooks),
            policy=basis.policy,
        )


def reached(host: Host) -> dict[str, Any]:
    """How a host is reached, for the plan. Raises HostNotResolved: a plan names the address that engines bind to."""
    if not is_ip(host.address):
        raise HostNotResolved(host=host.name, name=host.address)
    return {key: value for key, value in asdict(host).items() if key not in ("ollama", "known_as") or value}


def opened_by(engine: str, service: ServiceSettings) -> ServiceSettings:
    """The service with a format that the engine opens: its own if it does, else the engine's."""
    formats = OPENS.get(engine, (service.format,))
    return service if service.format in formats else replace(service, format=formats[0])


def _runtime(text: str) -> tuple[str, str, str | None]:
    engine, _, rest = text.partition("/")
    distribution, at, version = rest.partition("@")
    if not engine or not distribution or bool(at) != bool(version):
        raise NotARuntime(text=repr(text)[:80])
    return engine, distribution, version or None


def _file_digest(path: Path) -> Digest:
    return Digest.of(path.read_bytes())
