"""Attempts to begin something else, elsewhere, or by other policies, with a request that everybody approved.

Each leaves everything as it was: after all of them the one true execution must still pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from attack_votes import Case
from attack_world import FREEZE, HOUR, NOBODYS, OWNED
from rulebook import KeyLine

from stack.core.actions import Action
from stack.core.digest import Digest
from stack.rollout.gatekeeper import Ask

Attack = Callable[[Case], tuple[Ask, str] | None]
"""What to ask for, and by which request."""


def _mine(case: Case, **changed: Any) -> tuple[Ask, str]:
    return replace(case.ask, **changed), str(case.row.id)


def _plan(case: Case) -> tuple[Ask, str]:
    text = str(case.ask.plan)
    at = case.rnd.randrange(len("sha256:"), len(text))
    other = "0" if text[at] != "0" else "1"
    return _mine(case, plan=Digest(text[:at] + other + text[at + 1 :]))


def _environment(case: Case) -> tuple[Ask, str]:
    names = ("dev", "staging", "staging", "production", "production", "moon", "Production", "production ", "")
    return _mine(case, environment=case.rnd.choice([n for n in names if n != case.ask.environment]))


def _unknown_environment(case: Case) -> tuple[Ask, str]:
    return replace(case.ask, environment=case.rnd.choice(("moon", "PRODUCTION", "nowhere", "prod"))), ""


def _change(case: Case) -> tuple[Ask, str]:
    return _mine(case, change=case.rnd.choice(("CHG-other", case.ask.change + "0", case.ask.change.lower(), "*", "")))


def _target(case: Case) -> tuple[Ask, str]:
    return _mine(case, target=case.rnd.choice(("other", "tiny-2", "tin")))


def _action(case: Case) -> tuple[Ask, str]:
    others = (Action.DEPLOY, Action.ROLLBACK, Action.CREATE_TOKEN)
    return _mine(case, action=case.rnd.choice([a for a in others if a is not case.ask.action]))


def _unasked(case: Case) -> tuple[Ask, str]:
    """No request is named at all."""
    return case.ask, ""


def _unknown_request(case: Case) -> tuple[Ask, str]:
    return case.ask, case.rnd.choice(("rq-" + "a" * 20, "rq-", "*", str(case.row.id)[:-1], str(case.row.id).upper()))


def _earlier_request(case: Case) -> tuple[Ask, str]:
    """One that is closed."""
    return case.ask, case.rnd.choice(case.older)[0]


EXECUTIONS: dict[str, Attack] = {
    "begin: edited plan": _plan,
    "begin: wrong environment": _environment,
    "begin: unknown environment, no request": _unknown_environment,
    "begin: wrong or missing change id": _change,
    "begin: another target": _target,
    "begin: another action, same plan": _action,
    "begin: no request named": _unasked,
    "begin: unknown request": _unknown_request,
    "begin: an earlier request that is closed": _earlier_request,
}

Edit = Callable[[Case], dict[str, Any]]


def _voter(case: Case) -> str:
    return OWNED[case.rnd.choice(case.voters)]


def demoted(case: Case) -> dict[str, Any]:
    return {"people": {**case.world.book.people, _voter(case): ()}}


def removed(case: Case) -> dict[str, Any]:
    book, gone = case.world.book, _voter(case)
    keys = {key: line for key, line in book.keys.items() if line.person != gone}
    return {"people": {p: held for p, held in book.people.items() if p != gone}, "keys": keys}


def key_removed(case: Case) -> dict[str, Any]:
    gone = case.rnd.choice(case.voters)
    return {"keys": {key: line for key, line in case.world.book.keys.items() if key != gone}}


def key_moved(case: Case) -> dict[str, Any]:
    return {"keys": {**case.world.book.keys, case.rnd.choice(case.voters): KeyLine(person="dan")}}


def key_over(case: Case) -> dict[str, Any]:
    key = case.rnd.choice(case.voters)
    begin = FREEZE[0]
    times = ({"before": begin - 10 * HOUR}, {"after": begin + 10 * HOUR})
    return {"keys": {**case.world.book.keys, key: KeyLine(person=OWNED[key], **case.rnd.choice(times))}}


def _frozen(case: Case) -> dict[str, Any]:
    return {"freezes": (FREEZE, (FREEZE[0] - 9 * HOUR, FREEZE[1] + 3 * HOUR))}


def _reclassed(case: Case) -> dict[str, Any]:
    others = [risk for risk in ("R1", "R2", "R3") if risk != case.world.book.deploys]
    return {"deploys": case.rnd.choice(others)}


def _commented(case: Case) -> dict[str, Any]:
    return {"note": case.rnd.choice(("# x\n", "\n", "# " + "y" * 40 + "\n"))}


def _promoted(case: Case) -> dict[str, Any]:
    """Somebody makes himself an owner."""
    return {"people": {**case.world.book.people, "dan": ("owner", "security")}}


def _key_added(case: Case) -> dict[str, Any]:
    return {"keys": {**case.world.book.keys, NOBODYS: KeyLine(person=_voter(case))}}


EDITS: dict[str, Edit] = {
    "policy edited: an approver is demoted": demoted,
    "policy edited: an approver is removed": removed,
    "policy edited: a key is removed": key_removed,
    "policy edited: a key is another person's now": key_moved,
    "policy edited: a key is not valid now": key_over,
    "policy edited: a freeze is on": _frozen,
    "policy edited: another class": _reclassed,
    "policy edited: a comment": _commented,
    "policy edited: somebody promotes himself": _promoted,
    "policy edited: somebody adds a key": _key_added,
}


@contextmanager
def edited(case: Case, edit: Edit) -> Iterator[None]:
    """The policies are others inside."""
    kept = case.world.book
    case.world.book = kept.but(**edit(case))
    try:
        yield
    finally:
        case.world.book = kept
