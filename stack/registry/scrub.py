"""Scrubbing: every object hashed; what is damaged is set aside, what is damaged or missing fetched from a second copy.

A second copy is another store's root, or any tree that has the files (an artifact's original directory). Its
content is believed only if it has the digest.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stack.core.digest import Digest
from stack.core.errors import InvalidInput
from stack.registry.catalogue import records
from stack.registry.errors import RecordDamaged, UnsafePath
from stack.registry.progress import ProgressCallback, Tally
from stack.registry.store import ContentStore, ObjectState
from stack.registry.streams import copy_and_hash
from stack.registry.tree import open_below


@dataclass(frozen=True, kw_only=True)
class ScrubReport:
    """What scrubbing found and did. ``ok`` if, at the end, everything that is registered is whole."""

    checked: int
    damaged: tuple[Digest, ...]
    missing: tuple[Digest, ...]
    repaired: tuple[Digest, ...]
    broken_records: tuple[str, ...]

    @property
    def unrepaired(self) -> tuple[Digest, ...]:
        """Damaged or missing, and still so."""
        return tuple(digest for digest in (*self.damaged, *self.missing) if digest not in self.repaired)

    @property
    def ok(self) -> bool:
        """Whether nothing is left to repair."""
        return not self.unrepaired and not self.broken_records

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        lists = ("damaged", "missing", "repaired", "unrepaired", "broken_records")
        return {"ok": self.ok, "checked": self.checked, **{name: list(getattr(self, name)) for name in lists}}


def scrub(
    store: ContentStore, repair_from: Path | None = None, progress: ProgressCallback | None = None
) -> ScrubReport:
    """Check the whole store, repairing it as far as a second copy allows."""
    with store.writing():
        wanted, broken = _wanted(store)
        present = dict(_objects(store))
        tally = Tally(sum(present.values()), progress)
        states = _check(store, present, wanted, tally)
        damaged = sorted(digest for digest, state in states.items() if state == "damaged")
        for digest in damaged:
            store.quarantine(digest)
        missing = sorted(wanted.keys() - present.keys())
        lost = {digest: wanted.get(digest) for digest in (*damaged, *missing)}
        repaired = _repair(store, lost, repair_from) if repair_from is not None and lost else ()
        return ScrubReport(
            checked=len(states),
            damaged=tuple(damaged),
            missing=tuple(missing),
            repaired=repaired,
            broken_records=tuple(broken),
        )


def _wanted(store: ContentStore) -> tuple[dict[Digest, int], list[str]]:
    """What the sets and records need, with sizes; and which of them can't be read."""
    wanted: dict[Digest, int] = {}
    broken: list[str] = []
    for path in sorted((store.root / "sets").glob("*.json")):
        try:
            files = store.read_set(Digest(f"sha256:{path.stem}"))
            wanted.update((entry.sha256, entry.size) for entry in files)
        except (RecordDamaged, InvalidInput):
            broken.append(f"sets/{path.name}")
    for record in records(store, broken):
        wanted.update((entry.sha256, entry.size) for entry in record.model.artifact.files)
        if not store.set_path(record.model.artifact.digest).exists():
            broken.append(f"sets/{record.model.artifact.digest.hex}.json")
    return wanted, broken


def _objects(store: ContentStore) -> Iterator[tuple[Digest, int]]:
    for path in sorted((store.root / "objects").glob("??/*")):
        try:
            yield Digest(f"sha256:{path.name}"), path.lstat().st_size
        except InvalidInput:
            continue


def _check(
    store: ContentStore, present: dict[Digest, int], wanted: dict[Digest, int], tally: Tally
) -> dict[Digest, ObjectState]:
    def check(digest: Digest) -> ObjectState:
        return store.check_object(digest, wanted.get(digest), lambda count: tally.add(digest.short, count))

    with ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
        return dict(zip(present, pool.map(check, present), strict=True))


def _repair(store: ContentStore, lost: dict[Digest, int | None], second: Path) -> tuple[Digest, ...]:
    """What could be fetched, each verified as it is copied."""
    return tuple(d for d, size in lost.items() if any(_fetch(store, d, second, p) for p in _copies(second, d, size)))


def _copies(second: Path, digest: Digest, size: int | None) -> Iterator[str]:
    """Paths below ``second`` that may hold this content: a store's object, or any file of the size."""
    if (second / "objects").is_dir() and (second / "sets").is_dir():
        yield f"objects/{digest.hex[:2]}/{digest.hex}"
        return
    for path in sorted(second.rglob("*")):
        status = path.lstat()
        if stat.S_ISREG(status.st_mode) and size in (None, status.st_size):
            yield path.relative_to(second).as_posix()


def _fetch(store: ContentStore, digest: Digest, second: Path, path: str) -> bool:
    partial = store.partial_path(digest)
    partial.unlink(missing_ok=True)
    try:
        with open_below(second, path) as source:
            target = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                found = copy_and_hash(source, target, lambda _: None)
            finally:
                os.close(target)
    except UnsafePath:
        return False
    except OSError:
        partial.unlink(missing_ok=True)
        return False
    if found != digest:
        partial.unlink()
        return False
    store.publish_object(digest)
    return True
