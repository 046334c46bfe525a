"""How two model versions differ: files by content, and what their headers say. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stack.core.release import ModelVersion


@dataclass(frozen=True, kw_only=True)
class Difference:
    """``changed`` files are in both with other content; ``metadata`` maps a key to (before, after)."""

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    metadata: dict[str, tuple[Any, Any]]

    @property
    def same_content(self) -> bool:
        """Whether both have the same files with the same content."""
        return not (self.added or self.removed or self.changed)


def difference(before: ModelVersion, after: ModelVersion) -> Difference:
    """What changed from one model version to another."""
    old = {entry.path: entry.sha256 for entry in before.artifact.files}
    new = {entry.path: entry.sha256 for entry in after.artifact.files}
    keys = sorted(before.metadata.keys() | after.metadata.keys())
    pairs = {key: (before.metadata.get(key), after.metadata.get(key)) for key in keys}
    return Difference(
        added=tuple(sorted(new.keys() - old.keys())),
        removed=tuple(sorted(old.keys() - new.keys())),
        changed=tuple(sorted(path for path in old.keys() & new.keys() if old[path] != new[path])),
        metadata={key: pair for key, pair in pairs.items() if pair[0] != pair[1]},
    )
