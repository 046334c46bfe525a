"""Secrets in tasks, and the private data of a run: neither tells, also when it fails or is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest_fleet import PLAYBOOKS, REPOSITORY, Local, fake_installed, launch_variables, tree
from spies import HUSH, spying_python

from stack.fleet import HostEvent, OperationResult, door
from stack.fleet.private import private_directory, sweep
from stack.fleet.variables import PLAYBOOKS as TAKEN

# -- secrets in tasks


SECRET_TASK = """
- hosts: all
  gather_facts: false
  tasks:
    - name: Use a secret
      ansible.builtin.command:
        argv: ["{{ host_python }}", "-c", "import sys; sys.exit('wrong: ' + sys.stdin.read())"]
        stdin: "{{ lookup('ansible.builtin.file', stack_root ~ '/secret') }}"
      no_log: NO_LOG
"""


@pytest.mark.parametrize("defended", [False, True])
def test_a_failing_task_does_not_tell_its_secret_not_even_verbosely(
    local: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, defended: bool
) -> None:
    """By the door, with -vvv: events, result, what was printed, command lines. Without ``no_log`` all of it tells."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "observe.yml").write_text(SECRET_TASK.replace("NO_LOG", "true" if defended else "false"))
    (project / "ansible.cfg").write_text((PLAYBOOKS / "ansible.cfg").read_text())
    local.root.mkdir()
    (local.root / "secret").write_text(HUSH)
    script, told = spying_python(tmp_path)
    monkeypatch.setenv("ANSIBLE_VERBOSITY", "3")
    caught: list[str] = []
    read = door.events.read
    monkeypatch.setattr(
        door.events, "read", lambda account, event: (caught.append(str(event)), read(account, event))[1]
    )
    failing = replace(local, door=replace(local.door, project=project), host=replace(local.host, python=str(script)))
    told_of: list[HostEvent] = []
    result = failing.door.run(failing.operation("op-1", "observe.yml", {}), on_event=told_of.append)
    assert result.status == "failed"
    assert isinstance(result, OperationResult)
    said = str(result) + str(told_of) + "".join(caught) + told.read_text(errors="replace")
    assert "Use a secret" in said
    assert "Using module file" in said or "EXEC" in said, "it was verbose"
    assert (HUSH in said) is not defended


