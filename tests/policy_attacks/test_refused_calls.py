"""Every call that changes something, with every kind of token: who may not is stopped, on record, and raises INC-04.

The real application, guard, access and change desks over a real store; what stands behind them only notes what gets
through. Which role may call what is written down here a second time, as it should be.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import pytest
from attack_world import BEGIN, Counts, World, standard, table
from fastapi import FastAPI
from starlette.testclient import TestClient

from stack.api.permissions import actions_of
from stack.api.server import create_app
from stack.app.access import AccessDesk
from stack.core.caller import Caller

SHARED = "s" * 64
ADMIN = Caller(name="operator", roles=frozenset({"admin"}), shared=True)
DAY = 86400.0
RUNNING = {"admin", "operator"}
JUDGING = {"admin", "approver"}
EVERYBODY = {"admin", "operator", "approver", "auditor", "viewer"}
TOKEN_ID = "tk-aaaaaaaaaa"
CALLS: dict[tuple[str, str], tuple[str, dict[str, Any], set[str]]] = {
    ("/api/v1/plan", ""): ("/api/v1/plan", {}, EVERYBODY),
    ("/api/v1/deploy", ""): ("/api/v1/deploy", {}, RUNNING),
    ("/api/v1/deploy", "dry"): ("/api/v1/deploy", {"dry_run": True}, RUNNING),
    ("/api/v1/rollback", ""): ("/api/v1/rollback", {}, RUNNING),
    ("/api/v1/rollouts/{rollout_id}/resume", ""): ("/api/v1/rollouts/ro-a/resume", {}, RUNNING),
    ("/api/v1/rollouts/{rollout_id}/abort", ""): ("/api/v1/rollouts/ro-a/abort", {"reason": "x"}, RUNNING),
    ("/api/v1/hosts/check", ""): ("/api/v1/hosts/check", {}, RUNNING),
    ("/api/v1/models/register", ""): ("/api/v1/models/register", {"path": "m.yaml"}, RUNNING),
    ("/api/v1/models/scrub", ""): ("/api/v1/models/scrub", {}, RUNNING),
    ("/api/v1/models/{ref}/verify", ""): ("/api/v1/models/tiny@1.0/verify", {}, RUNNING | {"auditor"}),
    ("/api/v1/changes/{change}/approve", ""): ("/api/v1/changes/CHG-1/approve", {"signature": "x"}, JUDGING),
    ("/api/v1/changes/{change}/reject", ""): ("/api/v1/changes/CHG-1/reject", {"reason": "x"}, RUNNING | JUDGING),
    ("/api/v1/changes/{change}/revoke", ""): ("/api/v1/changes/CHG-1/revoke", {"reason": "x"}, JUDGING),
    ("/api/v1/tokens", ""): ("/api/v1/tokens", {"name": "zoe", "roles": ["admin"]}, {"admin"}),
    ("/api/v1/tokens/{token_id}/revoke", ""): (f"/api/v1/tokens/{TOKEN_ID}/revoke", {}, {"admin"}),
    ("/api/v1/alerts/{alert_id}/acknowledge", ""): ("/api/v1/alerts/999/acknowledge", {}, RUNNING | JUDGING),
}
"""(route, variant) -> path, body, the roles that may call it."""
BODIES: tuple[dict[str, Any], ...] = ({}, {"claimed": "admin"})


class Noting:
    """Takes any call, also of a desk's, and notes it."""

    def __init__(self, name: str, calls: list[str]) -> None:
        self._name, self._calls = name, calls

    def __call__(self, *_: Any) -> dict[str, Any]:
        self._calls.append(self._name)
        return {}

    def __getattr__(self, name: str) -> Noting:
        return Noting(name, self._calls)


class Behind:
    """What stands behind the desks. ``calls`` is what got through to it."""

    def __init__(self, access: AccessDesk, changes: Any) -> None:
        self.access, self.changes = access, changes
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Noting:
        return Noting(name, self.calls)


