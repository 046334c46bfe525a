"""Registering: every file copied, hashed and inspected before the model version appears, all at once.

The order, which is what makes a kill at any instant harmless:

1. Refuse another content under the same name and version, a source that is incomplete, too little room.
2. Gather each file's bytes in ``tmp/<expected digest>.partial``: copy and SHA-256 in one pass; go on from what
   an interrupted registration left, hashed anew.
3. Read the headers from those very bytes.
4. Publish: objects, then the set, then the record. Only the record makes a model version.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stack.core.digest import Digest
from stack.core.errors import InvalidInput, StackError
from stack.core.release import Artifact, ArtifactFormat, FileEntry, ModelVersion
from stack.registry.catalogue import find_record, record_name
from stack.registry.errors import DigestMismatch, DiskFull, SourceChanged, StoreUnavailable, VersionTaken
from stack.registry.inspection import inspect
from stack.registry.manifest import Manifest, below
from stack.registry.progress import ProgressCallback, Tally
from stack.registry.records import encode_record, record_of
from stack.registry.store import ContentStore
from stack.registry.streams import OpenFile, copy_and_hash, hash_file
from stack.registry.tree import open_below

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SPARE = 1 << 20


class FormatMissing(InvalidInput):
    """The manifest of {ref} has no {format} artifact."""

    hint = "Register one of the formats that the manifest lists."


class _StoppedError(Exception):
    """Another file of the same registration failed."""


@dataclass(frozen=True, kw_only=True)
class _Job:
    """One registration."""

    manifest: Manifest
    artifact: Artifact
    store: ContentStore
    tally: Tally
    stop: threading.Event

    def advance(self, entry: FileEntry) -> Callable[[int], None]:
        """Counts bytes of a file, and leaves when another file has failed."""

        def advance(count: int) -> None:
            if self.stop.is_set():
                raise _StoppedError
            self.tally.add(entry.path, count)

        return advance

    @contextmanager
    def source(self, entry: FileEntry) -> Iterator[int]:
        """The file as it lies in the manifest's tree."""
        with open_below(self.manifest.base, below(self.manifest.roots[self.artifact.format], entry.path)) as descriptor:
            yield descriptor

    @contextmanager
    def readable_source(self, entry: FileEntry) -> Iterator[OpenFile]:
        with self.source(entry) as descriptor:
            yield OpenFile(descriptor)

    @contextmanager
    def admitted(self, entry: FileEntry) -> Iterator[OpenFile]:
        """The file's bytes as they were hashed: gathered just now, or in the store before."""
        partial = self.store.partial_path(entry.sha256)
        try:
            descriptor = os.open(partial, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            with self.store.open_object(entry.sha256) as file:
                yield file
            return
        try:
            yield OpenFile(descriptor)
        finally:
            os.close(descriptor)


def register(
    manifest: Manifest,
    format: ArtifactFormat,
    store: ContentStore,
    progress: ProgressCallback | None = None,
) -> ModelVersion:
    """Admit one artifact of a manifest. Registering the same again checks everything again and changes nothing."""
    artifact = manifest.artifacts.get(format)
    if artifact is None:
        raise FormatMissing(ref=f"{manifest.name}@{manifest.version}", format=format)
    tally = Tally(sum(entry.size for entry in artifact.files), progress)
    job = _Job(manifest=manifest, artifact=artifact, store=store, tally=tally, stop=threading.Event())
    try:
        with store.writing():
            return _register(job)
    except OSError as error:
        raise _store_error(job, artifact.format, error) from error


def _register(job: _Job) -> ModelVersion:
    _refuse_other_content(job)
    _inspect_source(job)
    _require_room(job)
    try:
        _gather(job)
        metadata = inspect(job.artifact, job.admitted)
    except StackError:  # refused or out of room: leave nothing. An interruption leaves its partial files instead
        for entry in job.artifact.files:
            job.store.partial_path(entry.sha256).unlink(missing_ok=True)
        raise
    return _publish(job, metadata)


def _store_error(job: _Job, path: str, error: OSError) -> DiskFull | StoreUnavailable:
    detail = error.strerror or str(error)
    if error.errno in _NO_ROOM:
        return DiskFull(store=str(job.store.root), path=path, detail=detail.lower())
    return StoreUnavailable(store=str(job.store.root), detail=detail.lower())


def _refuse_other_content(job: _Job) -> None:
    known = find_record(job.store, job.manifest.name, job.manifest.version, job.artifact.format)
    if known is not None and known.model.artifact.digest != job.artifact.digest:
        raise VersionTaken(
            ref=f"{known.model.ref}:{job.artifact.format}",
            registered=known.model.artifact.digest.short,
            offered=job.artifact.digest.short,
        )


def _inspect_source(job: _Job) -> None:
    """An early look, so that a hopeless artifact is refused before gigabytes are copied. Proves nothing."""
    try:
        inspect(job.artifact, job.readable_source)
    except InvalidInput:
        for entry in job.artifact.files:
            with job.source(entry) as descriptor:
                _compare(entry, hash_file(descriptor, lambda _: None))
        raise


def _compare(entry: FileEntry, found: Digest) -> None:
    if found != entry.sha256:
        raise DigestMismatch(path=entry.path, expected=entry.sha256, found=found)


def _require_room(job: _Job) -> None:
    need = _bytes_to_write(job) + SPARE
    if _free(job.store) < need:
        _drop_other_partials(job)
    free = _free(job.store)
    if free < need:
        detail = f"{need} bytes are needed, {free} are free"
        raise DiskFull(store=str(job.store.root), path=job.manifest.name, detail=detail)


def _bytes_to_write(job: _Job) -> int:
    missing: dict[Digest, int] = {}
    for entry in job.artifact.files:
        if not job.store.object_path(entry.sha256).exists():
            partial = job.store.partial_path(entry.sha256)
            missing[entry.sha256] = entry.size - (partial.stat().st_size if partial.exists() else 0)
    return sum(missing.values())


def _free(store: ContentStore) -> int:
    disk = os.statvfs(store.root)
    return disk.f_bavail * disk.f_frsize


def _drop_other_partials(job: _Job) -> None:
    """What interrupted registrations of other artifacts left gives way when room is short."""
    ours = {job.store.partial_path(entry.sha256) for entry in job.artifact.files}
    for partial in (job.store.root / "tmp").glob("*.partial"):
        if partial not in ours:
            partial.unlink(missing_ok=True)


def _gather(job: _Job) -> None:
    """Files side by side on all cores. The first error stops the rest."""
    first = {entry.sha256: entry for entry in reversed(job.artifact.files)}
    workers = min(len(job.artifact.files), len(os.sched_getaffinity(0)))
    with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="admit") as pool:
        futures = [pool.submit(_admit, job, entry, first[entry.sha256] is entry) for entry in job.artifact.files]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            job.stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
    for future in done:
        future.result()


