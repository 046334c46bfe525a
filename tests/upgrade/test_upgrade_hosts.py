"""The rollouts that the release before left open, driven by the real performer over hosts where its replicas still run.

An upgrade brings other playbooks, so what is on its way forward is not what was planned any more: it goes back, with
that reason, and clients stay on what served. What is past the decision is brought to its end. Where the playbooks
are the same, all of it goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from older import dumps, rows
from older_stack import OlderStack, older_stack
from running_stack import until

from stack.audit.chain import verify

pytestmark = pytest.mark.faults  # two minutes: each test has a gateway process of its own
OTHER = "what would be done is not what was planned any more: playbooks"
FORWARD = ("planned", "preflight", "placing", "warming", "smoking", "evaluating", "shifting", "holding", "paused")
GOES_ON = (
    "first-evaluating",
    "deploy-planned",
    "deploy-preflight",
    "deploy-placing",
    "deploy-warming",
    "deploy-shifting-5",
    "deploy-holding-25",
    "unsure-paused",
    "quiet-paused",
    "back-planned",
    "cold-placing",
)
Count = Callable[[str, str, str], None]


def end(found: OlderStack) -> tuple[str, str]:
    """Drive; resume what is paused once it has shown that it waits. How it ended, and why."""
    rollout, files = found.was["id"], found.made.files
    found.made.operator.start()
    if found.was["phase"] == "paused":
        until(
            lambda: (lease := files.rows("select epoch, expires_s from leases")[0])["epoch"] > 1 and lease["expires_s"]
        )
        assert files.row(rollout)["phase"] == "paused"
        with found.made.operator.store.transaction() as tx:
            tx.add_event(rollout, "request", "resume", {"what": "resume", "by": "ann"})
    row = files.ended(rollout, also=())
    return row["phase"], row["reason"]


def in_order(found: OlderStack, ended: str) -> None:
    """What serves, what runs, and what the gateway routes by agree; clients get answers; the log is whole."""
    was, files = found.was, found.made.files
    with found.made.operator.store.reading() as tx:
        service, live, records = tx.service("tiny"), tx.replicas(live_only=True), tx.audit_rows(1, 100_000)
    new = was["release"]
    if was["kind"] == "rollback":
        wanted = new if ended == "rolled_back" else found.before["services"][0]["stable"]
    else:
        wanted = new if ended == "promoted" else was["stable"]
    assert service.stable == wanted
    assert service.candidate is None
    assert dict(service.weights) == ({"stable": 100} if wanted else {})
    assert {str(r.id) for r in live if r.state == "ready"} == {
        name for name, (process, _) in found.host.running.items() if process.poll() is None
    }
    assert verify(records).ok
    assert len(records) > len(found.before["audit"])
    assert [r.hash for r in records[: len(found.before["audit"])]] == [r["hash"] for r in found.before["audit"]]
    assert len(found.host.told) == len(set(found.host.told)), "nothing twice"
    until(lambda: files.control.health().get("table_version") == rows(files.home / "state.db")["counters"][0]["value"])
    if wanted:
        status, headers, _ = files.ask()
        assert (status, headers["x-stack-release"]) == (200, wanted)


@pytest.mark.parametrize("name", dumps())
def test_nothing_is_stranded_by_other_playbooks(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: Count
) -> None:
    with older_stack(tmp_path, monkeypatch, name, same_playbooks=False) as found:
        was = found.was
        phase, reason = end(found)
        if was["kind"] == "deploy":
            assert phase == ("promoted" if was["phase"] in ("promoting", "retiring") else "rolled_back")
            assert was["phase"] not in FORWARD or reason.endswith(OTHER)
        else:
            assert phase == ("failed" if was["phase"] in ("planned", "cleaning") else "rolled_back")
        if was["phase"] == "planned":
            assert reason.endswith(OTHER)
            assert found.host.told == [], "nothing was touched"
        in_order(found, phase)
    ended("stand-in host, as upgraded", was["phase"], phase)


@pytest.mark.parametrize("name", GOES_ON)
def test_with_the_same_playbooks_it_all_goes_on(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: Count
) -> None:
    with older_stack(tmp_path, monkeypatch, name, same_playbooks=True) as found:
        was = found.was
        phase, reason = end(found)
        assert phase == ("promoted" if was["kind"] == "deploy" else "rolled_back"), reason
        in_order(found, phase)
    ended("stand-in host, same playbooks", was["phase"], phase)


def test_a_replica_that_was_not_started_yet_is_started_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with older_stack(tmp_path, monkeypatch, "deploy-placing", same_playbooks=True, placed=False) as found:
        assert end(found)[0] == "promoted"
        mine = found.was["placements"][0]["replica"]
        assert found.host.told == [f"start {mine}"]
        in_order(found, "promoted")