@dataclass
class Api:
    """The application with its tokens: kind -> Authorization headers, and the role that they have, if any."""

    world: World
    app: FastAPI
    behind: Behind
    client: TestClient
    tokens: dict[str, tuple[list[str], str | None]] = field(default_factory=dict)

    def audited(self) -> int:
        return self.world.refused_so_far()

    def call(self, path: str, body: dict[str, Any], headers: list[str]) -> int:
        self.world.clock.sleep(2.0)  # one by one: a flood is told together
        sent = [("Authorization", value) for value in headers]
        return self.client.post(path, json=body, headers=sent).status_code


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    root = tmp_path_factory.mktemp("api")
    world = World.made(root)
    world.clock.at, world.book = BEGIN, standard()
    access = AccessDesk(
        store=world.store,
        shared=lambda: SHARED,
        policies=world.policies,
        refusals=world.refusals,
        permitted=world.permission.permitted,
        clock=world.clock,
    )
    behind = Behind(access, world.desk)
    app = create_app(behind, clock=world.clock)  # type: ignore[arg-type]
    made = Api(world, app, behind, TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=True))
    made.tokens = tokens(access, world)
    yield made
    world.close()


def tokens(access: AccessDesk, world: World) -> dict[str, tuple[list[str], str | None]]:
    """Everything that somebody could come with."""
    kinds: dict[str, tuple[list[str], str | None]] = {"the shared token": ([f"Bearer {SHARED}"], "admin")}
    for role in sorted(EVERYBODY):
        made = access.create_token({"name": f"p-{role}", "roles": [role], "days": 90}, ADMIN)
        kinds[f"role {role}"] = ([f"Bearer {made['token']}"], role)
    over = access.create_token({"name": "late", "roles": ["admin"], "days": 1}, ADMIN)
    gone = access.create_token({"name": "gone", "roles": ["admin"], "days": 90}, ADMIN)
    access.revoke_token(gone["id"], "", ADMIN)
    world.clock.sleep(DAY)
    stored = world.database.execute("select hash from tokens where name = 'p-admin'").fetchone()[0]
    good = kinds["role admin"][0][0]
    nobody = {
        "no token": [],
        "an empty token": ["Bearer "],
        "a wrong token": ["Bearer st_" + "A" * 43],
        "an expired token": [f"Bearer {over['token']}"],
        "a revoked token": [f"Bearer {gone['token']}"],
        "a token's stored hash": [f"Bearer {stored}"],
        "a token cut short": [good[:-1]],
        "a token and more": [good + "A"],
        "a token in other letters": [good.swapcase().replace("bEARER ST_", "Bearer st_")],
        "another scheme": [good.replace("Bearer", "Basic")],
        "two tokens": [good, good],
        "half of the shared token": [f"Bearer {SHARED[:32]}"],
        "an oversized token": ["Bearer " + "A" * 5000],
    }
    return kinds | {kind: (headers, None) for kind, headers in nobody.items()}


def test_every_call_that_changes_something_is_tried_here(api: Api) -> None:
    posts = {path for method, path in actions_of(api.app) if method not in ("GET", "HEAD")}
    assert posts == {route for route, _ in CALLS}


def test_who_may_not_is_stopped_on_record_and_raises_the_alert(api: Api) -> None:
    tally: dict[str, Counts] = {}
    for (route, variant), (kind, (headers, role)), more in product(CALLS, api.tokens.items(), BODIES):
        path, body, roles = CALLS[route, variant]
        before, reached = api.audited(), len(api.behind.calls)
        status = api.call(path, body | more, headers)
        refused, written = status in (401, 403), api.audited() - before
        said = f"{route} {variant} with {kind}: {status}"
        counts = tally.setdefault(kind, Counts())
        counts.attempts += 1
        if role is None or role not in roles:
            counts.refused += 1
            counts.audited += written == 1
            assert status == (401 if role is None else 403), said
            assert (written, len(api.behind.calls)) == (1, reached), said
        else:
            counts.granted += 1
            assert status != 401, said
            assert not refused or "changes" in route, f"{said}: the desk refuses the vote, nothing else does"
    print(table(tally))
    assert sum(counts.attempts for counts in tally.values()) >= 300
    assert sum(c.refused for c in tally.values()) == sum(c.audited for c in tally.values()) >= 300
    assert len(api.behind.calls) >= 2 * 9


def test_a_flood_of_refused_calls_is_on_record_as_a_whole(api: Api) -> None:
    api.world.clock.sleep(60)
    before, flood = api.audited(), 40
    for _ in range(flood):
        assert api.client.post("/api/v1/deploy", json={}).status_code == 401
    api.world.clock.sleep(60)
    api.app.state.ledger.flush()
    written = api.audited() - before
    assert 1 < written < flood
    rows = api.world.database.execute(
        "select body_json from audit where action = 'policy.refused' order by seq desc limit ?", (written,)
    ).fetchall()
    together = [row for (row,) in rows if f"and {flood - written} more such calls" in row]
    assert len(together) == 1, "those that were not told alone are counted in one"