def _admit(job: _Job, entry: FileEntry, is_first: bool) -> None:
    with job.source(entry) as source:
        before = os.fstat(source)
        if before.st_size != entry.size:
            raise SourceChanged(path=entry.path)
        if is_first and not _already_stored(job, entry):
            found = _copy(job, entry, source)
        else:
            found = hash_file(source, job.advance(entry))
        after = os.fstat(source)
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise SourceChanged(path=entry.path)
        _compare(entry, found)


def _already_stored(job: _Job, entry: FileEntry) -> bool:
    state = job.store.check_object(entry.sha256, entry.size)
    if state == "damaged":
        job.store.quarantine(entry.sha256)
    return state == "sound"


def _copy(job: _Job, entry: FileEntry, source: int) -> Digest:
    partial = job.store.partial_path(entry.sha256)
    resumed = partial.exists() and partial.stat().st_size > 0
    found = _append(job, entry, source, partial)
    if found != entry.sha256 and resumed:  # what was left over may have been torn: once more, from nothing
        partial.unlink()
        found = _append(job, entry, source, partial)
    return found


def _append(job: _Job, entry: FileEntry, source: int, partial: Path) -> Digest:
    try:
        target = _open_partial(partial)
        try:
            if os.fstat(target).st_size > entry.size:
                os.ftruncate(target, 0)
            return copy_and_hash(source, target, job.advance(entry))
        finally:
            os.close(target)
    except OSError as error:
        raise _store_error(job, entry.path, error) from error


def _open_partial(partial: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(partial, flags, 0o600)
    except PermissionError:  # read-only already: its registration was killed just before it got its final name
        partial.unlink()
        return os.open(partial, flags, 0o600)


def _publish(job: _Job, metadata: dict[str, Any]) -> ModelVersion:
    for digest in {entry.sha256 for entry in job.artifact.files}:
        if job.store.partial_path(digest).exists():
            job.store.publish_object(digest)
    record = record_of(job.manifest, job.artifact, metadata)
    job.store.write_set(job.artifact.digest, job.artifact.files)
    job.store.write(job.store.root / "models" / record_name(record.model), encode_record(record))
    return record.model
