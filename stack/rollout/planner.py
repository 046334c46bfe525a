"""Makes plans from the stack file, the registry and what the store says is running. Changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from stack.config.stack_yaml import ServiceSettings, StackSettings
from stack.core.digest import Digest
from stack.core.errors import InvalidInput
from stack.core.names import ServiceName
from stack.core.release import Launch, Release
from stack.registry.catalogue import show
from stack.registry.manifest import Manifest, load_manifest
from stack.registry.store import ContentStore
from stack.rollout.hosts import playbooks_digest
from stack.rollout.plan import NoLastKnownGood, NoSuchService, NothingServed, Plan, Suites, ladder_from
from stack.runtimes.locks import locked_runtime
from stack.store.rows import ServiceRow
from stack.store.store import Store


class NotARuntime(InvalidInput):
    """{text} is no runtime: write engine/distribution, e.g. llamacpp/xllamacpp."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A model version to deploy; ``manifest`` is None when it is registered already."""

    ref: str
    artifact: Digest
    manifest: Manifest | None


@dataclass(frozen=True, kw_only=True)
class Planner:
    """Plans of one stack. ``playbooks`` and ``locks`` are directories."""

    settings: StackSettings
    store: Store
    content: ContentStore
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

    def deploy(self, service: ServiceSettings, model: str | None, runtime: str | None) -> Plan:
        """Bring a model version, on a runtime, into a service."""
        source = self.source(service, model)
        engine, distribution = _runtime(runtime) if runtime else (service.runtime.engine, service.runtime.distribution)
        release = Release(
            service=service.name,
            model=source.ref,
            artifact=source.artifact,
            artifact_format=service.format,
            runtime=locked_runtime(engine, distribution, locks_dir=self.locks),
            launch=Launch(**asdict(service.launch)),
        )
        row = self._row(service.name)
        return self._plan("deploy", service, release, row)

    def rollback(self, service: ServiceSettings) -> Plan:
        """Go back to the service's last known good."""
        row = self._row(service.name)
        if row is None or row.stable is None:
            raise NothingServed(service=service.name)
        if row.lkg is None:
            raise NoLastKnownGood(service=service.name)
        with self.store.reading() as tx:
            release = tx.release(row.lkg)
        return self._plan("rollback", service, release, row)

    def _row(self, name: str) -> ServiceRow | None:
        with self.store.reading() as tx:
            return next((s for s in tx.services() if s.name == name), None)

    def _plan(self, kind: str, service: ServiceSettings, release: Release, row: ServiceRow | None) -> Plan:
        stable = row.stable if row else None
        return Plan(
            kind="deploy" if kind == "deploy" else "rollback",
            environment=self.settings.environment,
            service=service.name,
            release=release,
            stable=stable,
            lkg=row.lkg if row else None,
            hosts=tuple(service.hosts),
            replicas=service.replicas,
            ladder=ladder_from(tuple(service.rollout.ladder), stable),
            suites=Suites(smoke=_file_digest(service.suites.smoke), evaluation=_file_digest(service.suites.evaluation)),
            settings={
                "hold": asdict(service.rollout.hold),
                "thresholds": asdict(service.rollout.thresholds),
                "replay": service.rollout.replay,
            },
            playbooks=playbooks_digest(self.playbooks),
        )


def _runtime(text: str) -> tuple[str, str]:
    engine, slash, distribution = text.partition("/")
    if not slash or not engine or not distribution:
        raise NotARuntime(text=repr(text))
    return engine, distribution


def _file_digest(path: Path) -> Digest:
    return Digest.of(path.read_bytes())
