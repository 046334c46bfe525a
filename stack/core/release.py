"""What is deployed: model version + runtime version + launch parameters = release, named by its digest.

All values are frozen; a release's digest is the digest of its canonical JSON, so two releases that would
run the same thing have the same name.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from stack.core.digest import Digest

Engine = Literal["llamacpp", "vllm", "ollama"]
ArtifactFormat = Literal["gguf", "safetensors"]


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """One file of an artifact: path relative to the artifact's root (POSIX, no ``..``), size in bytes."""

    path: str
    size: int
    sha256: Digest


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """The files of one model version in one format; ``digest`` is over the sorted file list."""

    format: ArtifactFormat
    digest: Digest
    files: tuple[FileEntry, ...]

    @staticmethod
    def digest_of(files: tuple[FileEntry, ...]) -> Digest:
        """SHA-256 of the canonical JSON of ``[{path, sha256 (bare hex), size}, ...]`` sorted by path."""
        rows = [{"path": f.path, "sha256": f.sha256.hex, "size": f.size} for f in sorted(files, key=lambda f: f.path)]
        return Digest.of_value(rows)


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """``name@version`` -> artifact + what its header says (JSON scalars and lists only)."""

    name: str
    version: str
    artifact: Artifact
    metadata: dict[str, Any]

    @property
    def ref(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True, kw_only=True)
class RuntimeVersion:
    """An engine at an exact version: distribution (PyPI name) and the digest of its hash-lock file."""

    engine: Engine
    distribution: str
    version: str
    lock: Digest

    @property
    def ref(self) -> str:
        """``engine/distribution@version``, for people."""
        return f"{self.engine}/{self.distribution}@{self.version}"

    @property
    def environment(self) -> str:
        """The name of its directory on a host: versions stand beside each other."""
        return f"{self.engine}-{self.distribution}-{self.version}-{self.lock.short}"


@dataclass(frozen=True, kw_only=True)
class Launch:
    """Launch parameters: context in tokens per slot, parallel slots, threads per replica, accelerators per replica.

    A parameter that was added later is left out of the JSON while it has its default, so that releases from before keep
    their digests.
    """

    context: int = 1024
    parallel: int = 4
    threads: int = 1
    tensor_parallel: int = 1

    def to_json(self) -> dict[str, int]:
        """``Launch(**launch.to_json()) == launch``."""
        body = asdict(self)
        if self.tensor_parallel == 1:
            del body["tensor_parallel"]
        return body


@dataclass(frozen=True, kw_only=True)
class Release:
    """Immutable; everything that decides what a replica answers."""

    service: str
    model: str
    artifact: Digest
    artifact_format: ArtifactFormat
    runtime: RuntimeVersion
    launch: Launch

    def to_json(self) -> dict[str, Any]:
        """``Release.from_json(r.to_json()) == r``."""
        return {**asdict(self), "launch": self.launch.to_json()}

    @classmethod
    def from_json(cls, body: dict[str, Any]) -> Release:
        """Inverse of ``to_json``."""
        runtime = RuntimeVersion(**{**body["runtime"], "lock": Digest(body["runtime"]["lock"])})
        rest = {k: body[k] for k in ("service", "model", "artifact_format")}
        return cls(**rest, artifact=Digest(body["artifact"]), runtime=runtime, launch=Launch(**body["launch"]))

    @property
    def digest(self) -> Digest:
        """The release's name."""
        return Digest.of_value(self.to_json())

    @property
    def served_model(self) -> str:
        """The name the runtime serves it under: unique to the release, so an answer proves who gave it."""
        return f"{self.service}-{self.digest.short}"
