"""``models/*.yaml``: what a model version is made of, pinned by digest. Every mistake is reported at once.

Checks the text and that the files named are there, regular, of the right size and reached without links.
What is *in* the files is checked when they are registered (``admit``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import yaml

from stack.core.digest import Digest
from stack.core.release import Artifact, ArtifactFormat, FileEntry
from stack.core.strict_yaml import Ledger, Limits, NotReadable, Problem, compose
from stack.registry.errors import ManifestInvalid, UnsafePath
from stack.registry.paths import content_problem, path_problem
from stack.registry.tree import file_size

SCHEMA = 1
FORMATS: tuple[ArtifactFormat, ...] = ("gguf", "safetensors")
MOST_FILES = 10_000
LIMITS = Limits(size=4 << 20, depth=16, values=200_000)
_OF_ARTIFACT = ("root", "digest", "files")
_OF_FILE = ("path", "size", "sha256")
_MOST = 2**53 - 1
_TEXT = 1000
_HEX = re.compile(r"[0-9a-f]{64}\Z")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}\Z")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,62}\Z")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A checked manifest. ``roots`` are relative to ``base``, the directory the manifest lies in."""

    base: Path
    name: str
    version: str
    description: str
    licence: str
    source: str
    artifacts: Mapping[ArtifactFormat, Artifact]
    roots: Mapping[ArtifactFormat, str]


@dataclass(frozen=True, kw_only=True)
class _Listed:
    """A file entry and where it was written."""

    node: yaml.Node
    place: str
    entry: FileEntry


def name_problem(name: str) -> str | None:
    """Why this can't be a model's name, or None."""
    if _NAME.match(name) and ".." not in name:
        return None
    return "use 1-63 of a-z, 0-9, '.', '_', '-', first a letter or digit"


def version_problem(version: str) -> str | None:
    """Why this can't be a model's version, or None."""
    if _VERSION.match(version) and ".." not in version:
        return None
    return "use 1-63 of letters, digits, '.', '_', '+', '-', first a letter or digit"


def load_manifest(path: Path) -> Manifest:
    """Read and check a manifest. Raises ``ManifestInvalid`` with ``errors=[{line, path, problem}, ...]``."""
    try:
        with path.open("rb") as file:
            data = file.read(LIMITS.size + 1)
    except OSError as error:
        raise _invalid(path, [Problem(line=0, path="", problem=(error.strerror or str(error)).lower())]) from error
    ledger = Ledger()
    try:
        manifest = _read(ledger, compose(data, LIMITS), path.parent)
    except NotReadable as unreadable:
        raise _invalid(path, [unreadable.problem]) from unreadable
    if ledger.problems or manifest is None:
        raise _invalid(path, sorted(ledger.problems, key=lambda p: p.line))
    return manifest


def _invalid(path: Path, problems: list[Problem]) -> ManifestInvalid:
    errors = [problem.to_json() for problem in problems]
    return ManifestInvalid(manifest=str(path), count=len(errors), summary="; ".join(map(str, problems)), errors=errors)


def _read(ledger: Ledger, root: yaml.Node, base: Path) -> Manifest | None:
    keys = ("schema", "name", "version", "description", "licence", "source", "artifacts")
    found = ledger.mapping(root, "", keys, keys)
    if "schema" in found and ledger.whole(found["schema"], "schema", 0, _MOST) not in (SCHEMA, None):
        ledger.note(found["schema"], "schema", f"this program reads schema {SCHEMA}")
    texts = {key: ledger.text(found[key], key, 4000) for key in keys[1:-1] if key in found}
    for key, rule in (("name", name_problem), ("version", version_problem)):
        value = texts.get(key)
        problem = rule(value) if value is not None else None
        if problem:
            ledger.note(found[key], key, problem)
    artifacts, roots = _artifacts(ledger, found["artifacts"], base) if "artifacts" in found else ({}, {})
    if ledger.problems:
        return None
    return Manifest(base=base, artifacts=artifacts, roots=roots, **{key: str(texts[key]) for key in texts})


