"""Ten thousand attempts to get something privileged through without the approval that its risk demands.

Hypothesis makes situations: who asks (a person, in other capitals, a shared token, a service), what, where, by which
class, who approves in which order. In each, while one approval is missing, every forged vote is tried; once all are
there, every other execution, edited policy and tampered row; then the request ends in one of eleven ways, and what is
over is tried again. The product may never grant what the model (``rulebook``) does not; what the model grants as meant
must pass, so that saying no to everything is no way out. Each refusal must be in the audit log once, and in INC-04.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest
from attack_endings import ENDINGS, RUNS_OUT
from attack_executions import EDITS, EXECUTIONS, edited
from attack_rows import ROWS, tampered
from attack_votes import VOTES, Case
from attack_world import BEGIN, HOUR, OWNED, Counts, World, standard, table
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from rulebook import KeyLine, said_of

from stack.core.actions import Action
from stack.core.digest import Digest
from stack.rollout.gatekeeper import Ask

SITUATIONS, ENDED = 190, 300
LEAST = 10_000
REQUESTERS = ("dan", "ann", "bob", "cid", "Ann", "CID", "operator (shared)", "ci-service")


def quiet(situations: int) -> settings:
    """The same situations every time; the first that goes wrong is shown as it is."""
    return settings(
        max_examples=situations,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """One database for all attempts, in memory where there is such a place: each attempt is a durable transaction."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    made = World.made(folder)
    yield made
    made.close()
    shutil.rmtree(folder)


situations = st.fixed_dictionaries(
    {
        "requester": st.sampled_from(REQUESTERS),
        "what": st.sampled_from([(Action.DEPLOY, "R2"), (Action.DEPLOY, "R3"), (Action.CREATE_TOKEN, "R2")]),
        "environment": st.sampled_from(["production", "production", "staging"]),
        "order": st.permutations(sorted(OWNED)),
        "ending": st.sampled_from(sorted(ENDINGS)),
        "seed": st.integers(0, 2**63),
    }
)


@pytest.mark.timeout(900)
def test_none_of_ten_thousand_attempts_passes_without_its_approval(world: World) -> None:
    world.tally.clear()

    @quiet(SITUATIONS)
    @given(situations)
    def tried(drawn: dict[str, Any]) -> None:
        case = attacked(world, **drawn)
        assert still_approved(case), "what is refused must be refused for what is wrong with it"
        ENDINGS[drawn["ending"]](case)

    tried()
    attempts = told(world.tally)
    assert attempts >= LEAST
    every = {*VOTES, *EXECUTIONS, *EDITS, *ROWS}
    assert {kind for kind, counts in world.tally.items() if counts.refused == SITUATIONS} >= every


def test_what_is_over_stays_over(world: World) -> None:
    world.tally.clear()

    @quiet(ENDED)
    @given(situations)
    def tried(drawn: dict[str, Any]) -> None:
        case = begun(world, **drawn)
        assert case.vote(case.last)
        ENDINGS[drawn["ending"]](case)

    tried()
    assert told(world.tally) > 2 * ENDED
    assert sum(c.granted for kind, c in world.tally.items() if kind.startswith("as meant")) >= ENDED / 4


def told(tally: Mapping[str, Counts]) -> int:
    """The table, on the screen with ``-s``; every refusal is in the log, and what is meant to pass passed."""
    print(table(tally))
    for kind, counts in tally.items():
        assert counts.audited == counts.refused, f"{kind}: refusals that nobody wrote down"
        assert counts.granted == (counts.attempts if kind.startswith("as meant") else 0), kind
    return sum(counts.attempts for counts in tally.values())


def still_approved(case: Case) -> bool:
    with case.world.store.reading() as tx:
        return case.world.gatekeeper.standing_of(tx, tx.request(case.row.id)).decision.granted


