"""Giving access in production, with the real policies, requests and signatures: two people, for exactly this, once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from approving import Office, caller

from stack.app.access import AccessDesk
from stack.app.permission import Permission
from stack.core.errors import ApprovalNeeded, StackError
from stack.rollout.gatekeeper import Refusals

WANTED = {"name": "vera", "roles": ["viewer"], "days": 30, "change": "CHG-7"}
ADMIN = caller("operator", shared=True)


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office.made(tmp_path)


def desk_of(office: Office, environment: str) -> AccessDesk:
    refusals = Refusals(store=office.store, clock=office.clock)
    permission = Permission(
        store=office.store,
        gatekeeper=office.gatekeeper,
        refusals=refusals,
        policies=office.policies,
        environment_of_stack=environment,
        clock=office.clock,
    )
    return AccessDesk(
        store=office.store,
        shared=lambda: "",
        policies=office.policies,
        refusals=refusals,
        permitted=permission.permitted,
        clock=office.clock,
    )


def asked(desk: AccessDesk, by: Any = ADMIN, **changed: Any) -> ApprovalNeeded:
    with pytest.raises(ApprovalNeeded) as caught:
        desk.create_token({**WANTED, **changed}, by)
    return caught.value


def approved(office: Office, waits: ApprovalNeeded, *names: str) -> None:
    with office.store.reading() as tx:
        row = tx.request(str(waits.facts["request"]))
    for name in names:
        office.vote(name, row)


def test_in_dev_nothing_is_asked(office: Office) -> None:
    assert desk_of(office, "dev").create_token({**WANTED, "change": None}, ADMIN)["token"]


def test_in_production_it_waits_and_goes_ahead_once_when_enough_people_agree(office: Office) -> None:
    desk, by = desk_of(office, "production"), caller("dan")
    waits = asked(desk, by)
    assert waits.exit_code == 7
    approved(office, waits, "ann")
    assert asked(desk, by).facts["request"] == waits.facts["request"]
    approved(office, waits, "bob")
    made = desk.create_token(WANTED, by)
    assert desk.authenticate(made["token"])
    assert asked(desk, by).facts["request"] != waits.facts["request"], "an approval is good for one token"
    assert len(desk.tokens()["tokens"]) == 1


def test_who_asks_with_the_shared_token_needs_one_more(office: Office) -> None:
    desk = desk_of(office, "production")
    waits = asked(desk)
    approved(office, waits, "ann", "bob")
    asked(desk)
    approved(office, waits, "cid")
    assert desk.create_token(WANTED, ADMIN)["token"]


@pytest.mark.parametrize(
    "changed", [{"name": "eve"}, {"roles": ["admin"]}, {"days": 31}, {"days": None}, {"change": "CHG-8"}], ids=str
)
def test_an_approval_is_for_exactly_this_token(office: Office, changed: dict[str, Any]) -> None:
    desk, by = desk_of(office, "production"), caller("dan")
    approved(office, asked(desk, by), "ann", "bob")
    asked(desk, by, **changed)
    assert desk.tokens()["tokens"] == []


def test_without_a_ticket_nobody_can_be_asked(office: Office) -> None:
    waits = asked(desk_of(office, "production"), change=None)
    assert waits.facts["request"] == ""


def test_a_demoted_approver_does_not_count_when_it_is_used(office: Office) -> None:
    desk, by = desk_of(office, "production"), caller("dan")
    approved(office, asked(desk, by), "ann", "bob")
    office.write_people({"ann": (), "bob": ("security",), "dan": ()})
    with pytest.raises(StackError):
        desk.create_token(WANTED, by)
    assert desk.tokens()["tokens"] == []


def test_taking_access_away_needs_nobody(office: Office) -> None:
    made = desk_of(office, "dev").create_token({**WANTED, "change": None}, ADMIN)
    desk = desk_of(office, "production")
    assert desk.revoke_token(made["id"], "", caller("dan"))["revoked_at"]
    assert desk.authenticate(made["token"]) is None
