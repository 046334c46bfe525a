"""The JSON of the store's own records. Pure: values <-> canonical bytes, checked when read back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from stack.core.canonical import canonical
from stack.core.digest import Digest
from stack.core.errors import InvalidInput
from stack.core.release import Artifact, ArtifactFormat, FileEntry, ModelVersion
from stack.core.strict_json import NotJson, parse_json
from stack.registry.manifest import FORMATS, Manifest, name_problem, version_problem
from stack.registry.paths import path_problem

SCHEMA = 1


class BadRecord(ValueError):
    """What is wrong with a record."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """A registered model version and what its manifest said about it."""

    model: ModelVersion
    description: str
    licence: str
    source: str


def record_of(manifest: Manifest, artifact: Artifact, metadata: dict[str, Any]) -> Record:
    """The record of a manifest's artifact."""
    model = ModelVersion(name=manifest.name, version=manifest.version, artifact=artifact, metadata=metadata)
    return Record(model=model, description=manifest.description, licence=manifest.licence, source=manifest.source)


def set_rows(files: tuple[FileEntry, ...]) -> list[dict[str, Any]]:
    """The list that a set digest is the digest of."""
    return [{"path": f.path, "sha256": f.sha256.hex, "size": f.size} for f in sorted(files, key=lambda f: f.path)]


def encode_set(files: tuple[FileEntry, ...]) -> bytes:
    """The bytes of ``sets/<hex>.json``; their SHA-256 is the set's digest."""
    return canonical(set_rows(files))


def decode_set(data: bytes, digest: Digest) -> tuple[FileEntry, ...]:
    """Inverse of ``encode_set``: refuses bytes that do not have this digest."""
    if Digest.of(data) != digest:
        raise BadRecord("its content does not have the digest in its name")
    return _files(_parse(data))


def encode_record(record: Record) -> bytes:
    """``decode_record(encode_record(r)) == r``."""
    model = record.model
    return canonical(
        {
            "schema": SCHEMA,
            "name": model.name,
            "version": model.version,
            "format": model.artifact.format,
            "digest": model.artifact.digest,
            "files": set_rows(model.artifact.files),
            "metadata": model.metadata,
            "description": record.description,
            "licence": record.licence,
            "source": record.source,
        }
    )


def decode_record(data: bytes) -> Record:
    """Inverse of ``encode_record``. Raises ``BadRecord``."""
    body = _parse(data)
    keys = {"schema", "name", "version", "format", "digest", "files", "metadata", "description", "licence", "source"}
    if not isinstance(body, dict) or set(body) != keys or body["schema"] != SCHEMA:
        raise BadRecord(f"it does not have the form of schema {SCHEMA}")
    texts = [body[key] for key in ("name", "version", "digest", "description", "licence", "source")]
    if not all(isinstance(text, str) for text in texts) or not isinstance(body["metadata"], dict):
        raise BadRecord("a value has the wrong type")
    if name_problem(body["name"]) or version_problem(body["version"]) or body["format"] not in FORMATS:
        raise BadRecord("its name, version or format is impossible")
    files = _files(body["files"])
    if Artifact.digest_of(files) != body["digest"]:
        raise BadRecord("its files do not have its digest")
    artifact = Artifact(format=cast(ArtifactFormat, body["format"]), digest=Digest(body["digest"]), files=files)
    model = ModelVersion(name=body["name"], version=body["version"], artifact=artifact, metadata=body["metadata"])
    return Record(model=model, description=body["description"], licence=body["licence"], source=body["source"])


def _parse(data: bytes) -> Any:
    try:
        return parse_json(data, unique=True)
    except NotJson as error:
        raise BadRecord("it is not JSON") from error


def _files(rows: Any) -> tuple[FileEntry, ...]:
    if not isinstance(rows, list) or not rows:
        raise BadRecord("it lists no files")
    return tuple(_file(row) for row in rows)


def _file(row: Any) -> FileEntry:
    if not isinstance(row, dict) or set(row) != {"path", "sha256", "size"}:
        raise BadRecord("a file is not described by path, sha256 and size")
    path, size, sha256 = row["path"], row["size"], row["sha256"]
    if not isinstance(path, str) or path_problem(path) or type(size) is not int or size < 0:
        raise BadRecord("a file has an impossible path or size")
    try:
        return FileEntry(path=path, size=size, sha256=Digest(f"sha256:{sha256}"))
    except InvalidInput as error:
        raise BadRecord("a file has an impossible digest") from error
