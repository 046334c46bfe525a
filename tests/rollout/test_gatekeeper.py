"""Approvals from the first question to the moment they are used up, over a real store, real policies and real keys."""

from __future__ import annotations

import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from approving import PEOPLE, PLAN, Key, Office, caller

from stack.core.actions import Action
from stack.core.digest import Digest
from stack.core.errors import BypassAttempt, InvalidInput
from stack.policy.statement import NAMESPACE, statement
from stack.rollout.gatekeeper import Denied, needs_approval, requester_of
from stack.store.approval_rows import RequestState
from stack.store.errors import StoreCorrupt


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    made = Office.made(tmp_path)
    yield made
    made.store.close()


def refused(office: Office) -> int:
    with office.store.reading() as tx:
        alerts = sum(alert.count for alert in tx.alerts() if alert.code == "INC-04")
    assert alerts == len(office.recorded("policy.refused"))
    return alerts


def test_one_owner_who_did_not_ask_is_enough_and_once(office: Office) -> None:
    ask = office.ask()
    row = office.open(ask)
    assert office.use(ask, str(row.id))
    office.vote("ann", row)
    assert office.use(ask, str(row.id)) == ()
    assert "used" in office.use(ask, str(row.id), "ro-2")[0]
    assert office.recorded("change.used") == ["by ro-1"]
    with office.store.reading() as tx:
        assert (tx.request(row.id).state, tx.request(row.id).used_by) == (RequestState.USED, "ro-1")


def test_an_identical_plan_keeps_its_approvals_and_another_does_not(office: Office) -> None:
    row = office.open(office.ask())
    office.vote("ann", row)
    assert office.open(office.ask()).id == row.id
    other = office.open(office.ask(plan=Digest.of(b"another")))
    assert other.id != row.id
    with office.store.reading() as tx:
        assert tx.request(row.id).state is RequestState.SUPERSEDED
    assert office.use(office.ask(), str(row.id))
    back = office.open(office.ask())
    assert back.id != row.id
    assert office.use(office.ask(), str(back.id))


@pytest.mark.parametrize("name", ["bob", "dan"])
def test_who_holds_no_role_of_the_class_does_not_count(office: Office, name: str) -> None:
    row = office.open(office.ask(requester="ann"))
    with pytest.raises(BypassAttempt):
        office.vote(name, row)
    assert refused(office) == 1


def test_who_asks_never_counts(office: Office) -> None:
    row = office.open(office.ask(requester="ann"))
    with pytest.raises(BypassAttempt, match="ann"):
        office.vote("ann", row)
    assert refused(office) == 1
    office.vote("cid", row)
    assert office.use(office.ask(requester="ann"), str(row.id)) == ()


def test_a_requester_that_nobody_knows_could_be_any_approver(office: Office) -> None:
    ask = office.ask(requester=requester_of(caller("operator", shared=True)))
    row = office.open(ask)
    office.vote("ann", row)
    assert office.use(ask, str(row.id))
    office.vote("cid", row)
    assert office.use(ask, str(row.id)) == ()


def test_two_different_roles_means_two_people(office: Office) -> None:
    ask = office.ask(action=Action.CREATE_TOKEN, target="eve")
    row = office.open(ask)
    office.vote("cid", row)
    assert office.use(ask, str(row.id))
    office.vote("cid", row)
    assert office.use(ask, str(row.id))
    office.vote("ann", row)
    assert office.use(ask, str(row.id)) == ()


def test_a_second_key_of_the_same_person_is_the_same_person(office: Office, tmp_path: Path) -> None:
    second = Key.made(tmp_path / "ann2.key")
    (office.folder / "allowed_signers").open("a").write(f"ann {second.line}\n")
    ask = office.ask(requester=requester_of(caller("operator", shared=True)))
    row = office.open(ask)
    office.vote("ann", row)
    office.desk.approve("CHG-1", second.sign(statement(row)), caller("ann"))
    assert office.use(ask, str(row.id))


def test_what_expired_counts_no_more_and_its_signature_fits_nothing_else(office: Office) -> None:
    row = office.open(office.ask())
    signature = office.sign("ann", row)
    office.vote("ann", row)
    office.clock.advance(timedelta(hours=8).total_seconds())
    assert "expired" in office.use(office.ask(), str(row.id))[0]
    fresh = office.open(office.ask())
    assert fresh.id != row.id
    with pytest.raises(BypassAttempt, match=r"expired|does not"):
        office.desk.approve("CHG-1", signature, caller("mallory"))
    assert office.use(office.ask(), str(fresh.id))


def test_an_approval_that_was_taken_back_is_not_handed_in_again(office: Office) -> None:
    row = office.open(office.ask())
    office.vote("ann", row)
    office.desk.revoke("CHG-1", "ann", "changed my mind", caller("ann"))
    assert office.use(office.ask(), str(row.id))
    with pytest.raises(BypassAttempt, match="took it back"):
        office.vote("ann", row)
    assert office.use(office.ask(), str(row.id))


def test_a_rejected_request_is_over(office: Office) -> None:
    row = office.open(office.ask())
    office.vote("ann", row)
    office.desk.reject("CHG-1", "not today", caller("bob"))
    assert office.use(office.ask(), str(row.id))
    assert office.desk.show("CHG-1")["requests"][0]["state"] == "rejected"


