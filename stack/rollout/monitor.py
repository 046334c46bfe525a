"""Looks at the replicas that should serve, about every second while this orchestrator leads, and has the sick started
again. I/O: what a look means is decided in ``wellness``, the restart itself is in ``restarting``.

Each probe and each restart has a thread of its own, so nothing that an engine does holds up the looks; a probe that
takes too long is over for the monitor all the same. One replica of a service is started again at a time. Candidates
belong to their rollout: the gateway's figures of them are read, so that it is known that they were well once they
serve, but they are not probed and not started again. The routing table is not touched: a sick replica is the gateway's
to avoid.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stack.core.clock import Clock
from stack.core.errors import StackError
from stack.core.names import ReplicaId
from stack.core.release import Release
from stack.gateway.control import GatewayControl
from stack.gateway.errors import GatewayUnavailable
from stack.rollout.authority import Authority
from stack.rollout.hosts import Hosts
from stack.rollout.restarting import Restarter, Underway, serving
from stack.rollout.tables import ROUTABLE
from stack.rollout.tenure import Leadership
from stack.rollout.wellness import (
    Condition,
    Limits,
    Look,
    Outcome,
    Probe,
    Wellness,
    first_seen,
    judged,
    loading,
    wants_probe,
)
from stack.runtimes.driver import driver_for
from stack.runtimes.health import Health, check_health
from stack.runtimes.heartbeat import heartbeat
from stack.store.rows import ReplicaRow
from stack.store.store import Store

log = logging.getLogger(__name__)

ANSWER_S = 5.0
"""How long each of a probe's questions waits."""
PROBES = 100
"""How many are begun in one look: each costs about 2 ms of CPU here. More than 500 replicas, of which none is in doubt,
are therefore asked less often than ``idle_every_s``: 2,000 every 20 s."""
_BEAT_S = 1.0
_GATEWAY_S = 1.0
_ENDING_S = 10.0
_FIRST = {Outcome.DOWN: 0, Outcome.LATE: 1, Outcome.WRONG: 2}


@dataclass
class Watched:
    """What this orchestrator knows of one replica, and what is under way with it."""

    state: Wellness
    answered: int | None = None
    asked_at: float | None = None
    asked: list[Probe] | None = None
    restart: threading.Thread | None = None
    after: Wellness | None = None


