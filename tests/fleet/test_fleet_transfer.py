"""Sending files to hosts: goes on where it ended, whatever was killed; nothing wrong is kept."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest_fleet import artifact_digest
from conftest_hosts import Reached
from conftest_transfer import (
    MIB,
    big_artifact,
    in_a_process,
    kill_all_below,
    launch,
    placed,
    processes,
    progress,
    slowed,
    stored,
    wire,
)

from stack.fleet import HostEvent

pytestmark = [pytest.mark.hosts, pytest.mark.timeout(480)]
Reach = Callable[[str], Reached]
SIZE = int(os.environ.get("STACK_TEST_SEND_MIB", "48")) * MIB
KILLS = int(os.environ.get("STACK_TEST_KILLS", "3"))
IN_FLIGHT = 8 * MIB
"""A chunk, and what the pipes and SSH's window hold (2 MiB) on both sides."""


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return big_artifact(tmp_path_factory.mktemp("big") / "gguf", SIZE)


def interface(host: Reached) -> str:
    """This machine's end of the line to the host."""
    return host.group.network.interface(host.made.number)


def await_stored(run: subprocess.Popen[str], host: Reached, variables: dict[str, Any], size: int) -> None:
    """Until so much is on the host, or the run is over."""
    while run.poll() is None and stored(host, variables) < size:
        time.sleep(0.005)


def test_the_control_plane_is_killed_at_random_moments_and_little_is_sent_twice(reach: Reach, artifact: Path) -> None:
    host = reach("h1").at("/opt/killed")
    variables = launch(host, artifact, 21301)
    before, killed = wire(host), 0
    for share in sorted(random.random() for _ in range(KILLS)):
        run = in_a_process(host, "place-1", variables)
        with slowed(interface(host)):
            await_stored(run, host, variables, int(share * SIZE))
            killed += run.poll() is None
            kill_all_below(run.pid)
        run.communicate()
    result = host.run("place-1", "place.yml", variables)
    assert result.succeeded, result.message
    assert killed
    assert artifact_digest(placed(host, variables)) == variables["artifact_digest"]
    sent = wire(host) - before
    assert sent <= 1.03 * SIZE + (killed + 1) * IN_FLIGHT, (sent, killed)
    left = host.shell("ls -A /opt/killed/artifacts").split()
    assert left == [variables["artifact_digest"][7:]]


@pytest.mark.parametrize("victim", [b"bin/receive.py", b"sshd: root"])
def test_a_receiver_or_a_connection_that_ends_is_taken_up_again_by_itself(
    reach: Reach, artifact: Path, victim: bytes
) -> None:
    host = reach("h2").at(f"/opt/cut-{len(victim)}")
    variables = launch(host, artifact, 21302)
    killed: list[int] = []
    over = threading.Event()

    def kill() -> None:
        while not over.is_set() and not killed:
            time.sleep(0.005)
            if stored(host, variables) > SIZE // 8:
                for pid in processes(host, victim):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    before = wire(host)
    watcher = threading.Thread(target=kill)
    watcher.start()
    try:
        with slowed(interface(host)):
            result = host.run("place-1", "place.yml", variables)
    finally:
        over.set()
        watcher.join()
    assert killed
    assert result.status == "done", result.message
    assert wire(host) - before <= 1.03 * SIZE + 2 * IN_FLIGHT
    assert placed(host, variables).is_dir()