def attacked(
    world: World,
    requester: str,
    what: tuple[Action, str],
    environment: str,
    order: list[str],
    ending: str,
    seed: int,
) -> Case:
    """One situation with everything tried while it waits and once it is approved."""
    case = begun(world, requester, what, environment, order, ending, seed)
    rnd, here = case.rnd, str(case.row.id)
    for name in shuffled(rnd, VOTES):
        change, armored = VOTES[name](case)
        before = world.refused_so_far()
        approvals = count_approvals(world, here)
        taken = world.hand_in(change, armored)
        assert world.refused_so_far() - before == (not taken), f"{name}: a refused vote has its record"
        assert taken or count_approvals(world, here) == approvals
        world.attempt(name, case.ask, here, exact=False)
    assert case.vote(case.last), "what an approver really signs is taken"
    for name in shuffled(rnd, EXECUTIONS):
        if (found := EXECUTIONS[name](case)) is not None:
            world.attempt(name, *found, exact=False)
    for name in shuffled(rnd, EDITS):
        with edited(case, EDITS[name]):
            world.attempt(name, case.ask, here, exact=False)
    for name in shuffled(rnd, ROWS):
        with tampered(case):
            world.attempt(name, *ROWS[name](case), exact=False)
    return case


def begun(
    world: World, requester: str, what: tuple[Action, str], environment: str, order: list[str], ending: str, seed: int
) -> Case:
    """Everything is asked and approved but for the last vote."""
    action, risk = what
    where = environment if action is Action.DEPLOY else "production"
    world.clock.at, world.book = BEGIN, standard().but(deploys=risk)
    world.number += 1
    change, plan = f"CHG-{world.number}", Digest.of(f"plan {world.number}".encode())
    ask = Ask(action=action, target="tiny", environment=where, plan=plan, requester=requester, change=change)
    voters = enough(world, str(world.book.risk(action.value, where)), requester, order)
    if ending == "key runs out":
        keys = {**world.book.keys, voters[0]: KeyLine(person=OWNED[voters[0]], before=RUNS_OUT)}
        world.book = world.book.but(keys=keys)
    older = earlier(world, ask, voters)
    row = world.open(ask)
    world.clock.at = BEGIN + HOUR / 4
    case = Case(world=world, rnd=Random(f"{seed} {world.number}"), ask=ask, row=row, voters=voters, older=older)
    for voter in voters[:-1]:
        assert case.vote(voter)
    return case


def enough(world: World, risk: str, requester: str, order: list[str]) -> tuple[str, ...]:
    """As many keys, in this order, as just suffice; people who add nothing are left out."""
    chosen: list[str] = []
    for key in order:
        people = {OWNED[k] for k in chosen}
        able = world.book.satisfied("R2", {OWNED[key]}, "dan") or (risk == "R3" and OWNED[key] in ("bob", "cid"))
        if not able or OWNED[key] in people or OWNED[key] == requester.casefold():
            continue
        chosen.append(key)
        if world.book.satisfied(risk, {OWNED[k] for k in chosen}, requester):
            return tuple(necessary(world, risk, requester, chosen))
    raise AssertionError("the people of these tests can approve everything")


def necessary(world: World, risk: str, requester: str, keys: list[str]) -> list[str]:
    """Without those that can be spared: everything is wrong with one of the others missing."""
    for key in keys:
        rest = [other for other in keys if other != key]
        if world.book.satisfied(risk, {OWNED[k] for k in rest}, requester):
            return necessary(world, risk, requester, rest)
    return keys


def earlier(world: World, ask: Ask, voters: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """What was asked before for the same change, by another plan, and signed by all; closed by what is asked now."""
    plan = Digest.of(f"earlier {world.number}".encode())
    row = world.open(Ask(**{**vars(ask), "plan": plan}))
    stored = world.oracle.row(str(row.id))
    assert stored is not None
    world.oracle.over.add(str(row.id))
    return tuple((str(row.id), world.sign(voter, said_of(stored))) for voter in voters)


def count_approvals(world: World, request: str) -> int:
    (found,) = world.database.execute("select count(*) from approvals where request = ?", (request,)).fetchone()
    return int(found)


def shuffled(rnd: Random, names: Iterable[str]) -> list[str]:
    """In some order: what one attempt leaves behind meets each of the others."""
    order = sorted(names)
    rnd.shuffle(order)
    return order
