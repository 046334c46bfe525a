"""Decisions: what is granted, what is said to be missing, and that nothing broken is ever granted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import combinations, permutations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stack.config.policies import load_policies
from stack.config.policy_values import ClassRule, OneFreeze, Person, Signer
from stack.core.actions import Action, Risk
from stack.policy.counting import lacking
from stack.policy.decision import decide, frozen, is_known_person, may_ask, person_named, risk_of, rule_of, who_may
from stack.policy.statement import statement
from stack.policy.warnings import warnings
from stack.store.approval_rows import ApprovalRow, RequestRow

from . import keys
from .situations import (
    BREAKS,
    DAY,
    HOUR,
    NAMES,
    NOW,
    OTHER,
    PLAN,
    REQUESTER,
    ROLES,
    Situation,
    policies,
    request,
    signer,
    situation,
)

ROOT = Path(__file__).parents[2]
PRODUCTION = frozenset({"production"})
ONE = ClassRule(ticket=PRODUCTION, approvers=1, roles=("owner",), frozen=True)
TWO = ClassRule(ticket=PRODUCTION, approvers=2, roles=("owner", "security"), different_roles=True, frozen=True)


def test_one_owner_is_enough_for_one() -> None:
    decision = situation(ONE, {"alice": ["owner"], "bob": ["security"]}, ["alice"]).decided()
    assert (decision.granted, decision.missing, decision.refusals, decision.counted) == (True, (), (), ("alice",))


def test_what_is_missing_names_the_people_to_ask() -> None:
    holders = {"alice": ["owner"], "bob": ["owner", "security"], "carol": ["security"]}
    said = situation(ONE, holders, []).decided()
    assert said.missing == ("1 approval by a person with role owner (alice, bob)",)
    assert not said.granted
    said = situation(TWO, holders, ["alice"]).decided()
    assert said.missing == (
        "1 approval by a person, so that 2 different roles of owner, security agree (bob: owner and security, "
        "carol: security)",
    )
    said = situation(ONE, holders, [], change="").decided()
    assert said.missing[0] == "a change id: --change CHG-1"
    said = situation(ONE, {"bob": ["security"]}, []).decided()
    assert said.missing[0].endswith("(nobody else may: add a person with role owner to policies/people.yaml and a key "
                                    "to allowed_signers)")  # fmt: skip


def test_who_asked_is_not_named_as_one_to_ask() -> None:
    said = situation(ONE, {"alice": ["owner"], "bob": ["owner"]}, [], requester="ALICE").decided()
    assert said.missing == ("1 approval by a person with role owner (bob)",)


def test_whoever_has_the_shared_token_needs_one_more() -> None:
    holders = {"alice": ["owner"], "bob": ["owner"], "carol": ["owner"]}
    one = situation(ONE, holders, ["alice"], requester="operator").but(requester_known=False)
    assert one.decided().missing == (
        "1 approval by a person with role owner (bob, carol; one more than usual, as the token that asked names no "
        "person)",
    )
    assert situation(ONE, holders, ["alice", "bob"], requester="operator").but(requester_known=False).decided().granted
    assert situation(ONE, holders, [], requester="operator").decided().missing[0].startswith("2 approvals by people")


def test_a_requester_said_to_be_known_who_is_in_no_file_is_not_known() -> None:
    assert not situation(ONE, {"alice": ["owner"]}, ["alice"], requester="stranger").decided().granted


def test_without_separation_who_asked_counts() -> None:
    rule = replace(ONE, separation=False)
    assert situation(rule, {"alice": ["owner"]}, ["alice"], requester="alice").decided().granted
    assert situation(rule, {"alice": ["owner"]}, ["alice"]).but(requester_known=False).decided().granted


@pytest.mark.parametrize("order", list(permutations(["alice", "bob"])))
def test_roles_are_matched_not_taken_greedily(order: Sequence[str]) -> None:
    assert situation(TWO, {"alice": ["owner", "security"], "bob": ["owner"]}, order).decided().granted
    assert situation(TWO, {"alice": ["owner", "security"], "bob": ["security"]}, order).decided().granted
    assert not situation(TWO, {"alice": ["owner"], "bob": ["owner"]}, order).decided().granted


def test_a_freeze_is_named_with_its_end_and_holds_frozen_classes_only() -> None:
    freeze = OneFreeze(name="year's end", environments=PRODUCTION, begins=NOW - HOUR, ends=NOW + DAY)
    held = situation(ONE, {"alice": ["owner"]}, ["alice"]).with_policies(freezes=(freeze,))
    assert held.decided().missing == ('the end of the freeze "year\'s end" of production until 2026-07-02 12:00 UTC',)
    assert held.decided().counted == ("alice",)
    assert frozen(held.policies, "production", NOW) is not None and frozen(held.policies, "dev", NOW) is None
    free = situation(replace(ONE, frozen=False), {"alice": ["owner"]}, ["alice"]).with_policies(freezes=(freeze,))
    assert free.decided().granted


def test_in_dev_nothing_is_needed_but_a_request_that_is_the_right_one() -> None:
    asked = situation(ONE, {}, [], environment="dev", risk=Risk.R1, change="").but(environment="dev")
    assert asked.but(requester_known=False).decided().granted
    assert not asked.but(plan=asked.policies.digest).decided().granted


def test_a_gate_has_its_own_class() -> None:
    at_gate = situation(ONE, {"alice": ["owner"]}, ["alice"], gate="100", risk=Risk.R3)
    assert at_gate.decided().granted
    assert risk_of(at_gate.policies, Action.DEPLOY, "production", "100") is Risk.R3
    assert risk_of(at_gate.policies, Action.DEPLOY, "production", "99") is None
    assert risk_of(at_gate.policies, Action.DEPLOY, "dev", "100") is None
    assert rule_of(at_gate.policies, Action.DEPLOY, "production") is ONE


def test_the_clocks_of_two_machines_may_differ_by_minutes() -> None:
    rule = replace(ONE, ttl_s=7200)
    for ahead, granted in ((timedelta(minutes=5), True), (timedelta(minutes=5, microseconds=1), False)):
        assert situation(rule, {"alice": ["owner"]}, ["alice"], created_at=NOW + ahead).decided().granted is granted


def test_a_key_counts_at_both_ends_of_its_time() -> None:
    usual = situation(ONE, {"alice": ["owner"]}, ["alice"])
    for limits in ({"valid_after": NOW}, {"valid_before": NOW}):
        assert usual.with_policies(signers=(signer("alice", **limits),)).decided().granted


def test_refusals_say_why() -> None:
    usual = situation(ONE, {"alice": ["owner"], "bob": ["security"]}, ["alice", "bob"])
    assert usual.decided().granted, "an approval that doesn't count takes nothing away"
    assert usual.decided().refusals == ("bob: holds none of the roles owner",)
    assert usual.with_vote(0, revoked_at=NOW).decided().refusals[0] == "alice: the approval was taken back"
    edited = usual.with_request(target="big").decided()
    assert edited.refusals[0].startswith("alice: the signature is not one of this request")


@st.composite
def minimal(draw: st.DrawFn, known: bool | None = None) -> Situation:
    """A situation that is granted, with no approval to spare."""
    wanted = draw(st.integers(1, 3))
    different = draw(st.booleans())
    roles = tuple(draw(st.permutations(ROLES)))[: draw(st.integers(wanted if different else 1, 3))]
    rule = ClassRule(ticket=PRODUCTION, approvers=wanted, roles=roles, different_roles=different, frozen=True)
    requester_known = draw(st.booleans()) if known is None else known
    voters = tuple(draw(st.permutations(NAMES)))[: wanted + (not requester_known)]
    holders: dict[str, Sequence[str]] = {name: draw(st.lists(st.sampled_from(ROLES), max_size=3)) for name in NAMES}
    for number, name in enumerate(voters):
        holders[name] = roles if not requester_known else [*holders[name], roles[number % len(roles)]]
    requester = REQUESTER if requester_known else draw(st.sampled_from(["operator", "ci", REQUESTER]))
    return situation(rule, holders, voters, requester=requester).but(requester_known=requester_known)


@settings(max_examples=200, deadline=None)
@given(minimal())
def test_what_is_in_order_is_granted(given_: Situation) -> None:
    decision = given_.decided()
    assert decision.granted and not decision.missing and not decision.refusals, decision
    assert set(decision.counted) == {row.person for row in given_.approvals}


@pytest.mark.parametrize("broken", BREAKS)
@settings(max_examples=50, deadline=None)
@given(minimal(known=True), st.integers(0, 5))
def test_nothing_broken_is_granted(broken: str, given_: Situation, number: int) -> None:
    decision = BREAKS[broken](given_, number).decided()
    assert not decision.granted
    assert decision.missing, "a no has to say what is missing"


VOTES = ["one is missing", *(name for name in BREAKS if name.startswith("one ") and name != "one is missing")]


@pytest.mark.parametrize("broken", VOTES)
@settings(max_examples=20, deadline=None)
@given(minimal(known=False), st.integers(0, 5))
def test_nothing_broken_is_granted_to_the_unknown(broken: str, given_: Situation, number: int) -> None:
    assert not BREAKS[broken](given_, number).decided().granted


def satisfied(rule: ClassRule, people: Sequence[Person]) -> bool:
    """The rule as it is said, tried out: is there a way to give the roles to people?"""
    if not rule.different_roles:
        return len([p for p in people if p.roles & set(rule.roles)]) >= rule.approvers
    return any(
        all(role in person.roles for role, person in zip(roles, chosen, strict=True))
        for chosen in combinations(people, rule.approvers)
        for roles in permutations(rule.roles, rule.approvers)
    )


people_ = st.lists(st.frozensets(st.sampled_from(ROLES)), max_size=5).map(
    lambda held: [Person(name=name, roles=roles) for name, roles in zip(NAMES, held, strict=False)]
)
rules = st.builds(
    lambda approvers, different, roles: ClassRule(approvers=approvers, different_roles=different, roles=tuple(roles)),
    st.integers(0, 3), st.booleans(), st.permutations(ROLES),
)  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(rules, people_)
def test_counting_agrees_with_trying_everything(rule: ClassRule, people: list[Person]) -> None:
    assert (lacking(rule, people, True) == 0) == satisfied(rule, people)
    without = [[other for other in people if other is not one] for one in people]
    by_nobody = all(satisfied(rule, rest) for rest in without) and satisfied(rule, people)
    assert (lacking(rule, people, False) == 0) == by_nobody


@settings(max_examples=300, deadline=None)
@given(rules, people_, st.sets(st.sampled_from(NAMES)), st.sampled_from(NAMES), st.sampled_from(ROLES), st.booleans())
def test_taking_away_never_grants(
    rule: ClassRule, people: list[Person], voters: set[str], name: str, role: str, known: bool
) -> None:
    holders = {person.name: sorted(person.roles) for person in people}
    before = situation(rule, holders, sorted(voters)).but(requester_known=known)
    fewer_votes = before.but(approvals=tuple(row for row in before.approvals if row.person != name))
    fewer_roles = situation(
        rule, {who: [r for r in held if (who, r) != (name, role)] for who, held in holders.items()}, sorted(voters)
    ).but(requester_known=known)
    without_key = before.with_policies(signers=tuple(s for s in before.policies.signers if s.person != name))
    unknown = before.but(requester_known=False)
    if not before.decided().granted:
        assert not any(less.decided().granted for less in (fewer_votes, fewer_roles, without_key, unknown))


@settings(max_examples=200, deadline=None)
@given(minimal(known=True))
def test_what_does_not_count_takes_nothing_away(given_: Situation) -> None:
    row = given_.approvals[0]
    junk = [replace(row, signature="ff:junk"), replace(row, revoked_at=NOW), replace(row, person=REQUESTER)]
    decision = given_.but(approvals=(*junk, *given_.approvals, *junk)).decided()
    assert decision.granted and len(decision.refusals) == 6


def test_who_may_needs_a_role_and_a_key_that_is_valid_and_is_not_who_asked() -> None:
    known = policies(ONE, {"alice": ["owner"], "bob": ["owner"], "carol": ["security"], "dave": ["owner"]})
    lines = (signer("alice"), signer("bob", valid_before=NOW - HOUR), signer("carol"))
    known = replace(known, signers=lines)
    assert [person.name for person in who_may(known, Risk.R2)] == ["alice", "bob"]
    assert [person.name for person in who_may(known, Risk.R2, now=NOW)] == ["alice"]
    assert [person.name for person in who_may(known, Risk.R2, "Alice")] == ["bob"]
    assert who_may(known, Risk.R0) == ()


def test_names_are_compared_however_they_are_capitalised_and_shared_tokens_are_nobody() -> None:
    known = policies(ONE, {"Alice": ["owner"]})
    assert person_named(known, "aLICE") is known.people["Alice"]
    assert is_known_person(known, "alice") and not is_known_person(known, "alice", shared=True)
    assert not is_known_person(known, "operator")


def test_roles_of_tokens_ask_for_their_actions_only() -> None:
    shipped = load_policies(ROOT / "policies")
    assert may_ask(shipped, {"operator"}, Action.DEPLOY) and may_ask(shipped, {"viewer", "admin"}, Action.CREATE_TOKEN)
    assert not may_ask(shipped, {"viewer"}, Action.DEPLOY)
    assert not may_ask(shipped, {"approver"}, Action.DEPLOY)
    assert not may_ask(shipped, {"operator"}, Action.APPROVE)
    assert not may_ask(shipped, {"owner", "*", ""}, Action.READ) and not may_ask(shipped, (), Action.READ)


def test_warnings_say_what_nobody_may_approve_and_what_is_denied() -> None:
    shipped = load_policies(ROOT / "policies")
    advice = "to policies/people.yaml and"
    assert warnings(shipped) == (
        f"nobody may approve R2 in production: add a person with role owner {advice} a key to policies/allowed_signers",
        f"nobody may approve R3 in production: add 2 people with role owner or security (different roles) {advice} "
        "a key of each to policies/allowed_signers",
    )
    everybody = {"alice": Person(name="alice", roles=frozenset({"owner"})),
                 "bob": Person(name="bob", roles=frozenset({"security"}))}  # fmt: skip
    assert warnings(replace(shipped, people=everybody, signers=(signer("alice"), signer("bob")))) == ()
    keyless = warnings(replace(shipped, people=everybody, signers=(signer("alice"),)))
    assert keyless[-1].startswith("bob can't approve anything")
    denied = replace(shipped, actions={**shipped.actions, Action.DEPLOY: {"dev": Risk.R1}})
    assert warnings(denied)[0] == "rollout.deploy has no class in staging, production: it is denied there"


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa256", "rsa2048"])
def test_real_signatures_are_decided_about_by_default(kind: str, tmp_path: Path) -> None:
    file = keys.make(tmp_path / "key", *keys.KINDS[kind])
    key, asked = keys.public(file), request()
    line = Signer(person="alice", key_type=key.key_type, blob=key.blob, fingerprint=key.fingerprint)
    known = policies(ONE, {"alice": ["owner"]}, signers=(line,))

    def granted(signature: str, row: RequestRow = asked) -> bool:
        given_ = ApprovalRow(
            request=row.id, person="alice", fingerprint=key.fingerprint, signature=signature, created_at=NOW
        )
        decision = decide(known, row, [given_], plan=PLAN, environment="production", now=NOW, requester_known=True)
        return decision.granted

    signature = keys.sign(file, statement(asked))
    assert granted(signature)
    assert not granted(keys.sign(file, statement(asked), "git"))
    assert not granted(keys.sign(file, statement(asked)[:-1]))
    assert not granted(signature, replace(asked, target="big"))
    assert not granted(signature, replace(asked, id=OTHER))
    assert not granted("") and not granted("-----BEGIN SSH SIGNATURE-----\n") and not granted("\ud800")
