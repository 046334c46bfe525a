"""What a driver is: the facts about an engine that the rest of the product asks for. Values and a protocol, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from stack.core.errors import InvalidInput
from stack.core.release import ArtifactFormat, Engine, Release
from stack.runtimes.devices import ON_ACCELERATORS


class UnknownDistribution(InvalidInput):
    """{engine} can't be had as {distribution}; known: {known}."""

    hint = "Write the runtime as engine/distribution, e.g. llamacpp/xllamacpp."


class CantLaunch(InvalidInput):
    """This release can't be launched: {detail}."""

    hint = "Choose an artifact format that the engine reads, and launch parameters of at least 1."


@dataclass(frozen=True, kw_only=True)
class Traits:
    """How one distribution of an engine behaves.

    `names_itself`: asked without a model name, it answers under the name it was launched with, so the answer proves
    who gave it; others only repeat the name in the request. `streams_usage`: a stream can end with a usage chunk.
    `sigterm_finishes_streams`: a terminated process lets running streams end. `metrics`: what it counts -> its name
    for that; empty where it counts nothing. `provided`: hosts have it, or not; it is not installed.
    """

    distribution: str
    liveness_path: str
    models_path: str
    ready_line: str
    names_itself: bool
    streams_usage: bool
    concurrent: bool
    sigterm_finishes_streams: bool
    metrics_path: str | None = None
    metrics: Mapping[str, str] = field(default_factory=dict)
    provided: bool = False


@dataclass(frozen=True, kw_only=True)
class LaunchDescription:
    """What the launcher on the host is told; the fields are those of `launch.json` and of the playbooks' variables."""

    engine: Engine
    distribution: str
    environment: str
    release_digest: str
    artifact_digest: str
    artifact_dir: str
    environment_dir: str
    served_model: str
    bind_address: str
    port: int
    context: int
    parallel: int
    threads: int
    tensor_parallel: int = 1

    def to_json(self) -> dict[str, Any]:
        """JSON scalars only."""
        return asdict(self)


def describe(
    release: Release, opens: ArtifactFormat, *, artifact_dir: str, environment_dir: str, host_ip: str, port: int
) -> LaunchDescription:
    """What starts `release` on an engine that opens the format `opens`; raises `CantLaunch`."""
    runtime, launch = release.runtime, release.launch
    if release.artifact_format != opens:
        raise CantLaunch(f"{runtime.engine} reads {opens}, not {release.artifact_format}")
    if min(launch.context, launch.parallel, launch.threads, launch.tensor_parallel) < 1 or not 0 < port < 65536:
        raise CantLaunch(f"{launch} on port {port}")
    if launch.tensor_parallel != 1 and f"{runtime.engine}/{runtime.distribution}" not in ON_ACCELERATORS:
        raise CantLaunch(f"{runtime.engine}/{runtime.distribution} can't be spread over accelerators")
    return LaunchDescription(
        engine=runtime.engine,
        distribution=runtime.distribution,
        environment=runtime.environment,
        release_digest=str(release.digest),
        artifact_digest=str(release.artifact),
        artifact_dir=artifact_dir,
        environment_dir=environment_dir,
        served_model=release.served_model,
        bind_address=host_ip,
        port=port,
        context=launch.context,
        parallel=launch.parallel,
        threads=launch.threads,
        tensor_parallel=launch.tensor_parallel,
    )


def traits_of(known: Mapping[str, Traits], engine: Engine, distribution: str) -> Traits:
    """One of an engine's distributions; raises `UnknownDistribution`."""
    if distribution not in known:
        raise UnknownDistribution(engine=engine, distribution=distribution, known=", ".join(known))
    return known[distribution]


class Driver(Protocol):
    """One engine."""

    @property
    def engine(self) -> Engine:
        """The engine's name."""

    def traits(self, distribution: str) -> Traits:
        """How this distribution behaves; raises `UnknownDistribution`."""

    def launch(
        self, release: Release, *, artifact_dir: str, environment_dir: str, host_ip: str, port: int
    ) -> LaunchDescription:
        """What starts `release` on a host; raises `CantLaunch`."""
