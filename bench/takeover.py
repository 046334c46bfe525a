"""Two orchestrators on one PostgreSQL database: how long until the other one writes, once the leader is gone.

Real processes in pairs, each pair with its own database on one server that the bench starts. The leader is killed,
stopped, or its connection is cut (silent: nothing comes through; closed: refused), at random moments of its lease;
measured is until the first write of the next epoch is committed. Then what was hurt is mended.
A few pairs are whole control planes (``stackctl serve``'s process). Then with busy cores: the same, and how often the
lead changed though nobody was hurt. Written by an old epoch after a newer one: counted, must be 0.

p99 is the 99th of 100 by nearest rank; its upper bound (95 %) is an order statistic, so no distribution is assumed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.figures import Figure, Report, quantile
from bench.stage import ROOT, BenchFailed, free_ports
from bench.takeover_seat import CLOCK, Burner, Cable, Seat, burning
from stack.cli.setup import prepare
from stack.cli.starting import health
from stack.config.home import Home
from stack.evals.stats import quantile_interval
from stack.rollout.tenure import TTL_S
from stack.store.store import Store
from tests.store.postgres_server import Server

TARGET_S = 10.0
KINDS = ("killed", "stopped", "cut, silent", "cut, closed")
LIMIT_S = 60.0
START_S = 240.0


@dataclass
class Pair:
    """Two seats on one database, hurt in one way."""

    kind: str
    seats: dict[str, Seat]
    file: Path
    hurt_at: float = 0.0
    hurt: Seat | None = None
    epoch: int = 0
    due: float = 0.0
    took: list[float] = field(default_factory=list)

    def lines(self) -> list[dict[str, object]]:
        """What the seats said."""
        return [json.loads(line) for line in self.file.read_text().splitlines()] if self.file.exists() else []

    def newest(self) -> tuple[str, int, float] | None:
        """Who wrote first under the newest lead, its epoch, and when."""
        led = [line for line in self.lines() if line["what"] == "led"]
        last = max(led, key=lambda line: int(str(line["epoch"])), default=None)
        return None if last is None else (str(last["who"]), int(str(last["epoch"])), float(str(last["at"])))

    def strike(self) -> None:
        """Hurt who leads now."""
        found = self.newest()
        if found is None:
            raise BenchFailed("nobody leads")
        who, self.epoch, _ = found
        self.hurt = self.seats[who]
        if self.kind == "killed":
            self.hurt_at = self.hurt.kill()
        elif self.kind == "stopped":
            self.hurt_at = self.hurt.tell(signal.SIGSTOP)
        elif self.hurt.cable is not None and self.kind == "cut, silent":
            self.hurt_at = self.hurt.cable.tell(signal.SIGSTOP)
        elif self.hurt.cable is not None:
            self.hurt_at = self.hurt.cable.kill()

    def mend(self) -> None:
        """What was hurt works again."""
        if self.hurt is None:
            return
        if self.kind == "killed":
            self.hurt.start()
        elif self.kind == "stopped":
            self.hurt.tell(signal.SIGCONT)
        elif self.hurt.cable is not None and self.kind == "cut, silent":
            self.hurt.cable.tell(signal.SIGCONT)
        elif self.hurt.cable is not None:
            self.hurt.cable.start()
        self.hurt = None

    def end(self) -> None:
        """All its processes."""
        for seat in self.seats.values():
            seat.kill()
            if seat.cable is not None:
                seat.cable.kill()


def made(server: Server, kind: str, directory: Path) -> Pair:
    """A pair that runs."""
    directory.mkdir()
    database = server.new_database()
    Store.open(server.url(database), wait_s=START_S).close()
    seats = {}
    for name in ("ann", "bob"):
        url, cable = server.url(database), None
        if kind.startswith("cut"):
            place = directory / name
            place.mkdir()
            cable = Cable(directory=place, server=server.root / f".s.PGSQL.{server.port}")
            cable.start()
            url = f"postgresql://stack@/{database}?host={place}&port={server.port}"
        seats[name] = Seat(name=name, url=url, file=directory / "said", cable=cable)
    for seat in seats.values():
        seat.start()
    return Pair(kind, seats, directory / "said")


@contextmanager
def server_for(count: int) -> Iterator[Server]:
    """One server with room for so many pairs."""
    server = Server()
    server.settings["max_connections"] = str(20 + 8 * count)
    try:
        yield server.create().start()
    finally:
        server.remove()


@contextmanager
def pairs_on(server: Server, kinds: Sequence[str]) -> Iterator[list[Pair]]:
    """Pairs, each led by somebody."""
    with tempfile.TemporaryDirectory(prefix="takeover-") as name:
        pairs: list[Pair] = []
        try:
            for number, kind in enumerate(kinds):
                pairs.append(made(server, kind, Path(name) / str(number)))
            wait_for(lambda: all(pair.newest() for pair in pairs), "a first leader of every pair", START_S)
            yield pairs
        finally:
            for pair in pairs:
                pair.end()


def wait_for(true: object, what: str, within_s: float = LIMIT_S) -> None:
    """Until it is so."""
    deadline = CLOCK.monotonic() + within_s
    while not true():  # type: ignore[operator]
        if CLOCK.monotonic() > deadline:
            raise BenchFailed(f"not within {within_s:g} s: {what}")
        CLOCK.sleep(0.02)


def take_overs(pairs: Sequence[Pair], each: int, chance: random.Random) -> None:
    """So many of every pair, all pairs side by side, at moments of their own."""
    for pair in pairs:
        pair.due = CLOCK.monotonic() + 1 + chance.random() * TTL_S
    while any(len(pair.took) < each for pair in pairs):
        for pair in pairs:
            advance(pair, each, chance)
        CLOCK.sleep(0.02)


def advance(pair: Pair, each: int, chance: random.Random) -> None:
    """Strike when it is due; see whether the other one has written."""
    now = CLOCK.monotonic()
    if pair.hurt is None:
        if len(pair.took) < each and now >= pair.due:
            pair.strike()
        return
    found = pair.newest()
    if found is not None and found[1] > pair.epoch:
        pair.took.append(found[2] - pair.hurt_at)
        pair.mend()
        pair.due = now + 1.0 + chance.random() * TTL_S / 2
    elif now - pair.hurt_at > LIMIT_S:
        raise BenchFailed(f"nobody took over within {LIMIT_S:g} s ({pair.kind})")


def leads(pairs: Sequence[Pair]) -> int:
    """How often a lead began."""
    return sum(line["what"] == "led" for pair in pairs for line in pair.lines())


def late(pairs: Sequence[Pair]) -> int:
    """Rows of an old epoch after a newer one's."""
    return sum(line["what"] == "late" for pair in pairs for line in pair.lines())


