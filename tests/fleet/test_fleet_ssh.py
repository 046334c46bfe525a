"""Real SSH, real supervisord and systemd, the real engine: what the playbooks do on hosts that are not this machine."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest_hosts import ROOT, Reached, ask

from stack.fleet import HostEvent

pytestmark = [pytest.mark.hosts, pytest.mark.timeout(480)]
Reach = Callable[[str], Reached]


def journal(host: Reached, root: str = ROOT) -> list[tuple[str, str, str]]:
    """(operation, step, event) of everything that happened on the host."""
    text = host.shell(f"cat {root}/fence/journal.jsonl")
    return [(row["op"], row["step"], row["event"]) for row in map(json.loads, text.splitlines())]


def snapshot(host: Reached) -> str:
    """Every file of ours on the host with its content's digest; the journal and the engine's log only grow."""
    return host.shell(
        f"cd {ROOT} && find . -type f -not -name '*.log' -not -name 'journal.jsonl' -not -path './fence/locks/*' "
        "-not -path './runtimes/*/lib/*' -not -name 'supervisord*' -exec sha256sum {} + | sort -k2"
    )


@pytest.mark.parametrize("name", ["h1", "h4"])
def test_the_whole_life_of_a_replica(reach: Reach, name: str) -> None:
    """Nothing there, deployed, asked, repeated, killed and back, drained, brought back, drained."""
    host = reach(name)
    manager = host.made.init
    assert host.run("look-0", "observe.yml").observed["replicas"] == []
    dry = host.run("dry", "deploy.yml", host.launch(21001), check=True)
    assert dry.status == "done", dry.message
    installs = ["install"] if manager == "systemd" else ["install", "install"]
    assert [line.split()[0] for line in dry.would] == [*installs, "place", "start"]
    assert host.shell(f"ls -d {ROOT} /etc/systemd/system/inference-* 2>/dev/null || true") == ""
    events: list[HostEvent] = []
    launch = host.launch(21001)
    deployed = host.run("deploy-1", "deploy.yml", launch, on_event=events.append)
    assert deployed.status == "done", deployed.message
    assert deployed.observed["service_manager"] == manager
    assert any(event.kind == "progress" for event in events)
    assert ask(host.made.address, 21001)["usage"]["completion_tokens"] > 0

    before = snapshot(host)
    again = host.run("deploy-1", "deploy.yml", launch)
    assert again.status == "already"
    assert snapshot(host) == before
    assert not host.shell(f"ls {ROOT}/wheels {ROOT}/artifacts | grep -e tar -e partial || true")

    row = again.replica("r1")
    assert row is not None
    assert (row["state"], row["artifact_digest"]) == ("running", launch["artifact_digest"])
    host.shell(f"kill -9 {row['pid']}")
    back = await_pid(host, row["pid"])
    assert (back["restarts"], back["artifact_digest"]) == (1, launch["artifact_digest"])
    assert ask(host.made.address, 21001)["usage"]["completion_tokens"] > 0

    drained = host.run("drain-1", "drain.yml", {"replica_id": "r1", "grace_s": 5})
    stopped = drained.replica("r1")
    assert drained.status == "done"
    assert stopped is not None
    assert (stopped["state"], stopped["pid"], stopped["artifact_digest"]) == ("stopped", None, None)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host.made.address, 21001), timeout=5)

    rolled = host.run("rollback-1", "rollback.yml", launch)
    assert rolled.status == "done", rolled.message
    assert ask(host.made.address, 21001)["usage"]["completion_tokens"] > 0
    assert host.run("drain-2", "drain.yml", {"replica_id": "r1", "grace_s": 5}).status == "done"
    assert host.run("stale", "drain.yml", {"replica_id": "r1", "grace_s": 5}, epoch=0).status == "fenced"


def await_pid(host: Reached, dead: int) -> dict[str, object]:
    """The replica's row once another process than ``dead`` runs."""
    for number in range(40):
        row = host.run(f"look-{number + 1}", "observe.yml").replica("r1")
        if row is not None and row["state"] == "running" and row["pid"] not in (None, dead) and row["started_at"]:
            return dict(row)
    raise AssertionError("it was not started again")


def test_a_user_without_any_privilege_will_do(reach: Reach) -> None:
    host = reach("h2").at("/home/deploy/stack", "deploy")
    deployed = host.run("deploy-1", "deploy.yml", host.launch(21002))
    assert deployed.status == "done", deployed.message
    row = deployed.replica("r1")
    assert row is not None
    assert host.shell(f"stat -c %U /proc/{row['pid']}").strip() == "deploy"
    assert ask(host.made.address, 21002)["usage"]["completion_tokens"] > 0
    assert host.run("drain-1", "drain.yml", {"replica_id": "r1", "grace_s": 0}).status == "done"


@pytest.mark.parametrize("known", ["another host's key", "no key at all"])
def test_a_host_key_that_is_not_known_ends_it_before_anything_is_sent(reach: Reach, tmp_path: Path, known: str) -> None:
    host, other = reach("h3"), reach("h1").made
    theirs = tmp_path / "known_hosts"
    theirs.write_text(f"{host.made.address} {other.host_key}\n" if known.startswith("another") else "")
    log = host.file("/var/log/sshd.log")
    before = log.read_text()
    files = host_files(host)
    wrong = replace(host, door=replace(host.door, known_hosts=theirs, runner_dir=tmp_path / "fresh"))
    result = wrong.run("deploy-1", "deploy.yml", host.launch(21003))
    assert result.status == "unreachable"
    assert result.observed == {}
    assert "host key" in result.message.lower(), result.message
    said = log.read_text().removeprefix(before)
    assert "Connection from" in said  # it did come as far as the host
    assert not [w for w in ("Accepted", "publickey", "authenticating", "session") if w in said], said
    assert host_files(host) == files


