"""The content-addressed store on disk: where things lie, and the few atomic steps that change it.

    objects/<aa>/<hex>                     one file each, named by its SHA-256, read-only
    sets/<hex>.json                        the list of files of an artifact, named by the artifact's digest
    models/<name>@<version>:<format>.json  a registered model version, written last
    trees/<hex>/                           materialised artifacts: hard links to objects
    quarantine/                            damaged objects, kept for a look
    tmp/                                   partial files (by the digest they shall have) and unfinished writes

What goes in is decided in ``admit``; ``catalogue`` and ``scrub`` read and check.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from stack.core.digest import Digest
from stack.core.release import FileEntry
from stack.registry.errors import DiskFull, ObjectDamaged, RecordDamaged, StoreUnavailable
from stack.registry.records import BadRecord, decode_set, encode_set
from stack.registry.streams import OpenFile, hash_file, write_all

ObjectState = Literal["sound", "missing", "damaged"]
_FOLDERS = ("objects", "sets", "models", "trees", "quarantine", "tmp")
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def _no_progress(_: int) -> None:
    return


class ContentStore:
    """One store. Safe for several processes: what appears under a final name is whole, and appears at once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self) -> None:
        """Make the folders."""
        try:
            for name in _FOLDERS:
                (self.root / name).mkdir(parents=True, exist_ok=True, mode=0o755)
        except OSError as error:
            raise StoreUnavailable(store=str(self.root), detail=error.strerror or str(error)) from error

    def object_path(self, digest: Digest) -> Path:
        """Where the content with this digest lies, if it is there."""
        return self.root / "objects" / digest.hex[:2] / digest.hex

    def partial_path(self, digest: Digest) -> Path:
        """Where content that shall have this digest is gathered."""
        return self.root / "tmp" / f"{digest.hex}.partial"

    def set_path(self, digest: Digest) -> Path:
        """Where the list of files of this artifact lies."""
        return self.root / "sets" / f"{digest.hex}.json"

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Alone among all processes that add to or repair this store; waits for its turn."""
        self.prepare()
        with self._locked("lock"):
            self._sweep()
            yield

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self.root / name, flags, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _sweep(self) -> None:
        """Remove what a killed writer left unfinished; partial files stay, to go on from."""
        for left in (self.root / "tmp").glob("*.new"):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)

    @contextmanager
    def open_object(self, digest: Digest) -> Iterator[OpenFile]:
        """The stored content, to read anywhere."""
        with _opened(self.object_path(digest)) as descriptor:
            yield OpenFile(descriptor)

    def check_object(
        self, digest: Digest, size: int | None = None, advance: Callable[[int], None] = _no_progress
    ) -> ObjectState:
        """Hash the stored content now; no earlier result is used."""
        try:
            with _opened(self.object_path(digest)) as descriptor:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode) or size not in (None, status.st_size):
                    return "damaged"
                return "sound" if hash_file(descriptor, advance) == digest else "damaged"
        except FileNotFoundError:
            return "missing"
        except OSError:
            return "damaged"

    def publish_object(self, digest: Digest) -> None:
        """Give complete, synced partial content its final name."""
        partial, final = self.partial_path(digest), self.object_path(digest)
        partial.chmod(0o444)
        if not final.parent.is_dir():
            final.parent.mkdir(exist_ok=True)
            sync_directory(final.parent.parent)
        partial.rename(final)
        sync_directory(final.parent)

    def quarantine(self, digest: Digest) -> Path:
        """Take a damaged object, and every materialised tree that links to it, out of use."""
        target = self.root / "quarantine" / f"{digest.hex}-{secrets.token_hex(4)}"
        self.object_path(digest).rename(target)
        for tree in (self.root / "trees").iterdir():
            files = self.read_set(Digest(f"sha256:{tree.name}")) if self.has_set(tree.name) else ()
            if not files or any(entry.sha256 == digest for entry in files):
                self._discard(tree)
        return target

    def has_set(self, hex_digest: str) -> bool:
        """Whether a set of this name is listed."""
        return (self.root / "sets" / f"{hex_digest}.json").is_file()

    def read_set(self, digest: Digest) -> tuple[FileEntry, ...]:
        """The files of an artifact, checked against its digest."""
        path = self.set_path(digest)
        try:
            return decode_set(path.read_bytes(), digest)
        except FileNotFoundError as error:
            raise RecordDamaged(record=f"sets/{path.name}", reason="it is not there") from error
        except (BadRecord, OSError) as error:
            raise RecordDamaged(record=f"sets/{path.name}", reason=str(error)) from error

    def write_set(self, digest: Digest, files: tuple[FileEntry, ...]) -> None:
        """List the files of an artifact."""
        self.write(self.set_path(digest), encode_set(files))

    def write(self, path: Path, data: bytes) -> None:
        """Replace a small file atomically and durably."""
        temporary = self.root / "tmp" / f"{secrets.token_hex(8)}.new"
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            try:
                write_all(descriptor, memoryview(data))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            temporary.rename(path)
            sync_directory(path.parent)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise DiskFull(store=str(self.root), path=path.name, detail=error.strerror or str(error)) from error

    def materialise(self, digest: Digest) -> Path:
        """A directory with exactly the artifact's files, every one of them hashed just now.

        Hard links where the file system has them, copies otherwise. The files are read-only; what is found
        there but wrong is thrown away and built again from the objects.
        """
        files = self.read_set(digest)
        tree = self.root / "trees" / digest.hex
        with self._locked("trees.lock"):
            for left in (self.root / "tmp").glob("*.building"):
                shutil.rmtree(left, ignore_errors=True)
            if tree.is_dir() and not _tree_sound(tree, files):
                self._discard(tree)
            if not tree.is_dir():
                self._build(tree, files)
        return tree

    def _build(self, tree: Path, files: tuple[FileEntry, ...]) -> None:
        building = self.root / "tmp" / f"{tree.name}.building"
        try:
            for entry in files:
                target = building / entry.path
                target.parent.mkdir(parents=True, exist_ok=True)
                self._place(entry, target)
            building.rename(tree)
        except OSError as error:
            raise StoreUnavailable(store=str(self.root), detail=error.strerror or str(error)) from error
        finally:
            shutil.rmtree(building, ignore_errors=True)

    def _place(self, entry: FileEntry, target: Path) -> None:
        source = self.object_path(entry.sha256)
        if source.is_symlink() or not source.is_file():
            raise ObjectDamaged(path=entry.path, digest=entry.sha256, state="missing")
        _link(source, target)
        if not _file_sound(target, entry):
            raise ObjectDamaged(path=entry.path, digest=entry.sha256, state="damaged")

    def _discard(self, tree: Path) -> None:
        gone = self.root / "tmp" / f"{secrets.token_hex(8)}.new"
        tree.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, _READ)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copyfile(source, target, follow_symlinks=False)
        target.chmod(0o444)


def _file_sound(path: Path, entry: FileEntry) -> bool:
    try:
        with _opened(path) as descriptor:
            return hash_file(descriptor, _no_progress) == entry.sha256
    except OSError:
        return False


def _tree_sound(tree: Path, files: tuple[FileEntry, ...]) -> bool:
    """Whether a directory holds these files with their digests, and nothing else."""
    present = {path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_symlink() or not path.is_dir()}
    return present == {entry.path for entry in files} and all(_file_sound(tree / f.path, f) for f in files)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