def light(each: int, per_kind: int, chance: random.Random) -> tuple[dict[str, list[float]], int]:
    """Take-overs by kind, and late rows."""
    kinds = [kind for kind in KINDS for _ in range(per_kind)]
    with server_for(len(kinds)) as server, pairs_on(server, kinds) as pairs:
        take_overs(pairs, each, chance)
        CLOCK.sleep(2.0)  # who was mended last goes on meanwhile
        took = {kind: sorted(t for p in pairs if p.kind == kind for t in p.took) for kind in KINDS}
        return took, late(pairs)


def under_load(each: int, per_kind: int, quiet_s: float, chance: random.Random) -> tuple[list[float], int, int]:
    """Twice as many computing processes as cores: changes of the lead without cause, then take-overs; late rows."""
    kinds = [kind for kind in KINDS for _ in range(per_kind)]
    with server_for(len(kinds)) as server, pairs_on(server, kinds) as pairs, ExitStack() as after:
        busy: list[Burner] = list(burning(2 * len(os.sched_getaffinity(0))))
        for one in busy:
            after.callback(one.kill)
        before = leads(pairs)
        CLOCK.sleep(quiet_s)
        take_overs(pairs, each, chance)
        took = sorted(t for pair in pairs for t in pair.took)
        return took, leads(pairs) - before - len(took), late(pairs)


@dataclass
class Whole:
    """A control plane as ``stackctl serve`` runs it, with a home of its own."""

    home: Path
    url: str
    process: subprocess.Popen[bytes] | None = None
    port: int = 0

    def start(self) -> None:
        """In the background, its log in its home."""
        ports = free_ports(2)
        self.port = ports[0]
        words = [sys.executable, "-m", "stack.api", "--home", str(self.home), "--stack", str(ROOT / "stack.yaml")]
        mine = {"STACK_DATABASE": self.url, "STACK_ADMIN_PORT": str(ports[0]), "STACK_GATEWAY_PORT": str(ports[1])}
        environment = {**os.environ, **mine, "STACK_HOME": str(self.home), "PYTHONPATH": str(ROOT)}
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=log, stderr=log)

    def end(self, number: signal.Signals = signal.SIGKILL) -> float:
        """The moment just before."""
        at = CLOCK.monotonic()
        if self.process is not None:
            self.process.send_signal(number)
            if number is signal.SIGKILL:
                self.process.wait()
        return at