def host_files(host: Reached) -> list[str]:
    """What stands in the host's own layer, but for logs."""
    upper = host.group.machine(host.made).folder / "upper"
    return sorted(str(path.relative_to(upper)) for path in upper.rglob("*") if "log" not in path.parts)


def test_nobody_at_the_address(reach: Reach) -> None:
    host = reach("h3")
    nobody = replace(host, host=replace(host.host, address=str(host.group.network.subnet[250])))
    result = nobody.run("look-1", "observe.yml")
    assert (result.status, result.observed) == ("unreachable", {})
    assert str(host.group.network.subnet[250]) in result.message


def sshd(host: Reached) -> int:
    """The pid, on this machine, of the host's listening SSH server."""
    namespace = host.group.network.namespace(host.made.number)
    listed = subprocess.run(["ip", "netns", "pids", namespace], check=True, capture_output=True, text=True).stdout
    for pid in sorted(map(int, listed.split())):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if words[0].startswith(b"sshd: /usr/sbin/sshd") or words[0] == b"/usr/sbin/sshd":
            return pid
    raise AssertionError("no sshd")


def test_a_host_that_stands_still_is_unreachable_and_a_slow_one_is_waited_for(reach: Reach) -> None:
    host = reach("h3")
    pid = sshd(host)
    os.kill(pid, signal.SIGSTOP)
    try:
        frozen = host.run("look-1", "observe.yml")
        assert (frozen.status, frozen.observed) == ("unreachable", {})
        assert "timed out" in frozen.message.lower(), frozen.message
        threading.Timer(4, os.kill, (pid, signal.SIGCONT)).start()
        assert host.run("look-2", "observe.yml").status == "done"
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_full_disk_is_named_and_with_room_the_same_operation_goes_through(reach: Reach) -> None:
    host = reach("h3").at("/srv/stack")
    host.shell("mkdir -p /srv/stack && mount -t tmpfs -o size=8m tmpfs /srv/stack")
    try:
        full = host.run("deploy-1", "deploy.yml", host.launch(21004))
        assert full.status == "failed"
        assert full.failed_task == "Send the wheels"
        assert "no space left" in full.message.lower(), full.message
        assert full.observed["replicas"] == []
        host.shell("mount -o remount,size=60m /srv/stack")
        during = host.run("deploy-1", "deploy.yml", host.launch(21004))
        assert (during.status, during.failed_task) == ("failed", "Install the runtime")
        assert "no space left" in during.message.lower(), during.message
        host.shell("mount -o remount,size=400m /srv/stack")
        deployed = host.run("deploy-1", "deploy.yml", host.launch(21004))
        assert deployed.status == "done", deployed.message
        assert ask(host.made.address, 21004)["usage"]["completion_tokens"] > 0
    finally:
        host.run("drain-1", "drain.yml", {"replica_id": "r1", "grace_s": 0})
        host.shell(
            "test ! -e /srv/stack/supervisor/supervisord.pid || kill $(cat /srv/stack/supervisor/supervisord.pid)"
        )


def descendants(pid: int) -> list[int]:
    """Every process below ours, the deepest last."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found += [child, *descendants(child)]
    return found


def test_ansible_killed_in_the_middle_and_the_same_operation_again(reach: Reach) -> None:
    """The half-deployed host: kill -9 of ansible-playbook and all below it while the host installs."""
    host = reach("h2")
    killed: list[int] = []

    def kill(event: HostEvent) -> None:
        if event.kind == "progress" and not killed:
            killed.extend(p for p in descendants(os.getpid()) if b"ansible-playbook" in command_line(p))
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    half = host.run("deploy-9", "deploy.yml", host.launch(21005, "r9"), on_event=kill)
    assert killed
    assert half.status == "failed"
    assert "brought no report" in half.message
    assert half.observed["replicas"] == []
    again = host.run("deploy-9", "deploy.yml", host.launch(21005, "r9"), epoch=2)
    assert again.status == "done", again.message
    assert ask(host.made.address, 21005)["usage"]["completion_tokens"] > 0
    done = [(step, event) for op, step, event in journal(host) if op == "deploy-9" and event in ("done", "reconciled")]
    assert len(done) == len({step for step, _ in done}) == 5, done
    assert host.run("drain-9", "drain.yml", {"replica_id": "r9", "grace_s": 0}, epoch=2).status == "done"


def command_line(pid: int) -> bytes:
    """What a process was started as; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_library_that_the_host_lacks_is_named(reach: Reach) -> None:
    host = reach("h3").at("/opt/lacking")
    library = host.shell("readlink -f /usr/lib/*-linux-gnu/libgomp.so.1").strip()
    host.shell(f"mv {library} {library}.away")
    try:
        result = host.run("deploy-1", "deploy.yml", host.launch(21006))
    finally:
        host.shell(f"mv {library}.away {library}")
    assert (result.status, result.failed_task) == ("failed", "Install the runtime")
    assert "lacks libgomp.so.1, which xllamacpp needs: install the package libgomp1" in result.message
