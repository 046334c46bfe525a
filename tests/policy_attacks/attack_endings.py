"""How a fully approved request ends, each with what somebody then tries with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from attack_executions import Edit, demoted, key_moved, key_over, key_removed, removed
from attack_votes import Case
from attack_world import FREEZE, HOUR, OWNED, Bypass
from rulebook import said_of

from stack.core.caller import Caller
from stack.core.digest import Digest

TICK = timedelta(microseconds=1)
ADMIN = Caller(name="olga", roles=frozenset({"admin"}))


def _tried(case: Case, kind: str) -> None:
    """What is over is tried again, with every signature handed in again and with a new request for the same."""
    world, here = case.world, str(case.row.id)
    world.attempt(kind, case.ask, here)
    for voter in case.voters:
        world.hand_in(case.ask.change, world.sign(voter, case.statement))
    world.attempt(f"{kind}, handed in again", case.ask, here)
    old = case.statement
    fresh = str(world.open(case.ask).id)
    if fresh == here:
        raise Bypass(f"{kind}: {here} was found again")
    for voter in case.voters:
        if world.hand_in(fresh, world.sign(voter, old)):
            raise Bypass(f"{kind}: a signature on {here} was taken for {fresh}")
    world.attempt(f"{kind}, its signatures on a new request", case.ask, fresh)


def used(case: Case) -> None:
    """The one way it is meant to go, and then a second time."""
    world = case.world
    world.attempt("as meant: approved and begun", case.ask, str(case.row.id))
    reopened(case, "database: a used request is opened again")
    _tried(case, "replay: used already")


def reopened(case: Case, kind: str) -> None:
    """Somebody who can write into the database opens what was used: the audit log still has it."""
    world, here = case.world, str(case.row.id)
    world.database.execute("update requests set state = 'open', used_by = '', reason = '' where id = ?", (here,))
    world.attempt(kind, case.ask, here)
    world.database.execute("update requests set state = 'used' where id = ?", (here,))


def expired(case: Case) -> None:
    """At the very moment, and later."""
    world, ends = case.world, case.row.expires_at
    late = case.rnd.choice((timedelta(0), TICK, timedelta(seconds=1), 24 * HOUR))
    world.clock.at = ends + late
    _tried(case, "expired: at its end or later")


def just_in_time(case: Case) -> None:
    """A microsecond before."""
    world = case.world
    world.clock.at = case.row.expires_at - TICK
    world.attempt("as meant: a microsecond before its end", case.ask, str(case.row.id))
    reopened(case, "database: a used request is opened again, in time")
    _tried(case, "replay: used at the last moment")


def frozen(case: Case) -> None:
    """A freeze that was announced begins; its end lets it go on."""
    world, held = case.world, case.ask.environment == "production"
    inside = case.rnd.choice((FREEZE[0], FREEZE[0] + TICK, FREEZE[1] - TICK))
    if held:
        world.clock.at = inside
        world.attempt("freeze: held up", case.ask, str(case.row.id))
    world.clock.at = case.rnd.choice((FREEZE[0] - TICK, FREEZE[1]))
    world.attempt("as meant: before or after a freeze", case.ask, str(case.row.id))
    _tried(case, "replay: used around a freeze")


def rejected(case: Case) -> None:
    """Somebody says no."""
    case.world.desk.reject(case.ask.change, "no", ADMIN)
    case.world.oracle.over.add(str(case.row.id))
    _tried(case, "rejected")


def withdrawn(case: Case) -> None:
    """The whole request is taken back."""
    case.world.desk.revoke(case.ask.change, None, "no", ADMIN)
    case.world.oracle.over.add(str(case.row.id))
    _tried(case, "revoked: the request")


def taken_back(case: Case) -> None:
    """One approval is taken back."""
    world, person = case.world, OWNED[case.rnd.choice(case.voters)]
    world.desk.revoke(case.ask.change, person, "no", ADMIN)
    world.oracle.taken_back.add((str(case.row.id), person))
    world.attempt("revoked: one approval", case.ask, str(case.row.id))
    for voter in case.voters:
        world.hand_in(case.ask.change, world.sign(voter, case.statement))
    world.attempt("revoked: one approval, handed in again", case.ask, str(case.row.id))


def replanned(case: Case) -> None:
    """It is planned otherwise meanwhile, and then as before again."""
    world = case.world
    other = replace(case.ask, plan=Digest.of(b"otherwise" + case.statement))
    fresh = str(world.open(other).id)
    world.oracle.over.add(str(case.row.id))
    for voter in case.voters:
        if world.hand_in(fresh, world.sign(voter, case.statement)):
            raise Bypass("a signature on one plan was taken for another")
    world.attempt("superseded: its signatures on the other plan", other, fresh)
    _tried(case, "superseded: back to the first plan")


def by_others(case: Case) -> None:
    """Somebody loses the role or the key, the request is made anew, and all sign that."""
    world, edit = case.world, case.rnd.choice(list(LOSSES))
    world.book = world.book.but(**LOSSES[edit](case))
    world.attempt(f"{edit}: the old request", case.ask, str(case.row.id))
    fresh = world.open(case.ask)
    world.oracle.over.add(str(case.row.id))
    for voter in case.voters:
        row = world.oracle.row(str(fresh.id))
        assert row is not None
        world.hand_in(case.ask.change, world.sign(voter, said_of(row)))
    world.attempt(f"{edit}: a new request", case.ask, str(fresh.id))


LOSSES: dict[str, Edit] = {
    "lost: demoted approver": demoted,
    "lost: removed approver": removed,
    "lost: removed key": key_removed,
    "lost: key of another person": key_moved,
    "lost: key not valid": key_over,
}


def key_runs_out(case: Case) -> None:
    """The policies stay; the key of somebody who approved is over (its last second counts)."""
    world = case.world
    world.clock.at = case.rnd.choice((RUNS_OUT + TICK, RUNS_OUT + timedelta(seconds=1), RUNS_OUT + HOUR))
    world.attempt("key: runs out after the approval", case.ask, str(case.row.id))
    world.clock.at = RUNS_OUT
    world.attempt("as meant: the last moment of a key", case.ask, str(case.row.id))


def one_role(case: Case) -> None:
    """All who hold only one of the roles that are wanted (or the wrong one) approve; then everybody does."""
    world = case.world
    ask = replace(case.ask, plan=Digest.of(b"one role" + case.statement))
    fresh = str(world.open(ask).id)
    world.oracle.over.add(str(case.row.id))
    row = world.oracle.row(fresh)
    assert row is not None
    for voter in ("ann", "eve") if row["risk"] == "R3" else ("bob", "dan"):
        world.hand_in(fresh, world.sign(voter, said_of(row)))
    world.attempt("roles: several people, and one role is missing", ask, fresh)
    for voter in ("ann", "bob", "cid", "eve"):
        world.hand_in(fresh, world.sign(voter, said_of(row)))
    world.attempt("as meant: every role is there", ask, fresh)


RUNS_OUT = FREEZE[0] - 2 * HOUR
ENDINGS: dict[str, Callable[[Case], None]] = {
    "used": used,
    "expired": expired,
    "just in time": just_in_time,
    "frozen": frozen,
    "rejected": rejected,
    "withdrawn": withdrawn,
    "taken back": taken_back,
    "replanned": replanned,
    "by others": by_others,
    "key runs out": key_runs_out,
    "one role": one_role,
}