@dataclass
class Monitor:
    """``led`` is called with each new leadership, ``stop`` when the process ends."""

    store: Store
    control: GatewayControl
    hosts: Hosts
    authority: Authority
    clock: Clock
    limits: Limits = field(default_factory=Limits)
    _stop: threading.Event = field(default_factory=threading.Event, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)
    _watch: Watch | None = field(default=None, init=False)

    def led(self, lead: Leadership) -> None:
        """Look from now on, for as long as it lasts."""
        self._watch = Watch(self, lead, self._stop)
        self._thread = threading.Thread(target=self._watch.run, name="monitor", daemon=True)
        self._thread.start()

    def conditions(self) -> dict[ReplicaId, Wellness]:
        """What is known of each replica; nothing while this orchestrator does not lead."""
        return {} if self._watch is None else {i: w.state for i, w in dict(self._watch.watched).items()}

    def stop(self) -> None:
        """No further looks; what is under way is interrupted and waited for, within bounds."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_ENDING_S)


class Watch:
    """The looks of one leadership."""

    def __init__(self, monitor: Monitor, lead: Leadership, stop: threading.Event) -> None:
        self._monitor = monitor
        self._limits = monitor.limits
        self._clock = monitor.clock
        self._lead = lead
        self._stop = stop
        self._control = GatewayControl(monitor.control.path, _GATEWAY_S)
        self._boot = ""
        self.watched: dict[ReplicaId, Watched] = {}
        self._restarter = Restarter(
            store=monitor.store,
            hosts=monitor.hosts,
            authority=monitor.authority,
            clock=monitor.clock,
            limits=monitor.limits,
        )

    def run(self) -> None:
        """Until the lead is over."""
        while not self._stop.wait(self._limits.look_s) and not self._lead.gone.is_set():
            try:
                self.look()
            except StackError as error:
                log.warning("replicas can't be looked at yet: %s", error.message)
        for watched in self.watched.values():
            if watched.restart is not None:
                watched.restart.join(_ENDING_S)

    def look(self) -> None:
        """At all of them, once."""
        with self._monitor.store.reading() as tx:
            known = self._monitor.hosts.inventory
            mine = {row.id: row for row in serving(tx) if row.host in known}
            others = [r for r in tx.replicas(live_only=True) if r.state == "ready" and r.slice in ROUTABLE]
            rows = {**{row.id: row for row in others if row.host in known}, **mine}
            releases = {digest: tx.release(digest) for digest in {row.release for row in rows.values()}}
        busy = {i for i, w in self.watched.items() if w.restart is not None and w.restart.is_alive()}
        self.watched = {i: w for i, w in self.watched.items() if i in rows or i in busy}
        counted = self._counted()
        now = self._clock.monotonic()
        seen = [row for row in rows.values() if row.id not in busy]
        due = [row for row in seen if self._look_at(row, releases[row.release], counted, now) and row.id in mine]
        for row in sorted(due, key=self._turn)[:PROBES]:
            self._probe(row, releases[row.release], self.watched[row.id], now)
        self._act(mine, busy)

    def _turn(self, row: ReplicaRow) -> tuple[bool, float]:
        """Those in doubt first, then those that were asked longest ago."""
        watched = self.watched[row.id]
        return watched.state.condition.fine, -1.0 if watched.asked_at is None else watched.asked_at

    def _look_at(self, row: ReplicaRow, release: Release, counted: Mapping[str, Any] | None, now: float) -> bool:
        """Judge what there is to see; whether it should be probed."""
        watched = self.watched.setdefault(row.id, Watched(first_seen(now)))
        if watched.restart is not None:
            self.watched[row.id] = watched = Watched(watched.after or first_seen(now))
        look = self._seen(row, release, watched, counted, now)
        before, watched.state = watched.state, judged(watched.state, look, self._limits)
        changed = watched.state.condition is not before.condition
        if changed and not (before.condition.fine and watched.state.condition.fine):
            log.info("%s: %s (%s)", row.id, watched.state.condition, watched.state.reason)
        return watched.asked is None and wants_probe(watched.state, look, watched.asked_at, self._limits)

    def _seen(
        self, row: ReplicaRow, release: Release, watched: Watched, counted: Mapping[str, Any] | None, now: float
    ) -> Look:
        figures = None if counted is None else counted.get(str(row.id), {})
        total = None if figures is None else int(figures.get("by_status", {}).get("200", 0))
        since = 0 if total is None or watched.answered is None else max(0, total - watched.answered)
        watched.answered = total
        return Look(
            at=now,
            slots=release.launch.parallel,
            inflight=None if figures is None else int(figures.get("inflight", 0)),
            answers=since,
            failures=0 if figures is None else int(figures.get("consecutive_failures", 0)),
            probe=self._ended_probe(watched, now),
        )

    def _ended_probe(self, watched: Watched, now: float) -> Probe | None:
        if watched.asked is None or watched.asked_at is None:
            return None
        over = watched.asked[0] if watched.asked else None
        if over is None and now - watched.asked_at >= self._limits.probe_s:
            why = f"no three checks within {self._limits.probe_s:g} s"
            over = Probe(began=watched.asked_at, outcome=Outcome.LATE, reason=why)
        if over is not None:
            watched.asked = None
        return over

    def _counted(self) -> Mapping[str, Any] | None:
        """What the gateway counted for each replica; None when it can't be asked, or was started anew."""
        try:
            samples = self._control.counters()
        except GatewayUnavailable:
            return None
        if samples["boot_id"] != self._boot:
            self._boot = str(samples["boot_id"])
            for watched in self.watched.values():
                watched.answered = None
        return dict(samples["targets"])

    def _probe(self, row: ReplicaRow, release: Release, watched: Watched, now: float) -> None:
        base = f"http://{self._monitor.hosts.inventory[row.host].address}:{row.port}"
        asked: list[Probe] = []

        def ask() -> None:
            driver = driver_for(release.runtime.engine)
            beat = heartbeat(base, driver, release, clock=self._clock, timeout_s=_BEAT_S)
            health = check_health(base, driver, release, clock=self._clock, timeout_s=ANSWER_S, progress=beat)
            asked.append(outcome_of(health, now))

        watched.asked, watched.asked_at = asked, now
        threading.Thread(target=ask, name=f"probe-{row.id}", daemon=True).start()

    def _act(self, rows: Mapping[ReplicaId, ReplicaRow], busy: set[ReplicaId]) -> None:
        """Those first from whom nothing is to be lost."""
        taken = {rows[i].service for i in busy if i in rows}
        sick = [(row, self.watched[i]) for i, row in rows.items() if i not in busy and i in self.watched]
        sick = [(row, w) for row, w in sick if w.state.condition is Condition.SICK]
        for row, watched in sorted(sick, key=lambda found: _FIRST.get(found[1].state.outcome or Outcome.WRONG, 9)):
            if row.service in taken:
                continue
            with self._monitor.store.reading() as tx:
                held = self._restarter.held(tx, row)
            if held is None:
                taken.add(row.service)
                self._restart(row, watched)
            elif held.for_good and not held.told:
                self._restarter.give_up(row, watched.state, held, self._lead)

    def _restart(self, row: ReplicaRow, watched: Watched) -> None:
        context = Underway(lead=self._lead, stop=self._stop)
        work = (row, watched, context)
        watched.restart = threading.Thread(target=self._bring_back, args=work, name=f"restart-{row.id}", daemon=True)
        watched.restart.start()

    def _bring_back(self, row: ReplicaRow, watched: Watched, context: Underway) -> None:
        try:
            watched.after = self._loading(row, watched.state, context)
            if watched.after is not None:
                log.info("%s: %s (%s)", row.id, watched.after.condition, watched.after.reason)
            else:
                self._restarter.restart(row, watched.state, context)
        except StackError as error:
            log.warning("restart of %s: %s", row.id, error.message)

    def _loading(self, row: ReplicaRow, state: Wellness, context: Underway) -> Wellness | None:
        """Not sick: its supervisor has just started it. The host is asked, unless answers were wrong."""
        if state.outcome is Outcome.WRONG:
            return None
        age = self._restarter.age_s(row, context)
        found = loading(state, age, self._restarter.ready_s(row), self._clock.monotonic())
        return found if found.condition is Condition.LOADING else None


def outcome_of(health: Health, began: float) -> Probe:
    """What a check proves. One that took as long as a question may wait was late, whatever came then; an honest HTTP
    error is no answer, so it is not a wrong one."""
    if health.ok:
        outcome = Outcome.MOVING if health.notes else Outcome.GOOD
        return Probe(began=began, outcome=outcome, reason="; ".join(health.notes) or "all three checks")
    honest = health.listed and all(reason.startswith("completion: HTTP ") for reason in health.reasons)
    if health.seconds >= ANSWER_S:
        outcome = Outcome.LATE
    else:
        outcome = Outcome.DOWN if not health.live or honest else Outcome.WRONG
    return Probe(began=began, outcome=outcome, reason=health.reason, live=health.live)
