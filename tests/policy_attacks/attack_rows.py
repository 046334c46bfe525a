"""Attempts by somebody who can write into the database: rows of requests and approvals changed behind the product.

What an approver signed binds the request's own id, plan, policy, end, requester, risk, environment, target, action,
gate and change, so none of that can be moved. That a request is used up is not signed: there the audit log is the
witness (``attack_endings.reopened``), and whoever rewrites that as well is found out by its checkpoints.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from attack_votes import Case
from attack_world import NOBODYS, OWNED
from rulebook import NAMESPACE, said_of

from stack.core.actions import Action
from stack.core.digest import Digest
from stack.policy.sshsig import parse_public_key
from stack.rollout.gatekeeper import Ask

Tamper = Callable[[Case], tuple[Ask, str]]
"""Changes rows; says what to ask for then, and by which request."""


def _request(case: Case, **values: str) -> None:
    names = ", ".join(f"{name} = ?" for name in values)
    case.world.database.execute(f"update requests set {names} where id = ?", (*values.values(), str(case.row.id)))


def _approval(case: Case, whose: str, **values: str) -> None:
    names = ", ".join(f"{name} = ?" for name in values)
    where = (*values.values(), str(case.row.id), whose)
    case.world.database.execute(f"update approvals set {names} where request = ? and person = ?", where)


def _lowered(case: Case) -> tuple[Ask, str]:
    _request(case, risk=case.rnd.choice([r for r in ("R0", "R1", "R2", "R3") if r != case.row.risk.value]))
    return case.ask, str(case.row.id)


def _later(case: Case) -> tuple[Ask, str]:
    ends = ("2026-06-01T16:00:00.000001Z", "2026-06-01T15:59:59.999999Z", "2027-01-01T00:00:00.000000Z")
    _request(case, expires_at=case.rnd.choice(ends))
    return case.ask, str(case.row.id)


def _requester(case: Case) -> tuple[Ask, str]:
    others = ("eve", "ann", "bob", "dan", "operator (shared)", "zoe")
    _request(case, requester=case.rnd.choice([o for o in others if o != case.row.requester]))
    return case.ask, str(case.row.id)


def _plan(case: Case) -> tuple[Ask, str]:
    plan = Digest.of(b"mine" + bytes([case.rnd.randrange(256)]))
    _request(case, plan=str(plan))
    return replace(case.ask, plan=plan), str(case.row.id)


def _elsewhere(case: Case) -> tuple[Ask, str]:
    places = ("staging", "production") if case.ask.action is Action.DEPLOY else ("moon", "Production")
    ask = replace(case.ask, environment=case.rnd.choice([p for p in places if p != case.ask.environment]))
    _request(case, environment=ask.environment, risk=case.world.book.risk(ask.action.value, ask.environment) or "R2")
    return ask, str(case.row.id)


def _target(case: Case) -> tuple[Ask, str]:
    _request(case, target="other")
    return replace(case.ask, target="other"), str(case.row.id)


def _change(case: Case) -> tuple[Ask, str]:
    _request(case, change="CHG-other")
    return replace(case.ask, change="CHG-other"), str(case.row.id)


def _policy(case: Case) -> tuple[Ask, str]:
    """The policies were edited, and so is the row."""
    digest = hashlib.sha256(b"other").hexdigest()
    _request(case, policy=f"sha256:{digest}")
    return case.ask, str(case.row.id)


def _id(case: Case) -> tuple[Ask, str]:
    """All its approvals are moved to an earlier, unused request of the same thing, which is opened again."""
    older = case.rnd.choice(case.older)[0]
    case.world.database.execute("update requests set state = 'open' where id = ?", (older,))
    case.world.database.execute("update approvals set request = ? where request = ?", (older, str(case.row.id)))
    return case.ask, older


def _renamed(case: Case) -> tuple[Ask, str]:
    """An approval is said to be of somebody else, so that its key's owner could be counted again."""
    person = OWNED[case.rnd.choice(case.voters)]
    others = [p for p in case.world.book.people if p not in {OWNED[v] for v in case.voters}]
    _approval(case, person, person=case.rnd.choice(others))
    return case.ask, str(case.row.id)


