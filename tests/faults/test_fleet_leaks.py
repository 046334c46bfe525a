"""Seeded secrets through deploys over a real SSH host, with -vvv: one fails, one goes through. They show up
neither here nor on the host: no file, no process, no log."""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from leaks import Sampler, Searcher, canary
from running_stack import REPOSITORY

from stack.fleet import HostEvent

sys.path.append(str(REPOSITORY / "tests" / "fleet"))
from conftest_hosts import Reached, host_group, reach

__all__ = ["host_group", "reach"]
pytestmark = [pytest.mark.hosts, pytest.mark.faults, pytest.mark.timeout(900)]
FOREIGN = (
    "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "HF_TOKEN", "VAULT_TOKEN", "STACK_ADMIN_TOKEN", "STACK_CLIENT_KEY",
    "ANSIBLE_BECOME_PASSWORD", "PIP_TOKEN", "SSH_ASKPASS_SECRET", "DATABASE_URL", "STACK_DATABASE_URL", "MY_PASSWORD",
)  # fmt: skip
PLANTED = "/opt/stack/replicas/planted.log"


def test_seeded_secrets_show_up_neither_here_nor_on_an_ssh_host(
    reach: Callable[[str], Reached],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    chance: random.Random,
    counted: Callable[[str], None],
) -> None:
    values = {name: canary(chance) for name in FOREIGN}
    key = reach("h2").group.key.read_bytes()
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ANSIBLE_VERBOSITY", "3")
    secrets = {**{name: value.encode() for name, value in values.items()}, "the SSH key": key.splitlines()[2]}
    look = Searcher(secrets)

    def searched_and_removed(folder: Path, ignore_errors: bool) -> None:
        look.look_at_files("files here", folder)
        shutil.rmtree(folder, ignore_errors=ignore_errors)

    monkeypatch.setattr("stack.fleet.private.shutil", SimpleNamespace(rmtree=searched_and_removed))
    host = reach("h2").at("/opt/leaks")
    host = replace(host, door=replace(host.door, runner_dir=tmp_path / "home" / "runner"))
    told: list[HostEvent] = []
    with Sampler(excused=(b"pytest",)) as sampler:
        wrong = {**host.launch(21950), "lock_digest": "sha256:" + "0" * 64}
        failed = host.run("leak-0", "deploy.yml", wrong, on_event=told.append)
        deployed = host.run("leak-1", "deploy.yml", host.launch(21950), on_event=told.append)
        upper = host.group.machine(host.made).folder / "upper"
        at_work = Searcher(secrets)
        at_work.look_at_files("files on the host", upper, leave_out=("root/.ssh", "home/deploy/.ssh"))
        drained = host.run("leak-2", "drain.yml", {"replica_id": "r1", "grace_s": 0}, on_event=told.append)
    assert (failed.status, deployed.status, drained.status) == ("failed", "done", "done"), (failed, deployed, drained)
    on_host = [place for place, _, _ in sampler.saw]
    assert any("/opt/leaks" in where for _, where, _ in sampler.saw), "the host's own processes were seen"
    for kind, place, data in sampler.saw:
        look.look(kind, place, data)
    for number, result in enumerate((failed, deployed, drained)):
        look.look("results", str(number), repr(result).encode())
    for event in told:
        look.look("events", event.task, repr(event).encode())
    look.look_at_files("files on the host", upper, leave_out=("root/.ssh", "home/deploy/.ssh"))
    look.look_at_files("files here", tmp_path / "home")
    for left in Path("/dev/shm").glob(f"stack-run-{os.getuid()}-{os.getpid()}-*"):
        look.look_at_files("left in /dev/shm", left)
    look.look("console", "console.log", (host.group.machine(host.made).folder / "console.log").read_bytes())
    found = sorted(f"{leak.name} in {leak.place}" for leak in look.leaks | at_work.leaks)
    assert not found, "\n".join(found)
    host.file(PLANTED).parent.mkdir(parents=True, exist_ok=True)
    host.file(PLANTED).write_text(f"x={values['VAULT_TOKEN']}")
    look.look_at_files("files on the host", upper)
    host.file(PLANTED).unlink()
    assert {leak.name for leak in look.leaks} == {"VAULT_TOKEN"}, "the planted one is found"
    assert look.places["files here"] > len((failed, deployed, drained)), "each run's private files were looked through"
    places = {kind: number + at_work.places.get(kind, 0) for kind, number in sorted(look.places.items())}
    counted(
        f"{len(secrets)} seeded secrets in {len(look.needles)} forms over SSH with -vvv: 0 found in "
        f"{sum(places.values())} places ({', '.join(f'{n} {kind}' for kind, n in places.items())}), "
        f"{len(on_host)} looks at processes here and on the host, {sampler.rounds} rounds"
    )
