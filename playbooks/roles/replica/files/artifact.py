#!/usr/bin/env python3
"""Put an artifact's files in place on this host, named by their digest; nothing unverified ever has the final name.

    artifact.py place ROOT sha256:<hex> [SOURCE]     # copy from SOURCE if given, hash every file, rename into place
    artifact.py check ROOT sha256:<hex>              # exit 0 when it is in place and every byte is right

The digest is over the canonical JSON of ``[{path, sha256, size}, ...]`` sorted by path, so it alone says which files
belong to the artifact. A wrong file removes the whole partial directory, unless it was received in checked chunks:
then receive.py says which of it is wrong. Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

WRONG, MISSING = 65, 66


class WrongArtifact(Exception):
    """The files are not the ones that the digest names."""


def describe(folder: Path) -> List[Dict[str, Any]]:
    """Every file below ``folder``, hashed now. Links and special files are refused."""
    rows = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise WrongArtifact(f"{path} is not a plain file")
        if path.is_file():
            rows.append({"path": path.relative_to(folder).as_posix(), **hash_file(path)})
    return sorted(rows, key=lambda row: str(row["path"]))


def hash_file(path: Path) -> Dict[str, Any]:
    """Size and SHA-256 of a file as read from the disk."""
    digest, size = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            size += len(block)
    return {"sha256": digest.hexdigest(), "size": size}


def set_digest(rows: List[Dict[str, Any]]) -> str:
    """The artifact digest of these rows, ``sha256:<hex>``."""
    text = json.dumps(rows, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "sha256:" + hashlib.sha256(text.encode("utf-8")).hexdigest()


def verify(folder: Path, digest: str) -> List[Dict[str, Any]]:
    """The rows of ``folder`` when they are exactly what ``digest`` names; else WrongArtifact."""
    rows = describe(folder)
    if set_digest(rows) != digest:
        listed = ", ".join(f"{r['path']} ({r['size']} bytes, sha256 {r['sha256'][:12]})" for r in rows) or "no file"
        raise WrongArtifact(f"{folder} is not {digest}: found {listed}")
    return rows


def place(root: Path, digest: str, source: Optional[Path]) -> None:
    """Make ``artifacts/<hex>`` exist with exactly these bytes, or raise and leave nothing behind."""
    final = root / "artifacts" / digest[7:]
    partial = final.with_name(final.name + ".partial")
    notes = partial.with_name(partial.name + ".chunks")
    if final.is_dir():
        try:
            verify(final, digest)
            shutil.rmtree(partial, ignore_errors=True)
            _forget(partial)
            return
        except WrongArtifact as error:
            print(f"damaged on the host, placing it again: {error}")
    try:
        if source is not None:
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(source, partial, symlinks=True)
        verify(partial, digest)
        _swap_in(partial, final)
        _forget(partial)
    except BaseException:
        if source is not None or not notes.exists():
            shutil.rmtree(partial, ignore_errors=True)
        raise


def _forget(partial: Path) -> None:
    """What receive.py kept beside it."""
    for kept in (".chunks", ".sources"):
        partial.with_name(partial.name + kept).unlink(missing_ok=True)


def _swap_in(partial: Path, final: Path) -> None:
    for path in [*partial.rglob("*"), partial]:
        os.chmod(path, 0o755 if path.is_dir() else 0o444)
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    if final.is_dir():
        damaged = final.with_name(f"{final.name}.damaged.{os.getpid()}")
        os.rename(final, damaged)
        shutil.rmtree(damaged, ignore_errors=True)
    os.rename(partial, final)


def main() -> int:
    """The command."""
    verb, root, digest = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    try:
        if verb == "place":
            place(root, digest, Path(sys.argv[4]) if len(sys.argv) > 4 else None)
        else:
            verify(root / "artifacts" / digest[7:], digest)
    except WrongArtifact as error:
        print(f"artifact refused: {error}")
        return WRONG
    except OSError as error:
        print(f"artifact not placed: {error}")
        return MISSING
    return 0


if __name__ == "__main__":
    sys.exit(main())