def tasks_of(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    documents = yaml.safe_load(path.read_text()) or []
    waiting = list(documents) if isinstance(documents, list) else []
    while waiting:
        row = waiting.pop()
        found.append(row)
        for key in ("tasks", "pre_tasks", "post_tasks", "handlers", "block", "rescue", "always"):
            waiting += row.get(key, [])
    return found


def test_playbooks_have_no_way_for_secrets_but_a_lookup_that_is_not_logged() -> None:
    """No ``environment``, no prompt, no password by a variable; what reads secrets on the controller is ``no_log``."""
    rows = [(path, row) for path in sorted(PLAYBOOKS.rglob("*.yml")) for row in tasks_of(path)]
    assert len(rows) > 20
    for path, row in rows:
        text = json.dumps(row)
        assert not {"environment", "vars_prompt", "ansible.builtin.pause"} & set(row), path
        reads = (
            "lookup('env'",
            "lookup('ansible.builtin.env'",
            "lookup('pipe'",
            "lookup('password'",
            "/secrets/",
            "hashi_vault",
        )
        if any(word in text for word in reads):
            assert row.get("no_log") is True, (path, row.get("name"))
        if "ansible.builtin.debug" in row:
            assert row["ansible.builtin.debug"] == {"msg": "{{ would | default([]) }}"}, path
        assert "{{" not in str(row.get("name", "")), "a name is printed before anything is masked"
    variables = [name for rules in TAKEN.values() for part in rules for name in part]
    assert not [name for name in variables if any(word in name for word in ("secret", "token", "password", "key"))]


# -- private data


def test_private_data_is_in_memory_for_its_owner_and_gone_after_a_failure(local: Local, source: Path) -> None:
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    assert {row[2] for row in mounts if row[1] == "/dev/shm"} == {"tmpfs"}
    looked: list[tuple[int, list[int], str]] = []
    mine = f"stack-run-{os.getuid()}-{os.getpid()}-"

    def look(event: HostEvent) -> None:
        for folder in Path("/dev/shm").glob(mine + "*"):
            modes = [path.stat().st_mode & 0o077 for path in (folder / "tmp", folder / "home")]
            looked.append((folder.stat().st_mode & 0o777, modes, folder.name))

    variables = launch_variables(source, 40001)
    fake_installed(local.root, "nothing")
    result = local.door.run(local.operation("op-1", "rollback.yml", variables), on_event=look)
    assert result.status == "failed"
    assert {mode for mode, _, _ in looked} == {0o700}
    assert not [bad for _, modes, _ in looked for bad in modes if bad]
    assert not list(Path("/dev/shm").glob(mine + "*"))


HOLDER = """
import sys
from pathlib import Path
from stack.fleet.private import private_directory
with private_directory(Path(sys.argv[1])) as folder:
    (folder / "variables.yml").write_text("hush")
    print(folder, flush=True)
    input()
"""


def test_private_data_of_a_killed_process_goes_with_the_next_run(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    folder = Path(holder.stdout.readline().strip())
    assert (folder / "variables.yml").read_text() == "hush"
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    assert folder.exists(), "nobody could clean up"
    with private_directory(tmp_path):
        assert not folder.exists()


LEFT_BEHIND = """
import os, subprocess, sys, time
if len(sys.argv) == 2:  # the maker: starts the playbook and stays
    from pathlib import Path
    from stack.fleet.private import private_directory
    with private_directory(Path(sys.argv[1])) as folder:
        command = [sys.executable, sys.argv[1] + "/ansible-playbook", "-e", f"@{folder}/variables.yml"]
        playbook = subprocess.Popen(command)
        print(folder, playbook.pid, flush=True)
        input()
elif os.fork() == 0:  # the playbook's worker
    os.setsid()
time.sleep(600)
"""


def test_a_playbook_that_outlives_its_control_plane_is_ended_with_its_workers(tmp_path: Path) -> None:
    """Its terminal is gone, and ansible-playbook never ends without: it and its directory would stay for ever."""
    (tmp_path / "ansible-playbook").write_text(LEFT_BEHIND)
    maker = subprocess.Popen(
        [sys.executable, str(tmp_path / "ansible-playbook"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert maker.stdout is not None
    folder, playbook = maker.stdout.readline().split()
    while len(given(folder)) < 2:
        os.sched_yield()
    with private_directory(tmp_path):
        assert len(given(folder)) == 2, "its maker lives"
    os.kill(maker.pid, signal.SIGKILL)
    maker.wait()
    assert int(playbook) in given(folder)
    with private_directory(tmp_path):
        assert given(folder) == []
        assert not Path(folder).exists()
    maker.communicate()


def given(folder: str) -> list[int]:
    """The processes that were given this directory."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdigit() and folder.encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def test_a_directory_that_another_sweep_was_quicker_with_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs for several hosts begin at once, each with a sweep: what one has listed the other has removed."""
    listed = [tmp_path / f"stack-run-{os.getuid()}-1-1-{name}" for name in ("gone", "left")]
    listed[1].mkdir()
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter(listed) if self == tmp_path else iter(()))
    assert sweep(tmp_path) == [listed[1]]
    assert not listed[1].exists()


def test_values_go_by_a_file_and_are_in_no_command_line_of_the_controller(local: Local, source: Path) -> None:
    seen_lines: list[bytes] = []
    marker = "marker-in-a-value"

    def look(event: HostEvent) -> None:
        for entry in Path("/proc").iterdir():
            try:
                seen_lines.append((entry / "cmdline").read_bytes() if entry.name.isdigit() else b"")
            except OSError:
                continue

    variables = {**launch_variables(source, 40001), "artifact_source": f"/nowhere/{marker}"}
    before = tree(local.root)
    local.door.run(local.operation("op-1", "rollback.yml", variables), on_event=look, check=True)
    assert tree(local.root) == before
    controllers = [line for line in seen_lines if b"ansible-playbook" in line]
    assert controllers
    assert not [line for line in controllers if marker.encode() in line]