def whole(count: int, chance: random.Random) -> list[float]:
    """Take-overs of one pair of whole control planes: killed and stopped in turns; seen every 10 ms in the database."""
    took: list[float] = []
    with server_for(2) as server, tempfile.TemporaryDirectory(prefix="takeover-") as name:
        database = server.new_database()
        both = [Whole(home_in(Path(name) / who), server.url(database)) for who in ("ann", "bob")]
        store = Store.open(server.url(database), wait_s=START_S)
        try:
            for one in both:
                one.start()
            for number in range(count):
                wait_for(lambda: led_by(store) and all(map(ready, both)), "two control planes, one leads", START_S)
                CLOCK.sleep(1.0 + chance.random() * TTL_S)
                took.append(one_whole(store, both, signal.SIGKILL if number % 2 else signal.SIGSTOP))
        finally:
            for one in both:
                one.end()
            store.close()
    return sorted(took)


def one_whole(store: Store, both: Sequence[Whole], how: signal.Signals) -> float:
    """One take-over, mended."""
    epoch, holder, _ = led_by(store) or (0, "", 0)
    victim = next(one for one in both if str(one.home) in holder)
    at = victim.end(how)
    with store.reading() as tx:
        table = (tx.latest_table() or {"version": 0})["version"]
    wait_for(lambda: (led_by(store) or (0, "", 0))[0] > epoch, "another leads")
    wait_for(lambda: (led_by(store) or (0, "", 0))[2] > table, "it has written")
    took = CLOCK.monotonic() - at
    victim.end(signal.SIGCONT) if how is signal.SIGSTOP else victim.start()
    return took


def led_by(store: Store) -> tuple[int, str, int] | None:
    """Epoch and holder of the lease, and the newest table, which every new leader writes first."""
    with store.reading() as tx:
        lease, table = tx.lease("orchestrator"), tx.latest_table()
    return None if lease is None or table is None else (lease.epoch, lease.holder, int(table["version"]))


def ready(one: Whole) -> bool:
    """It answers: it does so once it asks for the lease."""
    return one.process is not None and one.process.poll() is None and health(one.port) == 200


def home_in(path: Path) -> Path:
    """A state directory with its secrets."""
    prepare(Home(path))
    return path


def measure(*, quick: bool) -> Report:
    """Light pairs, whole control planes, and light pairs under load."""
    chance = random.Random(20261121)
    each, per_kind, wholes, quiet_s = (2, 1, 2, 5.0) if quick else (16, 5, 8, 100.0)
    by_kind, too_late = light(each, per_kind, chance)
    for kind, found in by_kind.items():
        say(kind, found)
    control_planes = whole(wholes, chance)
    say("whole", control_planes)
    pairs = len(KINDS) * (1 if quick else 4)
    loaded, without_cause, late_loaded = under_load(2 if quick else 5, pairs // len(KINDS), quiet_s, chance)
    say("busy cores", loaded)
    every = sorted([t for found in by_kind.values() for t in found])
    bound = quantile_interval(every, 0.99, 0.90)[1]
    figures = [
        Figure(name="take-over, p99", unit="s", values=tuple(every), target=TARGET_S, quantile=0.99),
        Figure(name="  upper bound of p99, 95 %", unit="s", values=() if bound is None else (bound,), target=TARGET_S,
               note=f"n = {len(every)}"),
        *(spread(kind, found) for kind, found in by_kind.items()),
        Figure(name="  whole control planes, p99", unit="s", values=tuple(control_planes), target=TARGET_S,
               quantile=0.99),
        Figure(name="  with busy cores, p99", unit="s", values=tuple(loaded), target=TARGET_S, quantile=0.99),
        Figure(name="leads that changed without cause, busy cores", unit="", values=(float(without_cause),), target=0.0,
               note=f"{pairs} pairs, {quiet_s:g} s in which nobody was hurt, {len(loaded)} take-overs"),
        Figure(name="rows of an old epoch after a newer one's", unit="", values=(float(too_late + late_loaded),),
               target=0.0),
    ]  # fmt: skip
    lines = [line(kind, found) for kind, found in {"all": every, **by_kind, "whole": control_planes}.items()]
    details = {"lease_s": TTL_S, "by_kind": by_kind, "whole": control_planes, "busy": loaded}
    return Report(bench="takeover", figures=tuple(figures), details=details, lines=tuple(lines))


def say(kind: str, found: Sequence[float]) -> None:
    """What is known already; the table comes at the end."""
    print(line(kind, found), file=sys.stderr, flush=True)


def spread(kind: str, found: Sequence[float]) -> Figure:
    """The line of one kind."""
    return Figure(name=f"  {kind}, p99", unit="s", values=tuple(found), target=TARGET_S, quantile=0.99)


def line(kind: str, found: Sequence[float]) -> str:
    """Its quantiles."""
    shown = ", ".join(f"{name} {quantile(found, q):.2f}" for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)))
    return f"take-over, {kind}: n {len(found)}, {shown}, longest {max(found):.2f} s"
