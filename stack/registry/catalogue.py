"""What is registered: list, show, verify. Every digest is computed anew; nothing is answered from memory."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stack.core.digest import Digest
from stack.core.release import ArtifactFormat, FileEntry, ModelVersion
from stack.registry.errors import ObjectDamaged, RecordDamaged, UnknownModel
from stack.registry.manifest import FORMATS, name_problem, version_problem
from stack.registry.progress import ProgressCallback, Tally
from stack.registry.records import BadRecord, Record, decode_record
from stack.registry.store import ContentStore, ObjectState


@dataclass(frozen=True, kw_only=True)
class FileVerdict:
    """One file of an artifact as it was found."""

    path: str
    size: int
    sha256: Digest
    state: ObjectState


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """What verifying a model version found; ``ok`` only if every file was read and has its digest."""

    model: ModelVersion
    files: tuple[FileVerdict, ...]

    @property
    def ok(self) -> bool:
        """Whether every file is sound."""
        return bool(self.files) and all(file.state == "sound" for file in self.files)

    def require_sound(self) -> None:
        """Raise ``ObjectDamaged`` for the first file that is not."""
        for file in self.files:
            if file.state != "sound":
                raise ObjectDamaged(path=file.path, digest=file.sha256, state=file.state)

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        files = [{"path": f.path, "size": f.size, "sha256": f.sha256, "state": f.state} for f in self.files]
        return {
            "model": self.model.ref,
            "format": self.model.artifact.format,
            "digest": self.model.artifact.digest,
            "ok": self.ok,
            "files": files,
        }


def record_name(model: ModelVersion) -> str:
    """The file name of a model version's record."""
    return f"{model.ref}:{model.artifact.format}.json"


def find_record(store: ContentStore, name: str, version: str, format: ArtifactFormat) -> Record | None:
    """The record of exactly this model version and format, or None."""
    path = store.root / "models" / f"{name}@{version}:{format}.json"
    return _read(path) if path.exists() else None


def _read(path: Path) -> Record:
    try:
        record = decode_record(path.read_bytes())
    except (BadRecord, OSError) as error:
        raise RecordDamaged(record=f"models/{path.name}", reason=str(error)) from error
    if record_name(record.model) != path.name:
        raise RecordDamaged(record=f"models/{path.name}", reason=f"it is about {record.model.ref}")
    return record


def records(store: ContentStore, broken: list[str] | None = None) -> tuple[Record, ...]:
    """Every registered model version with its manifest's words, sorted by reference and format.

    A record that can't be trusted raises ``RecordDamaged``, or is named in ``broken`` where that is given.
    """
    found = []
    for path in sorted((store.root / "models").glob("*.json")):
        try:
            found.append(_read(path))
        except RecordDamaged:
            if broken is None:
                raise
            broken.append(f"models/{path.name}")
    return tuple(found)


def list_models(store: ContentStore) -> tuple[ModelVersion, ...]:
    """Every registered model version, sorted by reference and format."""
    return tuple(record.model for record in records(store))


def find(store: ContentStore, ref: str) -> Record:
    """The record that ``name@version`` or ``name@version:format`` means."""
    name, _, rest = ref.partition("@")
    version, colon, wanted = rest.partition(":")
    if name_problem(name) or version_problem(version) or (colon and wanted not in FORMATS):
        raise UnknownModel(ref=repr(ref)[:120], detail="it does not read name@version or name@version:format")
    formats = [format for format in FORMATS if not colon or format == wanted]
    found = [record for format in formats if (record := find_record(store, name, version, format))]
    if not found:
        raise UnknownModel(ref=ref, detail="nothing is registered under it")
    if len(found) > 1:
        raise UnknownModel(ref=ref, detail=f"say which format: {ref}:{' or '.join(formats)}")
    return found[0]


def show(store: ContentStore, ref: str) -> ModelVersion:
    """The model version that a reference means."""
    return find(store, ref).model


def verify(store: ContentStore, ref: str, progress: ProgressCallback | None = None) -> VerifyReport:
    """Read and hash every file of a model version now, and the list of files itself."""
    model = show(store, ref)
    store.read_set(model.artifact.digest)
    tally = Tally(sum(entry.size for entry in model.artifact.files), progress)
    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0)), thread_name_prefix="verify") as pool:
        verdicts = pool.map(lambda entry: _judge(store, entry, tally), model.artifact.files)
        return VerifyReport(model=model, files=tuple(verdicts))


def _judge(store: ContentStore, entry: FileEntry, tally: Tally) -> FileVerdict:
    state = store.check_object(entry.sha256, entry.size, lambda count: tally.add(entry.path, count))
    return FileVerdict(path=entry.path, size=entry.size, sha256=entry.sha256, state=state)
