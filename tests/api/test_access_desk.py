"""Tokens, roles, refusals and alerts, over a real store and the policies that ship."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stack.app import access
from stack.app.access import AccessDesk, BadToken, MoreThanOwn, NotPermitted, UnknownToken, token_hash
from stack.config.home import Home
from stack.config.policies import load_policies
from stack.core.actions import Action
from stack.core.caller import Caller
from stack.core.clock import ManualClock
from stack.core.errors import ApprovalNeeded, BypassAttempt
from stack.rollout.gatekeeper import Refusals
from stack.secrets.file import FileSource
from stack.store.errors import StoreFull, UnknownAlert
from stack.store.store import Store, Transaction

SHIPPED = Path(__file__).resolve().parents[2] / "policies"
SHARED = "s" * 64
ADMIN = Caller(name="operator", roles=frozenset({"admin"}), shared=True)
DAY = 86400.0


@dataclass
class Asking:
    """A permission that says yes, unless told to raise; notes what was asked and used."""

    asked: list[tuple[Any, ...]] = field(default_factory=list)
    used: list[str] = field(default_factory=list)
    first: Exception | None = None
    then: Exception | None = None

    def __call__(self, *facts: Any) -> Asking:
        self.asked.append(facts)
        if self.first:
            raise self.first
        return self

    def use(self, tx: Transaction, used_by: str) -> None:
        if self.then:
            raise self.then
        self.used.append(used_by)


@dataclass
class Desk:
    """The desk with what stands behind it."""

    desk: AccessDesk
    store: Store
    clock: ManualClock
    policies: Path
    asking: Asking

    def token(self, *roles: str, name: str = "vera", days: int | None = 90) -> tuple[str, str]:
        made = self.desk.create_token({"name": name, "roles": list(roles), "days": days}, ADMIN)
        return made["id"], made["token"]

    def audited(self) -> list[tuple[str, str, str]]:
        with self.store.reading() as tx:
            return [(r.actor, r.action, r.result) for r in tx.audit_rows(1, 1000)]


@pytest.fixture
def opened(tmp_path: Path) -> Desk:
    shutil.copytree(SHIPPED, tmp_path / "policies")
    home = Home(tmp_path / "home")
    home.create()
    path = home.secret("admin.token")
    path.touch(0o600)
    path.write_text(SHARED + "\n")
    clock, asking = ManualClock(), Asking()
    store = Store.open(home.database, clock)
    read: Callable[[], Any] = lambda: load_policies(tmp_path / "policies")  # noqa: E731
    desk = AccessDesk(
        store=store,
        shared=lambda: FileSource(paths={"admin.token": path}).read("admin.token").reveal(),
        policies=read,
        refusals=Refusals(store=store, clock=clock),
        permitted=asking,
        clock=clock,
    )
    return Desk(desk, store, clock, tmp_path / "policies", asking)


def test_a_token_is_its_owner_until_it_expires(opened: Desk) -> None:
    number, token = opened.token("viewer", days=2)
    assert token.startswith("st_")
    assert len(token) == 46
    caller = opened.desk.authenticate(token)
    assert caller == Caller(name="vera", roles=frozenset({"viewer"}), token=number)
    opened.clock.advance(2 * DAY - 1)
    assert opened.desk.authenticate(token) is not None
    opened.clock.advance(1)
    assert opened.desk.authenticate(token) is None


def test_a_revoked_token_is_nobodys_at_once_and_revoking_twice_is_one_record(opened: Desk) -> None:
    number, token = opened.token("viewer", days=None)
    assert opened.desk.revoke_token(number, "", ADMIN)["revoked_at"]
    assert opened.desk.authenticate(token) is None
    opened.desk.revoke_token(number, "", ADMIN)
    assert [action for _, action, _ in opened.audited()].count("token.revoke") == 1
    with pytest.raises(UnknownToken):
        opened.desk.revoke_token("tk-none", "", ADMIN)


def test_the_token_itself_is_nowhere(opened: Desk, tmp_path: Path) -> None:
    _, token = opened.token("operator")
    opened.store.close()
    kept = b"".join(path.read_bytes() for path in (tmp_path / "home").glob("state.db*"))
    assert token_hash(token).encode() in kept
    assert token.encode() not in kept
    assert token[3:].encode() not in kept


def test_the_shared_token_names_nobody_and_may_be_replaced_while_running(opened: Desk, tmp_path: Path) -> None:
    assert opened.desk.authenticate(SHARED) == ADMIN
    path = tmp_path / "home" / "secrets" / "admin.token"
    path.write_text("n" * 64)
    assert opened.desk.authenticate(SHARED) is None
    assert opened.desk.authenticate("n" * 64) == ADMIN
    for useless in ("", "short"):
        path.write_text(useless)
        assert opened.desk.authenticate(useless) is None
    path.unlink()
    assert opened.desk.authenticate("n" * 64) is None


@given(st.text(alphabet=st.characters(codec="ascii"), max_size=80))
def test_nothing_else_opens(text: str) -> None:
    class Shut:
        def token_by_hash(self, _hash: str) -> None:
            return None

    desk = AccessDesk.__new__(AccessDesk)
    object.__setattr__(desk, "shared", lambda: SHARED)
    object.__setattr__(desk, "store", _reading(Shut()))
    assert desk.authenticate(text) is None


def _reading(tx: Any) -> Any:
    from contextlib import nullcontext

    class Readable:
        def reading(self) -> Any:
            return nullcontext(tx)

    return Readable()


def test_tokens_are_compared_in_constant_time(opened: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[Any, Any]] = []
    real = access.hmac.compare_digest

    def noting(a: Any, b: Any) -> bool:
        compared.append((a, b))
        return bool(real(a, b))

    monkeypatch.setattr(access.hmac, "compare_digest", noting)
    _, token = opened.token("viewer")
    assert opened.desk.authenticate(token)
    assert opened.desk.authenticate(SHARED)
    assert (token.encode(), SHARED.encode()) in compared
    assert (token_hash(token), token_hash(token)) in compared
    assert (SHARED.encode(), SHARED.encode()) in compared


@pytest.mark.parametrize(
    ("role", "may", "may_not"),
    [
        ("viewer", Action.READ, Action.READ_AUDIT),
        ("auditor", Action.READ_AUDIT, Action.DEPLOY),
        ("operator", Action.DEPLOY, Action.CREATE_TOKEN),
        ("approver", Action.APPROVE, Action.DEPLOY),
    ],
)
def test_roles_are_those_of_the_policies(opened: Desk, role: str, may: Action, may_not: Action) -> None:
    caller = Caller(name="vera", roles=frozenset({role}))
    opened.desk.permit(caller, may)
    with pytest.raises(NotPermitted, match=may_not.value):
        opened.desk.permit(caller, may_not)
    assert opened.audited() == [("vera", "policy.refused", "refused")]
    alerts = opened.desk.alerts(open_only=True)["alerts"]
    assert [(a["code"], a["severity"], a["count"]) for a in alerts] == [("INC-04", "critical", 1)]
    assert alerts[0]["body"]["what"] == may_not.value


def test_the_admin_role_may_ask_for_everything(opened: Desk) -> None:
    for action in Action:
        opened.desk.permit(ADMIN, action)
    assert opened.audited() == []


@pytest.mark.parametrize("damage", ["broken", "missing"])
def test_without_good_policies_only_looking_is_left(opened: Desk, damage: str) -> None:
    path = opened.policies / "risk.yaml"
    path.unlink() if damage == "missing" else path.write_text("nonsense: [")
    for action in Action:
        if action in (Action.READ, Action.READ_AUDIT):
            opened.desk.permit(ADMIN, action)
            continue
        with pytest.raises(NotPermitted, match=r"risk\.yaml"):
            opened.desk.permit(ADMIN, action)
    with pytest.raises(NotPermitted):
        opened.desk.permit(Caller(name="x", roles=frozenset({"approver"})), Action.READ)


def test_what_cannot_be_recorded_is_an_error_and_still_a_no(opened: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise StoreFull("no space")

    monkeypatch.setattr(Transaction, "insert_audit", full)
    with pytest.raises(StoreFull):
        opened.desk.permit(Caller(name="x", roles=frozenset()), Action.DEPLOY)
    assert opened.desk.alerts(open_only=True)["alerts"] == []


@pytest.mark.parametrize(
    "request_",
    [
        {"name": "vera", "roles": ["king"]},
        {"name": "vera", "roles": []},
        {"name": "operator", "roles": ["viewer"]},
        {"name": "Unauthenticated", "roles": ["viewer"]},
        {"name": "a b", "roles": ["viewer"]},
        {"name": "", "roles": ["viewer"]},
        {"name": "vera", "roles": ["viewer"], "days": 0},
        {"name": "vera", "roles": ["viewer"], "days": True},
        {"name": "vera", "roles": ["viewer"], "days": 4000},
    ],
)
def test_tokens_that_cannot_be(opened: Desk, request_: dict[str, Any]) -> None:
    with pytest.raises(BadToken):
        opened.desk.create_token(request_, ADMIN)
    assert opened.desk.tokens()["tokens"] == []


def test_nobody_gives_more_than_they_have(opened: Desk) -> None:
    caller = Caller(name="otto", roles=frozenset({"operator"}))
    with pytest.raises(MoreThanOwn):
        opened.desk.create_token({"name": "vera", "roles": ["admin"]}, caller)
    assert opened.audited() == [("otto", "policy.refused", "refused")]
    assert opened.desk.create_token({"name": "vera", "roles": ["viewer"]}, caller)["token"]


@pytest.mark.parametrize("first", [True, False])
def test_without_the_approvals_there_is_no_token(opened: Desk, first: bool) -> None:
    if first:
        opened.asking.first = ApprovalNeeded("two people")
    else:
        opened.asking.then = BypassAttempt("used meanwhile")
    with pytest.raises((ApprovalNeeded, BypassAttempt)):
        opened.token("viewer")
    assert opened.desk.tokens()["tokens"] == []
    assert [result for _, _, result in opened.audited()] == ([] if first else ["refused"])


def test_a_token_is_asked_for_exactly_and_used_up_in_its_transaction(opened: Desk) -> None:
    request = {"name": "vera", "roles": ["viewer"], "days": 3, "change": "CHG-1"}
    made = opened.desk.create_token(request, ADMIN)
    body = {"name": "vera", "roles": ["viewer"], "days": 3}
    assert opened.asking.asked == [(Action.CREATE_TOKEN, "token of vera", body, "CHG-1", ADMIN)]
    assert opened.asking.used == [made["id"]]
    assert opened.audited() == [("operator (shared)", "token.create", "ok")]


def test_refused_calls_count_up_one_alert_until_it_is_acknowledged(opened: Desk) -> None:
    for n in range(3):
        opened.desk.refused(f"POST /api/v1/x{n}", "no token", "127.0.0.1")
    (alert,) = opened.desk.alerts(open_only=True)["alerts"]
    assert alert["count"] == 3
    assert len(opened.audited()) == 3
    assert opened.desk.acknowledge(alert["id"], ADMIN) == {"alerts": []}
    with pytest.raises(UnknownAlert):
        opened.desk.acknowledge(alert["id"], ADMIN)
    opened.desk.refused("POST /api/v1/x", "no token", "127.0.0.1")
    assert len(opened.desk.alerts(open_only=False)["alerts"]) == 2