def _fingerprint(case: Case) -> tuple[Ask, str]:
    _approval(case, OWNED[case.rnd.choice(case.voters)], fingerprint="SHA256:" + "A" * 43)
    return case.ask, str(case.row.id)


def _signature(case: Case) -> tuple[Ask, str]:
    """A signature is replaced by one of an earlier request, of nobody's key, or by another approver's."""
    world, person = case.world, OWNED[case.rnd.choice(case.voters)]
    row = world.oracle.row(str(case.row.id))
    assert row is not None
    said = said_of(row)
    forged = (case.rnd.choice(case.older)[1], world.sign(NOBODYS, said), world.sign("dan", said), "", "x")
    own = world.keys[NOBODYS].sign(said, NAMESPACE, world.keys[person].blob)
    _approval(case, person, signature=case.rnd.choice((*forged, own)))
    return case.ask, str(case.row.id)


def _forged(case: Case) -> tuple[Ask, str]:
    """A whole approval by a key of nobody, or of somebody who holds no role, under its own fingerprint."""
    world, person = case.world, OWNED[case.rnd.choice(case.voters)]
    row = world.oracle.row(str(case.row.id))
    assert row is not None
    key = case.rnd.choice((NOBODYS, "dan"))
    name = case.rnd.choice((person, "dan"))
    made = parse_public_key(world.keys[key].line).fingerprint
    _approval(case, person, person=name, fingerprint=made, signature=world.sign(key, said_of(row)))
    return case.ask, str(case.row.id)


def _deleted(case: Case) -> tuple[Ask, str]:
    person = OWNED[case.rnd.choice(case.voters)]
    case.world.database.execute("delete from approvals where request = ? and person = ?", (str(case.row.id), person))
    return case.ask, str(case.row.id)


def _copied(case: Case) -> tuple[Ask, str]:
    """One approver's row is deleted, and another's stands twice, under both names."""
    database, here = case.world.database, str(case.row.id)
    gone = OWNED[case.rnd.choice(case.voters)]
    database.execute("delete from approvals where request = ? and person = ?", (here, gone))
    source = "select request, ?, fingerprint, signature, created_at, null from approvals where request = ? limit 1"
    database.execute(f"insert into approvals {source}", (gone, here))
    return case.ask, str(case.row.id)


def _gate(case: Case) -> tuple[Ask, str]:
    _request(case, gate="100")
    return case.ask, str(case.row.id)


ROWS: dict[str, Tamper] = {
    "database: the class is lowered or raised": _lowered,
    "database: the end is moved": _later,
    "database: the requester is another": _requester,
    "database: the plan is another": _plan,
    "database: the environment is another": _elsewhere,
    "database: the target is another": _target,
    "database: the change id is another": _change,
    "database: the policy digest is another": _policy,
    "database: the gate is another": _gate,
    "database: the approvals are another request's": _id,
    "database: an approval has another name": _renamed,
    "database: an approval has another fingerprint": _fingerprint,
    "database: an approval has another signature": _signature,
    "database: an approval is forged as a whole": _forged,
    "database: an approval is deleted": _deleted,
    "database: an approval is copied to another name": _copied,
}


@contextmanager
def tampered(case: Case) -> Iterator[None]:
    """Whatever is done to the rows of requests and approvals inside is undone."""
    database = case.world.database
    kept: dict[str, list[tuple[Any, ...]]] = {}
    ids = (str(case.row.id), *(older for older, _ in case.older))
    marks = ", ".join("?" for _ in ids)
    for name, column in (("requests", "id"), ("approvals", "request")):
        kept[name] = database.execute(f"select * from {name} where {column} in ({marks})", ids).fetchall()
    try:
        yield
    finally:
        database.execute(f"delete from approvals where request in ({marks})", ids)
        database.execute(f"delete from requests where id in ({marks})", ids)
        for name, rows in kept.items():
            for row in rows:
                database.execute(f"insert into {name} values ({', '.join('?' for _ in row)})", row)
