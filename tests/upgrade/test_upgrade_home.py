"""``stackctl up`` on the state directory of the release before, and the way back to that release.

That release is not here to be run: ``try_upgrade.py`` does so, with real engines, where a checkout of it is.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from older import dumps, open_rollout, restore, rows
from older_stack import home_of, stack_file
from running_stack import REPOSITORY, RunningStack, free_ports
from sqlalchemy import text

from stack.core.clock import SystemClock
from stack.store import migrations
from stack.store.errors import StoreTooNew
from stack.store.store import Store

NEW_SECRET = "checkpoint.key"


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[RunningStack]:
    """A stack file without a word on policies, and none beside it; a rollout that had not begun."""
    home, _ = home_of(tmp_path, "first-planned")
    home.secret(NEW_SECRET).unlink()
    path = stack_file(tmp_path)
    path.write_text("".join(line for line in path.read_text().splitlines(True) if not line.startswith("policies")))
    made = RunningStack(home.root, path, *free_ports(2))
    yield made
    made.down()


def test_up_makes_what_is_new_and_says_what_it_lacks(stack: RunningStack) -> None:
    kept = {p.name: p.read_bytes() for p in (stack.home / "secrets").iterdir()}
    before = rows(stack.home / "state.db")
    rollout = open_rollout(before)["id"]
    stack.up()
    assert {p.name: p.read_bytes() for p in (stack.home / "secrets").iterdir() if p.name != NEW_SECRET} == kept
    assert (stack.home / "secrets" / NEW_SECRET).stat().st_mode & 0o777 == 0o600
    ended = stack.ended(rollout)
    assert ended["phase"] == "rolled_back"
    assert "policies" in ended["reason"]
    assert stack.ctl("status").returncode == 0, "looking works without policies"
    assert stack.ctl("audit", "verify").returncode == 0
    plan, deploy = stack.ctl("plan"), stack.ctl("deploy", "--model", "tiny@1.1")
    assert (plan.returncode, deploy.returncode) == (2, 3)
    for said in (plan, deploy):
        assert "policies" in said.stderr
    shutil.copytree(REPOSITORY / "policies", stack.stack_yaml.parent / "policies")
    assert stack.ctl("plan").returncode == 0, "what is put there counts at once"
    assert stack.must("up", "--stack", str(stack.stack_yaml))["control_plane"]["started"] is False


def test_while_the_release_before_runs_its_database_is_left_alone(stack: RunningStack) -> None:
    """Both hold the same lock, before the database is opened."""
    before = rows(stack.home / "state.db")
    with (stack.home / "run" / "control-plane.lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        refused = stack.ctl("up", "--stack", str(stack.stack_yaml))
    assert refused.returncode == 5
    assert "Another control plane works on" in refused.stderr
    assert rows(stack.home / "state.db") == before


@pytest.mark.parametrize("name", sorted(dumps())[::9])
def test_the_release_before_refuses_what_was_migrated_and_changes_nothing(name: str, tmp_path: Path) -> None:
    """As its programs did: the same check, with the steps that it knew."""
    path = restore(name, tmp_path / "state.db")
    Store.open(path, SystemClock()).close()
    was = hashlib.sha256(path.read_bytes()).hexdigest()
    store = Store(*_parts(path))
    with pytest.raises(StoreTooNew) as refused, store._connected() as connection:
        connection.execute(text("BEGIN IMMEDIATE"))
        migrations.migrate(connection, store._dialect, str(path), migrations.STEPS[:1])
    store.close()
    assert refused.value.exit_code == 4
    assert "newer inference-stack" in json.dumps(refused.value.hint)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == was


def _parts(path: Path) -> tuple[object, object, SystemClock]:
    from stack.store.dialect import dialect_for

    dialect = dialect_for(path, None)
    return dialect.engine(), dialect, SystemClock()