def _artifacts(
    ledger: Ledger, node: yaml.Node, base: Path
) -> tuple[dict[ArtifactFormat, Artifact], dict[ArtifactFormat, str]]:
    artifacts: dict[ArtifactFormat, Artifact] = {}
    roots: dict[ArtifactFormat, str] = {}
    found = ledger.mapping(node, "artifacts", FORMATS)
    if not found and isinstance(node, yaml.MappingNode) and not node.value:
        ledger.note(node, "artifacts", f"at least one of {', '.join(FORMATS)} is needed")
    for key, value in found.items():
        kind = cast(ArtifactFormat, key)
        place = f"artifacts.{key}"
        inner = ledger.mapping(value, place, _OF_ARTIFACT, _OF_ARTIFACT)
        root = _root(ledger, inner["root"], f"{place}.root") if "root" in inner else None
        listed = _files(ledger, inner["files"], f"{place}.files") if "files" in inner else None
        if root is not None and listed is not None:
            _check_files(ledger, listed, base, root)
        digest = _set_digest(ledger, inner["digest"], f"{place}.digest", listed) if "digest" in inner else None
        if root is not None and listed and digest is not None:
            files = tuple(sorted((item.entry for item in listed), key=lambda f: f.path))
            artifacts[kind] = Artifact(format=kind, digest=digest, files=files)
            roots[kind] = root
    return artifacts, roots


def _root(ledger: Ledger, node: yaml.Node, place: str) -> str | None:
    text = ledger.text(node, place, 1024)
    if text is None or text == ".":
        return text
    problem = path_problem(text)
    if problem:
        ledger.note(node, place, problem)
        return None
    return text


def _files(ledger: Ledger, node: yaml.Node, place: str) -> list[_Listed] | None:
    """The entries, or None when any of them is wrong."""
    nodes = ledger.items(node, place, MOST_FILES) or []
    entries = [_file(ledger, item, f"{place}[{index}]") for index, item in enumerate(nodes)]
    listed = [item for item in entries if item is not None]
    seen: set[str] = set()
    for item in listed:
        path = item.entry.path
        if path in seen:
            ledger.note(item.node, f"{item.place}.path", f"{path} is listed twice")
        seen.add(path)
    for item in listed:
        parts = item.entry.path.split("/")
        if any("/".join(parts[:count]) in seen for count in range(1, len(parts))):
            ledger.note(item.node, f"{item.place}.path", f"{item.entry.path} lies inside another listed file")
    return listed if nodes and len(listed) == len(nodes) else None


def _file(ledger: Ledger, node: yaml.Node, place: str) -> _Listed | None:
    found = ledger.mapping(node, place, _OF_FILE, _OF_FILE)
    path = ledger.text(found["path"], f"{place}.path", 4096) if "path" in found else None
    size = ledger.whole(found["size"], f"{place}.size", 0, _MOST) if "size" in found else None
    sha256 = ledger.text(found["sha256"], f"{place}.sha256", _TEXT) if "sha256" in found else None
    problem = (path_problem(path) or content_problem(path)) if path is not None else None
    if problem:
        ledger.note(found["path"], f"{place}.path", f"{path!r:.200}: {problem}")
    if sha256 is not None and not _HEX.match(sha256):
        ledger.note(found["sha256"], f"{place}.sha256", "expected 64 lower-case hex digits")
        return None
    if path is None or size is None or sha256 is None or problem:
        return None
    return _Listed(node=node, place=place, entry=FileEntry(path=path, size=size, sha256=Digest(f"sha256:{sha256}")))


def _check_files(ledger: Ledger, listed: list[_Listed], base: Path, root: str) -> None:
    for item in listed:
        try:
            size = file_size(base, below(root, item.entry.path))
        except UnsafePath as error:
            ledger.note(item.node, f"{item.place}.path", f"{item.entry.path}: {error.facts['reason']}")
            continue
        if size != item.entry.size:
            change = "truncated" if size < item.entry.size else "longer than it should be"
            problem = f"{item.entry.path} has {size} bytes, the manifest says {item.entry.size}: {change}"
            ledger.note(item.node, f"{item.place}.size", problem)


def _set_digest(ledger: Ledger, node: yaml.Node, place: str, listed: list[_Listed] | None) -> Digest | None:
    text = ledger.text(node, place, _TEXT)
    if text is None:
        return None
    if not text.startswith("sha256:") or not _HEX.match(text[7:]):
        ledger.note(node, place, "expected sha256: and 64 lower-case hex digits")
        return None
    if listed is not None:
        actual = Artifact.digest_of(tuple(item.entry for item in listed))
        if actual != text:
            ledger.note(node, place, f"does not agree with the list of files, whose digest is {actual}")
            return None
    return Digest(text)


def below(root: str, path: str) -> str:
    """``path`` below ``root``, where ``.`` is the manifest's own directory."""
    return path if root == "." else f"{root}/{path}"
