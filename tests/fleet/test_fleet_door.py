"""The door against a real Ansible on a local host: check mode, the fence, failures, and what is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest_fleet import PLAYBOOKS, Local, fake_installed, launch_variables, tree

from stack.fleet import HostEvent
from stack.fleet.events import Account, read
from stack.fleet.outcome import asked_again, reported
from stack.fleet.private import private_directory, started, sweep


def test_check_mode_changes_nothing_and_says_what_it_would_do(local: Local, source: Path) -> None:
    variables = launch_variables(source, 40001)
    result = local.door.run(local.operation("op-1", "deploy.yml", variables), check=True)
    assert result.status == "done"
    assert not local.root.exists()
    assert result.would[0] == f"install {variables['runtime_environment']}"
    assert result.would[-2:] == (f"place {variables['artifact_digest']}", "start r1 on port 40001")


def test_check_mode_changes_nothing_on_a_host_in_use(local: Local, source: Path) -> None:
    variables = launch_variables(source, 40001)
    (local.root / "fence").mkdir(parents=True)
    (local.root / "fence" / "epoch").write_text("1\n")
    (local.root / "replicas" / "r1").mkdir(parents=True)
    fake_installed(local.root, variables["runtime_environment"])
    before = tree(local.root)
    for playbook in ("deploy.yml", "rollback.yml"):
        assert local.door.run(local.operation("op-1", playbook, variables), check=True).status == "done"
    drained = local.door.run(local.operation("op-2", "drain.yml", {"replica_id": "r1"}), check=True)
    assert drained.would == ("stop r1",)
    assert tree(local.root) == before


def test_an_outdated_epoch_is_fenced_and_changes_nothing(local: Local, source: Path) -> None:
    (local.root / "fence").mkdir(parents=True)
    (local.root / "fence" / "epoch").write_text("9\n")
    before = tree(local.root)
    result = local.door.run(local.operation("op-1", "deploy.yml", launch_variables(source, 40001), epoch=8))
    assert result.status == "fenced"
    assert "epoch 8 is lower than 9" in result.message
    assert result.observed["epoch"] == 9
    assert tree(local.root) == before


def test_drain_of_a_replica_that_is_not_there_is_done_once(local: Local) -> None:
    operation = local.operation("op-1", "drain.yml", {"replica_id": "ghost", "grace_s": 1})
    assert local.door.run(operation).status == "done"
    assert local.door.run(operation).status == "already"


def test_a_runtime_that_does_not_install_fails_with_its_log_and_leaves_nothing(
    local: Local, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    events: list[HostEvent] = []
    variables = launch_variables(source, 40001)
    result = local.door.run(local.operation("op-1", "deploy.yml", variables), on_event=events.append)
    assert (result.status, result.failed_task) == ("failed", "Install the runtime")
    assert "No matching distribution found" in result.message
    assert any(event.kind == "progress" and event.text for event in events)
    left = sorted(path.name for path in (local.root / "runtimes").iterdir() if path.is_dir())
    assert left == ["locks"]
    assert not list((local.root / "replicas").iterdir())


def test_a_runtime_under_another_lock_is_refused(local: Local, source: Path) -> None:
    variables = {**launch_variables(source, 40001), "lock_digest": "sha256:" + "0" * 64}
    result = local.door.run(local.operation("op-1", "deploy.yml", variables))
    assert result.status == "failed"
    assert "no lock file of llamacpp/xllamacpp is the one that the release names" in result.message


def test_rollback_never_installs(local: Local, source: Path) -> None:
    result = local.door.run(local.operation("op-1", "rollback.yml", launch_variables(source, 40001)))
    assert result.status == "failed"
    assert "deploy the release instead" in result.message
    assert not list((local.root / "runtimes").iterdir())


def test_nothing_of_a_run_is_left_even_when_the_listener_fails(local: Local) -> None:
    class Tired(RuntimeError):
        pass

    def listener(event: HostEvent) -> None:
        raise Tired

    with pytest.raises(Tired):
        local.door.run(local.operation("op-1", "observe.yml", {}), on_event=listener)
    mine = f"stack-run-{os.getuid()}-{os.getpid()}-"
    assert not [path for path in Path("/dev/shm").iterdir() if path.name.startswith(mine)]


def test_directories_of_dead_processes_are_swept(tmp_path: Path) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    old = tmp_path / f"stack-run-{os.getuid()}-{dead.pid}-12345-abc"
    mine = tmp_path / f"stack-run-{os.getuid()}-{os.getpid()}-{started(os.getpid())}-abc"
    used = tmp_path / f"stack-run-{os.getuid()}-{dead.pid}-12345-used"
    for folder in (old, mine, used, tmp_path / "other"):
        folder.mkdir()
    command = [sys.executable, "-c", "print(flush=True); input()", str(used / "inventory.yml")]
    orphan = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert orphan.stdout is not None and orphan.stdout.readline(), "it runs: before, its command line may not show yet"
    assert sweep(tmp_path) == [old]
    orphan.communicate(b"\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([mine.name, used.name, "other"])


def test_the_private_directory_is_private(tmp_path: Path) -> None:
    with private_directory(tmp_path) as folder:
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()


@pytest.mark.parametrize("playbook", sorted(path.name for path in PLAYBOOKS.glob("*.yml")))
def test_playbooks_parse(playbook: str) -> None:
    program = Path(sys.executable).parent / "ansible-playbook"
    command = [str(program), "-i", str(PLAYBOOKS / "inventory" / "local.yml"), "--syntax-check"]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(PLAYBOOKS / "ansible.cfg")}
    done = subprocess.run(
        [*command, str(PLAYBOOKS / playbook)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_report_is_never_success() -> None:
    assert reported(Account(), 0) is None
    assert asked_again("deploy.yml", Account(), "lost", {}).status == "failed"
    begun = {"operation": {"steps": {"start": {"state": "begun"}}}}
    assert asked_again("deploy.yml", Account(), "lost", begun).status == "failed"
    done = {"operation": {"steps": {"start": {"state": "done"}}}}
    assert asked_again("deploy.yml", Account(), "lost", done).status == "done"
    assert asked_again("deploy.yml", Account(failed_task="x"), "lost", done).status == "failed"


def test_reports_are_read_as_the_host_made_them() -> None:
    report = {"observed": {"replicas": [], "epoch": 4, "tools": {}}, "steps": {"place": "ALREADY place", "start": ""}}
    result = reported(Account(report=report), 0)
    assert result is not None
    assert (result.status, result.observed) == ("already", {"replicas": [], "epoch": 4})
    assert reported(Account(report=report), 2) is None
    unreachable = reported(Account(unreachable=True, failed_task="Look"), 4)
    assert unreachable is not None
    assert unreachable.status == "unreachable"


def test_progress_is_told_once_per_line() -> None:
    event = {
        "event": "runner_retry",
        "event_data": {"task": "Install", "res": {"stdout": '{"line": "[1/9] Building"}'}},
    }
    account, first = read(Account(), event)
    account, second = read(account, event)
    assert first == HostEvent(kind="progress", host="", task="Install", text="[1/9] Building")
    assert second is None
    nonsense = {"event": "runner_retry", "event_data": {"res": {"stdout": "not json"}}}
    assert read(account, nonsense) == (account, None)
