"""Which hosts a playbook is told to take an artifact from: allowed to give, and shown to have it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from stack.core.clock import ManualClock
from stack.core.digest import Digest
from stack.core.names import HostName, ReplicaId, ServiceName
from stack.core.release import Launch, Release, RuntimeVersion
from stack.fleet.values import Host, peer_line
from stack.fleet.variables import MOST_PEERS, PLAYBOOKS
from stack.rollout.peers import peers_for
from stack.store.rows import ReplicaRow
from stack.store.store import Store

RELEASE = Release(
    service="tiny",
    model="tiny@1",
    artifact=Digest.of(b"artifact"),
    artifact_format="gguf",
    runtime=RuntimeVersion(engine="llamacpp", distribution="xllamacpp", version="1", lock=Digest.of(b"one")),
    launch=Launch(),
)
OTHER_RUNTIME = replace(RELEASE, runtime=replace(RELEASE.runtime, version="2"))
OTHER_ARTIFACT = replace(RELEASE, artifact=Digest.of(b"another"))


def host(number: int, *, shares: bool = True, root: str = "/opt/stack") -> Host:
    return Host(
        name=HostName(f"h{number}"), connection="ssh", address=f"10.0.0.{number}", root=root, shares=shares, user="me"
    )


def told(folder: Path, giver: Host, loaded: Release, *, observed: bool = True, live: bool = True) -> list[str]:
    """What h1 is told when this host runs that release."""
    store = Store.open(f"sqlite:///{folder / 'state.db'}")
    with store.transaction() as tx:
        for release in (RELEASE, OTHER_RUNTIME, OTHER_ARTIFACT):
            tx.put_release(release)
        tx.put_replica(
            ReplicaRow(
                id=ReplicaId("r1"),
                service=ServiceName("tiny"),
                release=loaded.digest,
                host=giver.name,
                port=20001,
                state="ready" if live else "gone",
                slice="stable",
                observed_digest=loaded.digest if observed else None,
                updated_at=ManualClock().now(),
            )
        )
    inventory = {one.name: one for one in (host(1), giver)}
    return peers_for(store, inventory, RELEASE, HostName("h1"))


def test_a_host_that_runs_the_artifact_gives_it_whatever_the_runtime(tmp_path: Path) -> None:
    (line,) = told(tmp_path, host(2), OTHER_RUNTIME)
    assert line == "h2 10.0.0.2 10.0.0.2 22 me /opt/stack python3"
    assert PLAYBOOKS["deploy.yml"][1]["peers"]([line])


def test_a_host_that_may_not_give_is_not_named(tmp_path: Path) -> None:
    assert told(tmp_path, host(2, shares=False), RELEASE) == []


def test_a_host_that_runs_something_else_is_not_named(tmp_path: Path) -> None:
    assert told(tmp_path, host(2), OTHER_ARTIFACT) == []


@pytest.mark.parametrize("missing", ["observed", "live"])
def test_a_host_that_has_not_shown_it_is_not_named(tmp_path: Path, missing: str) -> None:
    assert told(tmp_path, host(2), RELEASE, observed=missing != "observed", live=missing != "live") == []


def test_a_host_is_not_its_own_peer_and_one_with_a_blank_in_its_root_is_none(tmp_path: Path) -> None:
    assert told(tmp_path, host(1), RELEASE) == []
    (tmp_path / "other").mkdir()
    assert told(tmp_path / "other", host(2, root="/opt/a b"), RELEASE) == []


@pytest.mark.parametrize(
    "line",
    [
        "h2 10.0.0.2 10.0.0.2 22 me /opt/stack",
        "h2 -oProxyCommand=x 10.0.0.2 22 me /opt/stack python3",
        "h2 10.0.0.2 10.0.0.2 22 -x /opt/stack python3",
        "h2 10.0.0.2 10.0.0.2 22 me opt python3",
        "h2 10.0.0.2 10.0.0.2 22 me /opt/$(id) python3",
        "h2 10.0.0.2 10.0.0.2 22 me /opt/{{x}} python3",
        "h2 10.0.0.2 10.0.0.2 22 me /opt/stack sh",
        "h2 10.0.0.2 10.0.0.2 22 me /opt/stack python3\n",
        7,
    ],
)
def test_what_is_no_line_of_a_peer_is_not_taken(line: object) -> None:
    rule = PLAYBOOKS["place.yml"][1]["peers"]
    assert not rule([line])
    assert not rule(line)
    assert not rule([peer_line(host(2))] * (MOST_PEERS + 1))
