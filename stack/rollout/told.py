"""What playbooks are told of a release, and which playbooks those are: both are part of the plan that is approved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stack.core.digest import Digest
from stack.core.release import Release
from stack.runtimes.driver import driver_for


def release_variables(release: Release) -> dict[str, Any]:
    """What the playbooks are told of a release, the same for every replica."""
    provided = driver_for(release.runtime.engine).traits(release.runtime.distribution).provided
    return {
        "release_digest": str(release.digest),
        "runtime_environment": release.runtime.environment,
        "runtime_engine": release.runtime.engine,
        "runtime_distribution": release.runtime.distribution,
        "lock_digest": str(release.runtime.lock),
        "artifact_digest": str(release.artifact),
        "served_model": release.served_model,
        "context": release.launch.context,
        "parallel": release.launch.parallel,
        "threads": release.launch.threads,
        **({"tensor_parallel": release.launch.tensor_parallel} if release.launch.tensor_parallel > 1 else {}),
        **({"runtime_version": release.runtime.version} if provided else {}),
    }


def playbooks_digest(root: Path) -> Digest:
    """One digest over every playbook, role and lock file that will run (path and content)."""
    files = sorted(p for p in root.rglob("*") if p.is_file() and _runs(p.relative_to(root)))
    return Digest.of_value([[p.relative_to(root).as_posix(), Digest.of(p.read_bytes())] for p in files])


def _runs(path: Path) -> bool:
    """Whether it can have a part in what runs: not what tools leave behind (caches, dot-folders)."""
    return "__pycache__" not in path.parts and not any(part.startswith(".") for part in path.parts)
