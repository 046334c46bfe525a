"""``database copy``, ``database show`` and what ``doctor`` says of the database, with real databases."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stack.app.database_copy import COPIED, NotEmpty, StillLed, TreeDiffers, copy, intended
from stack.app.database_look import Finding, findings
from stack.audit.append import append
from stack.audit.chain import verify
from stack.audit.record import AuditRecord
from stack.core.clock import SystemClock
from stack.store.copying import counts
from stack.store.looking import LEASE, Look, look
from stack.store.migrations import STEPS
from stack.store.store import Store
from tests.store.postgres_server import Server
from tests.store.values import RELEASE, rollout

CLOCK = SystemClock()
ROOT = Path(__file__).parents[2]
WELL = Look(kind="postgresql", version="15.1", schema=len(STEPS), sound="ok")


def note(store: Store, number: int) -> None:
    with store.transaction() as tx:
        append(tx, AuditRecord(actor="w", action="step", target=str(number), change="c", result="ok"), CLOCK)


@pytest.fixture
def source(tmp_path: Path) -> Store:
    """State with a log of five records."""
    store = Store.open(tmp_path / "state.db", CLOCK)
    with store.transaction() as tx:
        tx.put_release(RELEASE)
        tx.insert_rollout(rollout())
    for number in range(5):
        note(store, number)
    return store


def copied(source: Store, url: str) -> dict[str, Any]:
    target = Store.open(url, CLOCK)
    try:
        return copy(source, target, url, "ann", CLOCK, lambda _: None)
    finally:
        target.close()


def test_it_arrives_with_its_log_and_a_second_time_there_is_nothing_to_do(source: Store, server: Server) -> None:
    url = server.url(server.new_database())
    assert intended(source, url, CLOCK, None)["rows"]["audit"] == 5
    assert copied(source, url)["copied"] is True
    again = copied(source, url)
    assert (again["copied"], "already" in again["reason"]) == (False, True)
    assert intended(source, url, CLOCK, None)["dry_run"] is True
    target = Store.open(url, CLOCK)
    with target.reading() as new, source.reading() as old:
        rows = new.audit_rows()
        assert verify(rows).ok and rows[:5] == old.audit_rows() and rows[5].action == COPIED
        assert (rows[5].actor, new.leaf_count()) == ("ann", 6)
        assert new.rollout("ro-aaaaaaaaaa") == old.rollout("ro-aaaaaaaaaa")
        assert old.last_audit() == rows[4], "the source stays as it is"
    note(target, 9)
    target.close()
    with pytest.raises(NotEmpty):
        copied(source, url)
    with pytest.raises(NotEmpty):
        intended(source, url, CLOCK, None)


def test_not_while_a_control_plane_leads(source: Store, server: Server) -> None:
    url = server.url(server.new_database())
    with source.transaction() as tx:
        lease = tx.acquire_lease(LEASE, "host/home", 600)
    with pytest.raises(StillLed, match="host/home"):
        copied(source, url)
    with pytest.raises(StillLed):
        intended(source, url, CLOCK, None)
    with source.transaction() as tx:
        assert lease is not None and tx.release_lease(lease)
    assert copied(source, url)["rows"]["leases"] == 1
    target = Store.open(url, CLOCK)
    with target.transaction() as tx:
        after = tx.acquire_lease(LEASE, "host/home", 600)
    target.close()
    assert after is not None and after.epoch == lease.epoch + 1, "hosts have seen the old epoch"


def test_a_log_that_does_not_hold_is_not_copied(source: Store, server: Server, tmp_path: Path) -> None:
    url = server.url(server.new_database())
    with source.transaction() as tx:
        for statement in (
            "DROP TRIGGER audit_no_update",
            "UPDATE audit SET actor = 'mallory' WHERE seq = 3",
        ):
            tx._connection.exec_driver_sql(statement)
    with pytest.raises(TreeDiffers, match="3"):
        copied(source, url)
    target = Store.open(url, CLOCK)
    with target.reading() as tx:
        assert sum(counts(tx).values()) == 0
    target.close()


def ctl(home: Path, *words: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "stack.cli", *words, "--json"],
        cwd=ROOT,
        env={**os.environ, "STACK_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=250,
    )
    return done.returncode, json.loads(done.stdout)


def test_by_the_command_line(source: Store, server: Server, tmp_path: Path) -> None:
    url = server.url(server.new_database())
    source.close()
    code, body = ctl(tmp_path, "database", "copy", "--to", url)
    assert (code, body["copied"], body["rows"]["audit"]) == (0, True, 6)
    code, body = ctl(tmp_path, "database", "copy", "--to", "sqlite:////tmp/x.db")
    assert (code, body["error"]["code"]) == (2, "BadDatabase")
    code, body = ctl(tmp_path, "database", "show")
    assert code == 0 and body["ok"] is True
    assert {row["name"] for row in body["findings"]} >= {"database", "database migrations", "database disk"}


def test_looking_changes_nothing_and_finds_a_standby(server: Server, tmp_path: Path) -> None:
    assert look(tmp_path / "none.db", CLOCK) is None and not (tmp_path / "none.db").exists()
    name = server.new_database()
    empty = look(server.url(name), CLOCK)
    assert empty is not None and (empty.schema, empty.lease) == (0, None)
    assert server.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'", name)[0][0] == 0
    Store.open(server.url(name)).close()
    other = server.copy().start()
    try:
        seen = look(other.url(name), CLOCK)
    finally:
        other.remove()
    assert seen is not None and seen.recovering
    assert by_name(seen)["database writable"].level == "fail"


@pytest.mark.parametrize("check_s", [0.0, 30.0])
def test_the_whole_check_is_bounded(source: Store, tmp_path: Path, check_s: float) -> None:
    with source.transaction() as tx:
        for number in range(3000):
            tx.add_event("ro-aaaaaaaaaa", "progress", f"{number} " * 20)
    source.close()
    seen = look(tmp_path / "state.db", CLOCK, check_s=check_s)
    assert seen is not None
    assert seen.sound == ("ok" if check_s else "")


def by_name(seen: Look) -> dict[str, Finding]:
    return {found.name: found for found in findings(seen)}


@pytest.mark.parametrize(
    ("change", "name", "level"),
    [
        (lambda s: s, "database", "ok"),
        (lambda s: replace(s, schema=1), "database migrations", "warn"),
        (lambda s: replace(s, schema=99), "database migrations", "fail"),
        (lambda s: replace(s, recovering=True), "database writable", "fail"),
        (lambda s: replace(s, read_only=True), "database writable", "fail"),
        (lambda s: replace(s, skew_s=1.0), "database clock", "ok"),
        (lambda s: replace(s, skew_s=-5.0, skew_within_s=4.0), "database clock", "ok"),
        (lambda s: replace(s, skew_s=-5.0), "database clock", "warn"),
        (lambda s: replace(s, skew_s=3600.0), "database clock", "fail"),
        (lambda s: replace(s, sound=""), "database integrity", "ok"),
        (lambda s: replace(s, sound="row 3 missing from index"), "database integrity", "fail"),
        (lambda s: s, "database lease", "warn"),
    ],
)
def test_what_is_found_is_judged(change: Callable[[Look], Look], name: str, level: str) -> None:
    found = by_name(change(WELL))[name]
    assert found.level == level
    assert bool(found.todo) is (level != "ok")