@pytest.mark.parametrize("namespace", ["file", "git", "approval@inference-stack.example"])
def test_a_signature_made_for_something_else_is_none(office: Office, namespace: str) -> None:
    row = office.open(office.ask())
    with pytest.raises(BypassAttempt):
        office.desk.approve("CHG-1", office.sign("ann", row, namespace), caller("ann"))
    assert refused(office) == 1


def test_policies_that_changed_void_what_was_approved_by_them(office: Office) -> None:
    row = office.open(office.ask())
    office.vote("ann", row)
    office.write_people({**PEOPLE, "ann": ("security",)})
    assert any("policies changed" in text for text in office.use(office.ask(), str(row.id)))
    office.write_people(PEOPLE)
    assert office.use(office.ask(), str(row.id)) == ()


def test_without_policies_nothing_passes(office: Office) -> None:
    row = office.open(office.ask())
    office.vote("ann", row)
    (office.folder / "risk.yaml").write_text("not: [valid")
    with pytest.raises(InvalidInput):
        office.use(office.ask(), str(row.id))
    (office.folder / "risk.yaml").unlink()
    with pytest.raises(InvalidInput):
        office.use(office.ask(), str(row.id))


def test_an_action_without_a_class_is_denied(office: Office) -> None:
    office.edit("production: R2}", "production: deny}")
    with pytest.raises(Denied), office.store.transaction() as tx:
        office.gatekeeper.ask(tx, office.ask())


def test_what_is_missing_is_said_with_the_command(office: Office) -> None:
    with office.store.transaction() as tx:
        standing = office.gatekeeper.ask(tx, office.ask())
    error = needs_approval(standing)
    assert error.exit_code == 7
    assert error.facts["who"] == ["ann", "cid"]
    assert error.facts["plan"] == str(PLAN)
    assert "stackctl change approve CHG-1" in error.advice
    with office.store.transaction() as tx:
        no_ticket = office.gatekeeper.ask(tx, office.ask(change=""))
    assert not no_ticket.kept
    assert any("change id" in text for text in no_ticket.decision.missing)


def test_plain_openssh_signs_and_checks_the_same(office: Office, tmp_path: Path) -> None:
    row = office.open(office.ask())
    said = tmp_path / "statement"
    said.write_bytes(office.desk.show("CHG-1")["requests"][0]["statement"].encode())
    key, folder = office.keys["ann"].path, office.folder
    made = ["ssh-keygen", "-q", "-Y", "sign", "-f", str(key), "-n", NAMESPACE, str(said)]
    subprocess.run(made, check=True, timeout=30)
    signature = (tmp_path / "statement.sig").read_text()
    office.desk.approve("CHG-1", signature, caller("ann"))
    with office.store.reading() as tx:
        stored = tx.approvals(row.id)[0].signature
    (tmp_path / "stored.sig").write_text(stored)
    verify = ["ssh-keygen", "-Y", "verify", "-f", str(folder / "allowed_signers"), "-I", "ann", "-n", NAMESPACE]
    checked = subprocess.run([*verify, "-s", str(tmp_path / "stored.sig")], input=said.read_bytes(), timeout=30)
    assert checked.returncode == 0
    assert office.use(office.ask(), str(row.id)) == ()


def test_of_two_who_use_it_at_once_one_is_first(office: Office) -> None:
    row = office.open(office.ask())
    office.vote("ann", row)
    lacks: list[tuple[str, ...]] = []

    def go(number: int) -> None:
        lacks.append(office.use(office.ask(), str(row.id), f"ro-{number}"))

    threads = [threading.Thread(target=go, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lacks) == 8
    assert lacks.count(()) == 1


def edited(office: Office, statement_: str) -> None:
    """What somebody with the database's file could do."""
    with sqlite3.connect(office.root / "state.db") as raw:
        raw.execute(statement_)
    raw.close()


def test_a_request_that_the_log_says_is_over_stays_over_whatever_its_row_says(office: Office) -> None:
    row = office.open(office.ask())
    office.vote("ann", row)
    office.desk.reject("CHG-1", "no", caller("bob"))
    edited(office, "UPDATE requests SET state = 'open'")
    assert "change.rejected" in office.use(office.ask(), str(row.id))[0]


def test_an_approval_that_the_log_says_was_taken_back_does_not_count_again(office: Office) -> None:
    row = office.open(office.ask())
    office.vote("ann", row)
    office.desk.revoke("CHG-1", "ann", "changed my mind", caller("ann"))
    edited(office, "UPDATE approvals SET revoked_at = NULL")
    assert office.use(office.ask(), str(row.id))


def test_a_plan_whose_content_was_changed_is_damage(office: Office) -> None:
    body = {"playbooks": "good"}
    with office.store.transaction() as tx:
        tx.put_plan(Digest.of_value(body), body)
    edited(office, """UPDATE plans SET body = '{"playbooks":"evil"}'""")
    with pytest.raises(StoreCorrupt), office.store.reading() as tx:
        tx.plan(Digest.of_value(body))
