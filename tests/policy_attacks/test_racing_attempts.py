"""Votes and executions that race: an approval is used once and a human counts once, whoever comes when."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random

import pytest
from attack_votes import Case
from attack_world import BEGIN, OWNED, World, rollout, standard
from rulebook import said_of

from stack.core.actions import Action
from stack.core.caller import Caller
from stack.core.digest import Digest
from stack.core.errors import StackError
from stack.rollout.gatekeeper import Ask

ROUNDS, WIDE = 30, 8
ADMIN = Caller(name="olga", roles=frozenset({"admin"}))


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    made = World.made(folder)
    yield made
    made.close()
    shutil.rmtree(folder)


def asked(world: World) -> Case:
    """A deploy to production that one owner has to approve."""
    world.clock.at, world.book = BEGIN, standard()
    world.number += 1
    plan = Digest.of(f"race {world.number}".encode())
    change = f"CHG-{world.number}"
    ask = Ask(action=Action.DEPLOY, target="tiny", environment="production", plan=plan, requester="dan", change=change)
    return Case(world=world, rnd=Random(0), ask=ask, row=world.open(ask), voters=("ann",), older=())


def at_once(*acts: Callable[[], object]) -> list[object]:
    """What each gave, or the error of the tree that it raised."""
    barrier = threading.Barrier(len(acts))
    given: list[object] = []

    def act(what: Callable[[], object]) -> None:
        barrier.wait()
        try:
            given.append(what())
        except StackError as error:
            given.append(error)

    threads = [threading.Thread(target=act, args=(what,)) for what in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(given) == len(acts)
    return given


def begin(case: Case, name: str) -> Callable[[], str]:
    def act() -> str:
        world = case.world
        with world.store.transaction() as tx:
            return world.authority.admit(tx, rollout(case.ask, str(case.row.id), name)) or "went ahead"

    return act


def test_of_many_who_use_an_approval_at_once_one_does(world: World) -> None:
    attempts = 0
    for number in range(ROUNDS):
        case = asked(world)
        assert case.vote("ann")
        before = world.refused_so_far()
        given = at_once(*(begin(case, f"ro-r{number}-{n}") for n in range(WIDE)))
        attempts += len(given)
        assert given.count("went ahead") == 1
        assert world.refused_so_far() - before == WIDE - 1, "each that came too late is in the log"
    print(f"\nracing executions: {attempts} attempts, {ROUNDS} granted, {attempts - ROUNDS} refused and audited")
    assert attempts == ROUNDS * WIDE


def test_one_human_who_votes_with_two_keys_at_once_counts_once(world: World) -> None:
    attempts = 0
    for number in range(ROUNDS):
        case = asked(world)
        world.book = standard().but(deploys="R3")
        row = world.open(case.ask)
        stored = world.oracle.row(str(row.id))
        assert stored is not None
        said = said_of(stored)
        votes = [world.sign(key, said) for key in ("cid", "cid2") * (WIDE // 2)]
        given = at_once(*(partial(world.hand_in, str(row.id), vote) for vote in votes))
        attempts += len(given)
        with world.store.reading() as tx:
            assert [vote.person for vote in tx.approvals(row.id)] == ["cid"]
        late = Case(world=world, rnd=case.rnd, ask=case.ask, row=row, voters=("cid",), older=())
        assert begin(late, f"ro-v{number}")() != "went ahead"
        attempts += 1
    print(f"\nracing votes of one human: {attempts} attempts, 0 granted")
    assert (attempts, OWNED["cid2"]) == (ROUNDS * (WIDE + 1), "cid")


def test_an_approval_that_is_taken_back_while_it_is_used_is_used_before_or_not_at_all(world: World) -> None:
    attempts = went = 0
    for number in range(ROUNDS):
        case = asked(world)
        assert case.vote("ann")
        desk, change = world.desk, case.ask.change
        undo = (
            partial(desk.revoke, change, "ann", "no", ADMIN),
            partial(desk.reject, change, "no", ADMIN),
            partial(desk.revoke, change, None, "no", ADMIN),
        )[number % 3]
        given = at_once(*(begin(case, f"ro-t{number}-{n}") for n in range(number % 5)), undo)
        attempts += len(given)
        ahead = "went ahead" in given
        assert given.count("went ahead") == ahead
        went += ahead
        first = world.database.execute(
            "select action from audit where change = ? and action in"
            " ('change.used', 'change.approval-revoked', 'change.rejected', 'change.revoked') order by seq",
            (change,),
        ).fetchone()
        assert (first == ("change.used",)) == ahead
        attempts += 1
        again = begin(case, f"ro-u{number}")()
        assert again != "went ahead"
    print(f"\nused while it is taken back: {attempts} attempts, {went} granted, each before it was taken back")
