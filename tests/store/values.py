"""Values that tests put into stores."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from stack.core.digest import Digest
from stack.core.names import HostName, ReplicaId, RolloutId, ServiceName
from stack.core.release import Launch, Release, RuntimeVersion
from stack.store.rows import ReplicaRow, RolloutRow, ServiceRow

WHEN = datetime(2026, 3, 4, 5, 6, 7, 890123, tzinfo=UTC)
RUNTIME = RuntimeVersion(engine="llamacpp", distribution="xllamacpp", version="0.2.0", lock=Digest.of(b"lock"))
RELEASE = Release(
    service="tiny",
    model="tiny@1.0",
    artifact=Digest.of(b"artifact"),
    artifact_format="gguf",
    runtime=RUNTIME,
    launch=Launch(),
)
OTHER = replace(RELEASE, model="tiny@1.1", artifact=Digest.of(b"other"))


def rollout(name: str = "ro-aaaaaaaaaa", service: str = "tiny", **changed: object) -> RolloutRow:
    """An open rollout in its first version."""
    row = RolloutRow(
        id=RolloutId(name),
        service=ServiceName(service),
        kind="deploy",
        phase="planned",
        state={"phase": "planned", "rung": 0},
        created_at=WHEN,
        updated_at=WHEN,
    )
    return replace(row, **changed)  # type: ignore[arg-type]


def replica(name: str = "tiny-a-local-0", port: int = 20000, **changed: object) -> ReplicaRow:
    """A replica that is starting."""
    row = ReplicaRow(
        id=ReplicaId(name),
        service=ServiceName("tiny"),
        release=RELEASE.digest,
        host=HostName("local"),
        port=port,
        state="starting",
        slice="candidate",
        updated_at=WHEN,
    )
    return replace(row, **changed)  # type: ignore[arg-type]


def service(**changed: object) -> ServiceRow:
    """A service without releases."""
    return replace(ServiceRow(name=ServiceName("tiny"), updated_at=WHEN), **changed)  # type: ignore[arg-type]
