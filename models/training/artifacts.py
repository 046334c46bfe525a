"""Manifests: what files a version ships, with sizes and digests, and the set digest that names them together.

The set digest is SHA-256 over RFC 8785 canonical JSON of the files, sorted by path. For these values (ASCII
strings and integers) canonical JSON is `json.dumps` with sorted keys and no spaces.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import yaml
from recipes import Recipe

MODEL = "tiny"
LICENCE = "Apache-2.0"
FORMATS = ("gguf", "safetensors")


class FileEntry(TypedDict):
    path: str
    size: int
    sha256: str


class Artifact(TypedDict):
    root: str
    digest: str
    files: list[FileEntry]


def describe(folder: Path) -> list[FileEntry]:
    """Every file in a folder, sorted by path."""
    entries: list[FileEntry] = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        content = path.read_bytes()
        name = path.relative_to(folder).as_posix()
        entries.append({"path": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()})
    return entries


def set_digest(files: Sequence[FileEntry]) -> str:
    """One digest for a set of files."""
    ordered = sorted(files, key=lambda entry: entry["path"])
    canonical = json.dumps(ordered, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def artifact(models: Path, root: str) -> Artifact:
    """The manifest entry for one folder below the manifests."""
    files = describe(models / root)
    return {"root": root, "digest": set_digest(files), "files": files}


def write_manifest(models: Path, recipe: Recipe) -> Path:
    """Write `tiny-<version>.yaml` for the files that are there."""
    name = f"{MODEL}-{recipe.version}"
    manifest = {
        "schema": 1,
        "name": MODEL,
        "version": recipe.version,
        "description": recipe.description,
        "licence": LICENCE,
        "source": recipe.source(),
        "artifacts": {kind: artifact(models, f"{name}/{kind}") for kind in FORMATS},
    }
    path = models / f"{name}.yaml"
    path.write_text(yaml.safe_dump(manifest, sort_keys=False, width=1000), encoding="utf-8")
    return path