def half_sent(host: Reached, variables: dict[str, Any]) -> None:
    """An operation that was killed in the middle."""
    run = in_a_process(host, "half-1", variables)
    with slowed(interface(host)):
        await_stored(run, host, variables, SIZE // 2)
        assert run.poll() is None
        kill_all_below(run.pid)
    run.communicate()


@pytest.mark.parametrize("where", ["in the middle", "behind the last chunk"])
def test_a_partial_that_was_damaged_is_mended(reach: Reach, artifact: Path, where: str) -> None:
    """A flipped byte is noticed by the last look at the whole; what is wrong is sent again by the same operation."""
    host = reach("h3").at(f"/opt/damaged-{len(where)}")
    variables = launch(host, artifact, 21303)
    half_sent(host, variables)
    folder = placed(host, variables).with_suffix(".partial")
    with (folder / "deeper" / "more.bin").open("r+b") as file:
        if where == "in the middle":
            file.seek(3 * MIB + 17)
            byte = file.read(1)
            file.seek(-1, 1)
            file.write(bytes([byte[0] ^ 1]))
        else:
            file.seek(0, 2)
            file.write(b"what nobody sent")
    (folder / "stray").write_bytes(b"not of the artifact")
    events: list[HostEvent] = []
    result = host.run("place-2", "place.yml", variables, on_event=events.append)
    assert result.status == "done", result.message
    assert artifact_digest(placed(host, variables)) == variables["artifact_digest"]
    mended = [e for e in events if e.task == "Look for what was damaged" and e.kind == "changed"]
    assert len(mended) == (where == "in the middle")


def test_a_source_that_is_not_what_its_digest_names_is_refused_and_leaves_no_trap(
    reach: Reach, artifact: Path, tmp_path: Path
) -> None:
    host = reach("h1").at("/opt/wrong")
    other = big_artifact(tmp_path / "other", 3 * MIB, seed=8)
    variables = {**launch(host, artifact, 21304), "artifact_source": str(other)}
    wrong = host.run("place-1", "place.yml", variables)
    assert (wrong.status, wrong.failed_task) == ("failed", "Place the artifact")
    assert "artifact refused" in wrong.message
    assert not placed(host, variables).exists()
    right = host.run("place-1", "place.yml", {**variables, "artifact_source": str(artifact)})
    assert right.status == "done", right.message


def test_a_disk_that_is_full_is_named_and_with_room_the_same_operation_goes_through(
    reach: Reach, artifact: Path
) -> None:
    host = reach("h3").at("/srv/filling")
    host.shell(f"mkdir -p /srv/filling && mount -t tmpfs -o size={SIZE // 2 // MIB}m tmpfs /srv/filling")
    variables = launch(host, artifact, 21305)
    full = host.run("place-1", "place.yml", variables)
    assert (full.status, full.failed_task) == ("failed", "Send the artifact")
    assert "no space left" in full.message.lower(), full.message
    host.shell(f"mount -o remount,size={SIZE // MIB + 8}m /srv/filling")
    result = host.run("place-1", "place.yml", variables)
    assert result.status == "done", result.message


def test_two_operations_for_one_artifact_at_once(reach: Reach, artifact: Path) -> None:
    host = reach("h2").at("/opt/twice")
    variables = launch(host, artifact, 21306)
    before = wire(host)
    runs = [in_a_process(host, f"place-{n}", {**variables, "replica_id": f"r{n}"}) for n in (1, 2)]
    ends = [run.communicate(timeout=300)[0] for run in runs]
    assert ["status='done'" in end.splitlines()[-1] for end in ends] == [True, True], ends
    assert artifact_digest(placed(host, variables)) == variables["artifact_digest"]
    assert wire(host) - before <= 1.03 * SIZE + 2 * IN_FLIGHT


def test_progress_is_seen_and_check_mode_sends_nothing(reach: Reach, artifact: Path) -> None:
    host = reach("h4").at("/opt/seen")
    variables = launch(host, artifact, 21307)
    events: list[HostEvent] = []
    checked = host.run("dry", "place.yml", variables, check=True, on_event=events.append)
    assert checked.status == "done", checked.message
    assert host.shell("ls /opt/seen").split() == ["runtimes"]
    with slowed(interface(host)):
        result = host.run("place-1", "place.yml", variables, on_event=events.append)
    assert result.status == "done", result.message
    lines = progress(events)
    assert lines, events
    assert all(line.startswith("sending ") and f" of {SIZE // MIB} MiB, " in line for line in lines), lines
    assert len(set(lines)) == len(lines)
