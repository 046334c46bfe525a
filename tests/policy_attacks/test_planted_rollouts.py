"""Rollouts that somebody puts into the store behind the API, or whose ground changes before the worker begins them.

The real runner, the real gate and the real planner, over files that are really edited; the effects behind the first
step are counted instead of carried out. Without its approval none of them may get as far as one effect.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from attack_world import BEGIN, HOUR, World, rollout, standard
from rulebook import said_of

from stack.config.stack_yaml import load_stack
from stack.core.actions import Action
from stack.core.digest import Digest
from stack.fleet.values import Host
from stack.registry.store import ContentStore
from stack.rollout.gatekeeper import Ask
from stack.rollout.machine import Failed, Observation
from stack.rollout.performer import RolloutPerformer
from stack.rollout.plan import Plan
from stack.rollout.planner import Planner
from stack.rollout.state import Phase, RolloutState
from stack.rollout.worker import LEASE, Context, Leadership, Runner
from stack.runtimes.locks import LOCKS_DIR
from stack.store.rows import RolloutRow, ServiceRow

REPOSITORY = Path(__file__).resolve().parents[2]
ROUNDS = 12


class Nobody:
    """Keeps no reports."""

    def finished(self, state: RolloutState) -> None:
        return None


@dataclass
class Stage:
    """One control plane, one service, a plan of it, and everything that the plan was made of as files of its own."""

    world: World
    root: Path
    planner: Planner
    effects: list[str] = field(default_factory=list)
    number: int = 0

    def performer(self) -> RolloutPerformer:
        """The real one: nothing behind its first step is there, so nothing behind it may be asked."""
        names = ("smoke", "evaluate", "confirm", "hold", "for_approval", "for_a_person")
        names += ("measure", "queue", "drain", "start", "restore")
        nothing: Any = SimpleNamespace(**dict.fromkeys(names))
        return RolloutPerformer(
            hosts=nothing,
            swapping=nothing,
            gates=nothing,
            holding=nothing,
            waiting=nothing,
            planner=self.planner,
            routes=nothing,
            clock=self.world.clock,
        )

    def perform(self, state: RolloutState, context: Context) -> Observation:
        if state.phase is Phase.PLANNED:
            return self.performer().perform(state, context)
        self.effects.append(str(state.phase))
        return Failed(reason="no such host")

    def plan(self, **changed: Any) -> tuple[Plan, Ask]:
        self.number += 1
        plan = self.planner.deploy(self.planner.service(None), None, None, "production")
        said: dict[str, Any] = {"requester": "dan", "change": f"CHG-p{self.number}", "target": "tiny"} | changed
        return plan, Ask(action=Action.DEPLOY, environment="production", plan=plan.digest, **said)

    def approved(self, ask: Ask) -> str:
        """A request that ann signed."""
        row = self.world.open(ask)
        stored = self.world.oracle.row(str(row.id))
        assert stored is not None
        assert self.world.hand_in(str(row.id), self.world.sign("ann", said_of(stored)))
        return str(row.id)

    def plant(self, plan: Plan, ask: Ask, request: str, **more: Any) -> str:
        """The row alone, with all that it names."""
        name, now = f"ro-p{self.number}", self.world.clock.now()
        state = rollout(ask, request, name, release=plan.release.digest, **more)
        with self.world.store.transaction() as tx:
            tx.put_service(ServiceRow(name=state.service, weights={}, environment="production", updated_at=now))
            tx.put_release(plan.release)
            if plan.digest == ask.plan:
                tx.put_plan(plan.digest, plan.to_json())
            tx.insert_rollout(
                RolloutRow(
                    id=state.id,
                    service=state.service,
                    kind=state.kind,
                    phase=str(state.phase),
                    state=state.to_json(),
                    created_at=now,
                    updated_at=now,
                )
            )
        return name

    def run(self, name: str) -> tuple[str, int]:
        """How it ended, and how many refusals were recorded on the way; raises nothing."""
        world, before = self.world, self.world.refused_so_far()
        with world.store.transaction() as tx:
            lease = tx.acquire_lease(LEASE, "w", 60)
        assert lease is not None
        lead = Leadership(lease=lease, gone=threading.Event())
        runner = Runner(world.store, self, world.authority, Nobody(), world.clock, lead, rollout_id(world, name))
        runner.run()
        with world.store.reading() as tx:
            row = tx.rollout(name)
        assert row.closed, "it ends, and is not tried again for ever"
        ends = "select count(*) from audit where body_json like ? and action like 'rollout.%'"
        (told,) = world.database.execute(ends, (f"%{name}%",)).fetchone()
        assert told, "how it ended is in the log"
        return row.phase, world.refused_so_far() - before


def rollout_id(world: World, name: str) -> Any:
    with world.store.reading() as tx:
        return tx.rollout(name).id


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    root = tmp_path_factory.mktemp("stage")
    world = World.made(root)
    shutil.copytree(REPOSITORY / "playbooks", root / "playbooks", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(REPOSITORY / "models" / "evals", root / "evals")
    settings = load_stack(REPOSITORY / "stack.yaml")
    (name, service), *_ = settings.services.items()
    suites = replace(
        service.suites, smoke=root / "evals" / "tiny-smoke.yaml", evaluation=root / "evals" / "tiny-eval.yaml"
    )
    settings = replace(settings, services={name: replace(service, suites=suites)})
    content = ContentStore(root / "store")
    content.prepare()
    planner = Planner(
        settings=settings,
        store=world.store,
        content=content,
        inventory={
            host: Host(name=host, root="/opt/stack", connection="local", address="127.0.0.1") for host in settings.hosts
        },
        policies=world.policies,
        playbooks=root / "playbooks",
        locks=LOCKS_DIR,
    )
    yield Stage(world, root, planner)
    world.close()


@pytest.fixture(autouse=True)
def anew(stage: Stage) -> None:
    stage.world.clock.at, stage.world.book = BEGIN, standard()
    stage.effects.clear()


def test_what_is_approved_and_as_planned_begins(stage: Stage) -> None:
    for _ in range(ROUNDS):
        plan, ask = stage.plan()
        phase, refusals = stage.run(stage.plant(plan, ask, stage.approved(ask)))
        assert (phase, refusals) == ("rolled_back", 0)
    assert stage.effects == ["preflight"] * ROUNDS


def _without(stage: Stage) -> str:
    plan, ask = stage.plan()
    return stage.plant(plan, ask, "")


def _invented(stage: Stage) -> str:
    plan, ask = stage.plan()
    return stage.plant(plan, ask, "rq-" + "q" * 20)


def _unsigned(stage: Stage) -> str:
    plan, ask = stage.plan()
    return stage.plant(plan, ask, str(stage.world.open(ask).id))


def _somebody_elses(stage: Stage) -> str:
    plan, ask = stage.plan()
    _, other = stage.plan()
    return stage.plant(plan, ask, stage.approved(other))


def _used(stage: Stage) -> str:
    plan, ask = stage.plan()
    request = stage.approved(ask)
    stage.run(stage.plant(plan, ask, request))
    stage.effects.clear()
    stage.number += 1
    return stage.plant(plan, ask, request)


def _expires_meanwhile(stage: Stage) -> str:
    plan, ask = stage.plan()
    name = stage.plant(plan, ask, stage.approved(ask))
    stage.world.clock.at = BEGIN + 8 * HOUR
    return name


def _freeze_meanwhile(stage: Stage) -> str:
    plan, ask = stage.plan()
    name = stage.plant(plan, ask, stage.approved(ask))
    stage.world.clock.at = BEGIN + 5 * HOUR + timedelta(minutes=1)
    return name


def _nowhere(stage: Stage) -> str:
    plan, ask = stage.plan()
    return stage.plant(plan, replace(ask, environment="moon"), "")


REFUSED: dict[str, Callable[[Stage], str]] = {
    "no approval": _without,
    "a request that is not there": _invented,
    "a request that nobody signed": _unsigned,
    "somebody else's request": _somebody_elses,
    "a request that is used": _used,
    "it expires before the worker begins": _expires_meanwhile,
    "a freeze begins before the worker does": _freeze_meanwhile,
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_planted_rollout_has_no_effect_and_its_refusal_is_recorded(stage: Stage, kind: str) -> None:
    for _ in range(ROUNDS):
        stage.world.clock.at = BEGIN
        phase, refusals = stage.run(REFUSED[kind](stage))
        assert (phase, refusals, stage.effects) == ("rolled_back", 1, [])
    print(f"\nplanted: {kind}: {ROUNDS} attempts, 0 effects, {ROUNDS} audited")


def test_an_environment_that_nobody_knows_is_no_way_either(stage: Stage) -> None:
    for _ in range(ROUNDS):
        stage.run(_nowhere(stage))
    assert stage.effects == []


def _appended(path: Path, text: bytes = b"\n# x\n") -> Callable[[], None]:
    kept = path.read_bytes()
    path.write_bytes(kept + text)

    def back() -> None:
        path.write_bytes(kept)

    return back


def _added(path: Path) -> Callable[[], None]:
    path.write_text("- hosts: all\n")
    return path.unlink


def _set(stage: Stage, **changed: Any) -> Callable[[], None]:
    kept = stage.planner
    (name, service), *_ = kept.settings.services.items()
    settings = replace(kept.settings, services={name: replace(service, **changed)})
    stage.planner = replace(kept, settings=settings)
    return partial(setattr, stage, "planner", kept)


def _inventory(stage: Stage, **changed: Any) -> Callable[[], None]:
    kept = stage.planner
    moved = {name: replace(host, **changed) for name, host in kept.inventory.items()}
    stage.planner = replace(kept, inventory=moved)
    return partial(setattr, stage, "planner", kept)


def _book(stage: Stage, **changed: Any) -> Callable[[], None]:
    stage.world.book = standard().but(**changed)
    return partial(setattr, stage.world, "book", standard())


def _rollout(stage: Stage, **changed: Any) -> Callable[[], None]:
    (service,) = stage.planner.settings.services.values()
    parts = {name: replace(getattr(service.rollout, name), **values) for name, values in changed.items()}
    return _set(stage, rollout=replace(service.rollout, **parts))


def _ladder(stage: Stage) -> Callable[[], None]:
    (service,) = stage.planner.settings.services.values()
    return _set(stage, rollout=replace(service.rollout, replay="off"))


def _served(stage: Stage, plan: Plan) -> Callable[[], None]:
    """Something else serves by now."""
    row = ServiceRow(
        name=plan.service, stable=plan.release.digest, weights={"stable": 100}, updated_at=stage.world.clock.now()
    )
    with stage.world.store.transaction() as tx:
        before = tx.service("tiny")
        tx.put_service(replace(row, environment="production"))

    def back() -> None:
        with stage.world.store.transaction() as tx:
            tx.put_service(before)

    return back


EDITS: dict[str, Callable[[Stage, Plan], Callable[[], None]]] = {
    "playbook edited": lambda stage, _: _appended(stage.root / "playbooks" / "deploy.yml"),
    "playbook added": lambda stage, _: _added(stage.root / "playbooks" / "roles" / "evil.yml"),
    "smoke suite edited": lambda stage, _: _appended(stage.root / "evals" / "tiny-smoke.yaml"),
    "eval suite edited": lambda stage, _: _appended(stage.root / "evals" / "tiny-eval.yaml"),
    "inventory: another address": lambda stage, _: _inventory(stage, address="10.6.6.6"),
    "inventory: another root": lambda stage, _: _inventory(stage, root="/tmp/other"),
    "inventory: another interpreter": lambda stage, _: _inventory(stage, python="/tmp/python"),
    "vars: more replicas": lambda stage, _: _set(stage, replicas=7),
    "vars: laxer thresholds": lambda stage, _: _rollout(stage, thresholds={"max_error_rate": 1.0}),
    "vars: shorter holds": lambda stage, _: _rollout(stage, hold={"min_requests": 1}),
    "vars: no replay": lambda stage, _: _ladder(stage),
    "policy: a comment": lambda stage, _: _book(stage, note="# x\n"),
    "policy: a laxer class": lambda stage, _: _book(stage, deploys="R1"),
    "policy: an approver demoted": lambda stage, _: _book(stage, people={**standard().people, "ann": ()}),
    "starting state: something else serves": _served,
}


@pytest.mark.parametrize("kind", EDITS)
def test_what_was_edited_between_approval_and_execution_stops_it(stage: Stage, kind: str) -> None:
    """By the planner (what would be done is not what was planned), or by the gate where the policies were edited."""
    for _ in range(ROUNDS):
        plan, ask = stage.plan()
        name = stage.plant(plan, ask, stage.approved(ask))
        undo = EDITS[kind](stage, plan)
        try:
            phase, _refusals = stage.run(name)
        finally:
            undo()
        assert (phase, stage.effects) == ("rolled_back", [])
        with stage.world.store.reading() as tx:
            assert "not what was planned" in tx.rollout(name).state["reason"]
    print(f"\nedited: {kind}: {ROUNDS} attempts, 0 effects")


def test_the_digest_of_another_plan_does_not_help(stage: Stage) -> None:
    """The approved plan is named, and something else is brought in."""
    for _ in range(ROUNDS):
        plan, ask = stage.plan()
        other = replace(plan, release=replace(plan.release, artifact=Digest.of(f"{stage.number}".encode())))
        with stage.world.store.transaction() as tx:
            tx.put_plan(plan.digest, plan.to_json())
        stage.run(stage.plant(other, ask, stage.approved(ask)))
    assert stage.effects == []
