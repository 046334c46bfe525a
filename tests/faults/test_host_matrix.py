"""Three real SSH hosts, one of them in trouble, and two services that clients use all the while: a rollout names the
host and stops, or goes on with the other two, as its service's settings say. No request fails.

Also what becomes of a host that was away, with a replica on it that serves, or with one that nobody wants any more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

import pytest
from clients import PlainClients
from fleet_stack import ssh_hosts
from running_stack import until
from troubled_hosts import (
    LATER,
    LENIENT,
    SERVICES,
    STRICT,
    Trouble,
    TwoServices,
    answers_again,
    full,
    half_deployed,
    slow,
    stands_still,
    unreachable,
)

from stack.gateway.health import THRESHOLD

pytestmark = [pytest.mark.faults, pytest.mark.hosts, pytest.mark.timeout(1800)]
WITHIN_S = 400.0


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoServices]:
    with ssh_hosts(3) as group:
        made = TwoServices.on_three(tmp_path_factory.mktemp("matrix"), group)
        made.install_once()
        made.up()
        try:
            begun = [made.begin_on(service, made.model("1.0", "1.0")) for service in SERVICES]
            for rollout in begun:
                assert made.ended(rollout, within_s=WITHIN_S)["phase"] == "promoted", made.lines(rollout)[-5:]
            yield made
        finally:
            made.down()


def left_out(fleet: TwoServices, rollout: str) -> list[str]:
    return [line for line in fleet.lines(rollout) if " is left out: " in line]


def stopped_for(fleet: TwoServices, rollout: str, said: str, codes: tuple[int, ...] = (4,)) -> str:
    """The rollout stopped because of the third host, which is named with its trouble; why."""
    watched = fleet.watched(rollout)
    reason = str(fleet.row(rollout)["reason"])
    assert watched.returncode in codes, watched.stdout + watched.stderr
    assert re.search(rf"\b{fleet.third.name}: |host {fleet.third.name}\b", reason) and said in reason.lower(), reason
    assert reason.split("\n")[0] in watched.stdout + watched.stderr, watched.stdout
    assert not any(replica.startswith(f"{STRICT}-{rollout[3:]}") for replica in fleet.routed())
    return reason


def went_on_without(fleet: TwoServices, rollout: str, said: str) -> None:
    """The other two carry it, and the third is named once."""
    first, second, third = (host.name for host in fleet.group.hosts)
    assert fleet.places(rollout) == [first, second]
    (line,) = left_out(fleet, rollout)
    assert line.startswith(f"{third} is left out: ") and said in line.lower(), line


TROUBLES = [(unreachable, "unreachable"), (slow, "unreachable"), (full, "disk are free")]


@pytest.mark.parametrize(("trouble", "said"), TROUBLES, ids=[trouble.__name__ for trouble, _ in TROUBLES])
def test_a_host_in_trouble_from_the_start(
    fleet: TwoServices, counted: Callable[[str], None], trouble: Trouble, said: str
) -> None:
    manifest = fleet.model("1.2", "1.2")
    with PlainClients(fleet) as clients:
        with trouble(fleet):
            strict, lenient = (fleet.begin_on(service, manifest) for service in SERVICES)
            reason = stopped_for(fleet, strict, said)
            until(lambda: fleet.row(lenient)["phase"] in LATER, WITHIN_S)
            went_on_without(fleet, lenient, said)
            fleet.must("rollout", "abort", lenient, "--reason", "shown", "--no-wait")
            assert fleet.ended(lenient, within_s=WITHIN_S)["phase"] == "rolled_back"
        answers_again(fleet)
    assert clients.failures == []
    assert clients.answered > 0
    name = trouble.__name__  # type: ignore[attr-defined]
    counted(f"{name}, may fail 0: stopped, exit 4: {reason[:110]}")
    counted(f"{name}, may fail 1: on with 2 of 3; 0 of {clients.answered} requests failed")


def test_a_host_that_goes_away_in_the_middle_and_comes_back_half_deployed(
    fleet: TwoServices, counted: Callable[[str], None]
) -> None:
    """It has started engines that nobody heard of. They are not routed to, and the next rollouts end them."""
    third = fleet.third
    with PlainClients(fleet) as clients:
        before = fleet.launched()
        strict, lenient = (fleet.begin_on(service, fleet.model("1.1", "1.1")) for service in SERVICES)
        until(lambda: any(replica.startswith(LENIENT) for replica in fleet.launched() - before), WITHIN_S, 0.02)
        with unreachable(fleet):
            reason = stopped_for(fleet, strict, "", codes=(3, 4))  # 3 once it was started: that is evidence
            over = fleet.ended(lenient, within_s=WITHIN_S)
            assert over["phase"] == "promoted", fleet.lines(lenient)[-5:]
            went_on_without(fleet, lenient, "")
        answers_again(fleet)
        unwanted = fleet.launched() - before
        assert any(replica.startswith(LENIENT) for replica in unwanted), "its engine runs, and nobody heard of it"
        assert not unwanted & set(fleet.routed())
        rows = fleet.rows("select id, state, slice from replicas where state != 'stopped'")
        assert {(r["state"], r["slice"]) for r in rows if r["id"] in unwanted} == {("draining", "retired")}
        needed = [note for note in (*fleet.row(strict)["notes"], *over["notes"]) if "needs an operator" in note]
        counted(f"away in the middle, may fail 0: stopped, put back, exit 3 or 4: {reason[:110]}")
        counted("away in the middle, may fail 1: promoted on 2 of 3")
        half_deployed(fleet, artifact_of(fleet, strict))
        again = [fleet.begin_on(service, fleet.model("1.1.1", "1.1")) for service in SERVICES]
        for rollout in again:
            assert fleet.ended(rollout, within_s=WITHIN_S)["phase"] == "promoted", fleet.lines(rollout)[-5:]
            assert third.name in fleet.places(rollout)
            assert left_out(fleet, rollout) == []
        assert not unwanted & fleet.launched(), "the next rollouts ended them"
        assert not unwanted & set(fleet.answered_by)
    assert clients.failures == []
    counted(
        f"half-deployed, may fail 0 and 1: promoted on 3 of 3; {len(unwanted)} unwanted replicas ended, "
        f"{len(needed)} notes for an operator; 0 of {clients.answered} requests failed"
    )


def artifact_of(fleet: TwoServices, rollout: str) -> str:
    (row,) = fleet.rows("select body from releases where digest = ?", fleet.row(rollout)["release"])
    return str(json.loads(row["body"])["artifact"])


@pytest.mark.parametrize("known", ["wrong", "unknown"])
def test_a_host_with_another_key_is_sent_nothing(
    fleet: TwoServices, counted: Callable[[str], None], known: str
) -> None:
    file, third = fleet.home / "known_hosts", fleet.third
    right = file.read_text(encoding="ascii")
    others = [line for line in right.splitlines() if not line.startswith(f"{third.address} ")]
    (first, *_) = others
    replaced = [f"{third.address} {first.partition(' ')[2]}"] if known == "wrong" else []
    log = fleet.group.machine(third).root / "var/log/sshd.log"
    journal = fleet.journals()[third.name]
    said_before = log.read_text(encoding="utf-8", errors="replace")
    file.write_text("\n".join([*others, *replaced, ""]), encoding="ascii")
    try:
        rollout = fleet.begin_on(STRICT, fleet.model("1.2", "1.2"))
        watched = fleet.watched(rollout)
        assert watched.returncode == 4, watched.stdout + watched.stderr
        reason = fleet.row(rollout)["reason"]
        assert f"{third.name}: " in reason and "Host key verification failed" in reason, reason
        assert f"ssh-keyscan {third.address}" in reason and "fingerprint" in reason, reason
        assert "ssh-keyscan" in watched.stdout + watched.stderr
        assert not left_out(fleet, rollout)
    finally:
        file.write_text(right, encoding="ascii")
    tried = log.read_text(encoding="utf-8", errors="replace").removeprefix(said_before)
    assert "Connection" in tried and "Accepted" not in tried, tried
    assert fleet.journals()[third.name] == journal
    counted(f"{known} host key: exit 4, {third.name} named, ssh-keyscan and fingerprint advised, no login there")


def test_a_host_that_was_away_serves_again_once_its_replica_is_proven_well(
    fleet: TwoServices, counted: Callable[[str], None]
) -> None:
    """First its network is back and the machine stands still: that is no proof."""
    (mine,) = (i for i in on_third(fleet) if fleet.routed().get(i) == STRICT and is_stable(fleet, i))
    with PlainClients(fleet, threads=4) as clients:
        until(lambda: mine in after(fleet, 20), WITHIN_S)
        fleet.link("down")
        try:
            until(lambda: said(fleet, mine) == "unhealthy", WITHIN_S, 0.5)
            until(lambda: looks_down(fleet, mine), WITHIN_S)
            with stands_still(fleet):
                fleet.link("up")
                tried = attempts(fleet, mine)
                assert mine not in after(fleet, 80)
                assert attempts(fleet, mine) == tried, "it answers no question, so it is given no request"
                assert said(fleet, mine) == "unhealthy"
        finally:
            fleet.link("up")
        until(lambda: said(fleet, mine) == "healthy", WITHIN_S, 0.5)
        until(lambda: mine in after(fleet, 20), WITHIN_S)
    assert clients.failures == []
    counted(f"a replica's host away and back: 0 of {clients.answered} requests failed; it serves again once it answers")


def on_third(fleet: TwoServices) -> set[str]:
    rows = fleet.rows("select id from replicas where host = ? and state = 'ready'", fleet.third.name)
    return {str(row["id"]) for row in rows}


def is_stable(fleet: TwoServices, replica: str) -> bool:
    return fleet.rows("select slice from replicas where id = ?", replica) == [{"slice": "stable"}]


def said(fleet: TwoServices, replica: str) -> str:
    """What ``stackctl status`` says of it."""
    services = fleet.must("status")["services"]
    return str(next(r["state"] for service in services for r in service["replicas"] if r["id"] == replica))


def looks_down(fleet: TwoServices, replica: str) -> bool:
    """The gateway gives it no more requests, and has none there."""
    figures = fleet.control.samples()["targets"][replica]
    return figures["consecutive_failures"] >= THRESHOLD and figures["inflight"] == 0


def attempts(fleet: TwoServices, replica: str) -> int:
    """How many requests the gateway gave it."""
    figures = fleet.control.samples()["targets"][replica]
    return int(figures["requests"]) + int(figures["inflight"])


def after(fleet: TwoServices, count: int) -> set[str]:
    """Who answers the next requests of clients."""
    begin = len(fleet.answered_by)
    until(lambda: len(fleet.answered_by) >= begin + count, WITHIN_S)
    return set(fleet.answered_by[begin : begin + count])
