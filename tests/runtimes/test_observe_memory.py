"""What the hosts' tools say of memory: all of a replica's processes or nothing, and nvidia-smi's many noes."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stack.runtimes.footprint import group_footprint

ROLES = Path(__file__).parents[2] / "playbooks" / "roles"
MIB = 1 << 20


def loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"host_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


OBSERVE = loaded(ROLES / "fence" / "files" / "observe.py")
FACTS = loaded(ROLES / "facts" / "files" / "facts.py")


def test_a_replicas_memory_is_that_of_all_its_processes() -> None:
    hold = "x = bytearray(b'1') * (32 << 20); print('held', flush=True); import time; time.sleep(600)"
    # one in the group, and one that went into a group of its own
    spawn = f"subprocess.Popen([sys.executable, '-c', {hold!r}], start_new_session=own)"
    child = f"import subprocess, sys\nfor own in (False, True): {spawn}\n{hold}"
    with subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE, start_new_session=True) as process:
        pids: set[int] = set()
        try:
            assert process.stdout is not None
            assert [process.stdout.readline() for _ in range(3)] == [b"held\n"] * 3
            pids = OBSERVE.processes(process.pid)
            found = OBSERVE.main_memory(pids)
            row = OBSERVE.measured({"pid": process.pid, "release_digest": "sha256:1"}, "")
            unproven = OBSERVE.measured({"pid": process.pid, "release_digest": None}, f"{process.pid}, 7")
            group = group_footprint(process.pid)
        finally:
            for pid in {*pids, process.pid}:
                os.kill(pid, 9)
    assert len(pids) == 3
    assert found > 96 * MIB
    assert row["memory_bytes"] == pytest.approx(found, rel=0.1)
    assert row["accelerator_bytes"] is None
    assert (unproven["memory_bytes"], unproven["accelerator_bytes"]) == (None, None)
    assert group is not None
    assert group.processes == 2


def process(proc: Path, pid: int, *, parent: int = 1, group: int, pss: str | None = "Pss:      100 kB\n") -> None:
    folder = proc / str(pid)
    folder.mkdir()
    (folder / "stat").write_text(f"{pid} (a ) b) S {parent} {group} {group} 0")
    (folder / "status").write_text("Name: x\n")
    if pss is not None:
        (folder / "smaps_rollup").write_text(f"55-77 ---p 0 00:00 0 [rollup]\nRss: 900 kB\n{pss}Pss_Dirty: 7 kB\n")


def test_one_process_that_can_not_be_read_makes_the_whole_unknown(tmp_path: Path) -> None:
    process(tmp_path, 10, group=10)
    process(tmp_path, 11, group=10)
    assert OBSERVE.main_memory({10, 11}, tmp_path) == 200 << 10
    assert OBSERVE.main_memory({10, 11, 99}, tmp_path) == 200 << 10, "99 has ended since"
    process(tmp_path, 12, group=10, pss=None)
    assert OBSERVE.main_memory({10, 11, 12}, tmp_path) is None
    process(tmp_path, 13, group=10, pss="")
    assert OBSERVE.main_memory({10, 13}, tmp_path) is None
    assert OBSERVE.main_memory(set(), tmp_path) is None, "nothing was measured: not 0"
    process(tmp_path, 14, group=10, pss="Pss: 0 kB\n")
    assert OBSERVE.main_memory({14}, tmp_path) is None
    (tmp_path / "15" / "smaps_rollup").mkdir(parents=True)
    assert OBSERVE.main_memory({10, 15}, tmp_path) is None


def test_another_programs_group_is_not_the_replicas(tmp_path: Path) -> None:
    process(tmp_path, 10, group=5)
    process(tmp_path, 11, group=5)
    process(tmp_path, 12, parent=10, group=12)
    process(tmp_path, 13, parent=12, group=13)
    (tmp_path / "self").mkdir()
    assert OBSERVE.processes(10, tmp_path) == {10, 12, 13}
    assert OBSERVE.processes(9, tmp_path) == set()


@pytest.mark.parametrize(
    ("said", "size"),
    [
        ("10, 5120\n", 5120 * MIB),
        ("10, 5120\n11, 300\n77, 9\n", 5420 * MIB),
        ("10, 5120\n10, 4096\n", 9216 * MIB),  # one process on two devices
        ("10, [N/A]\n", None),
        ("10, 5120\n11, [N/A]\n", None),
        ("10, [Insufficient Permissions]\n", None),
        ("10, [Not Supported]\n", None),
        ("10, 0\n", None),
        ("10\n", None),
        ("77, 5120\n", None),
        ("No devices were found\n", None),
        ("", None),
    ],
)
def test_accelerator_memory_is_a_number_for_every_row_or_unknown(said: str, size: int | None) -> None:
    assert OBSERVE.accelerator_memory(said, {10, 11}) == size


@given(st.text(st.sampled_from("10, 5\n[N/A]"), max_size=40))
def test_whatever_it_prints_is_a_size_or_unknown(said: str) -> None:
    found = OBSERVE.accelerator_memory(said, {10, 1, 5})
    assert found is None or found > 0


A100 = "NVIDIA A100-SXM4-80GB"
LINES: list[tuple[str, dict[str, Any]]] = [
    (f"{A100}, 81920, 81050, 550.54.15, GPU-1, Disabled", {"total": 81920 * MIB, "free": 81050 * MIB}),
    ("NVIDIA GeForce RTX 4090, 24564, 24000, 550.54.15, GPU-2, [N/A]", {"total": 24564 * MIB, "free": 24000 * MIB}),
    (f"{A100}, 81920, 81050, 550.54.15, GPU-3, Enabled", {"total": 81920 * MIB, "free": None}),
    (f"{A100}, [N/A], [N/A], 550.54.15, GPU-4, Enabled", {"total": None, "free": None}),
    ("NVIDIA GB10, [N/A], [N/A], 580.82, GPU-5, [N/A]", {"total": None, "free": None}),
    (
        f"{A100}, [Insufficient Permissions], [Insufficient Permissions], 550, GPU-6, [Insufficient Permissions]",
        {"total": None, "free": None},
    ),
    (f"{A100}, 81920, [Unknown Error], 550.54.15, GPU-7, Disabled", {"total": 81920 * MIB, "free": None}),
]


@pytest.mark.parametrize(("line", "sizes"), LINES)
def test_one_device(line: str, sizes: dict[str, Any]) -> None:
    found = FACTS.gpu(line)
    assert {key: found[key] for key in sizes} == sizes
    assert found["id"].startswith("GPU-")


def smi(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str, code: int = 0) -> None:
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho \"$@\" > {folder}/asked\ncat <<'END'\n{text}\nEND\nexit {code}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_two_devices_as_the_tool_lists_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(tmp_path, monkeypatch, f"{LINES[0][0]}\n{LINES[2][0]}")
    found = FACTS.accelerators()
    assert [(device["id"], device["free"]) for device in found] == [("GPU-1", 81050 * MIB), ("GPU-3", None)]
    assert "mig.mode.current" in (tmp_path / "asked").read_text()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", 9),
        ('Field "mig.mode.current" is not a valid field to query.', 2),
        ("No devices were found", 0),
        ("Failed to initialize NVML: Driver/library version mismatch", 18),
    ],
)
def test_a_tool_that_fails_lists_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, code: int) -> None:
    smi(tmp_path, monkeypatch, text, code)
    assert FACTS.accelerators() is None
    assert OBSERVE.accelerator_memory(OBSERVE.compute_apps(), {10}) is None


def test_without_the_tool_there_are_no_accelerators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert FACTS.accelerators() == []
    assert OBSERVE.compute_apps() == ""


def test_what_processes_take_is_asked_by_pid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smi(tmp_path, monkeypatch, "10, 5120")
    assert OBSERVE.accelerator_memory(OBSERVE.compute_apps(), {10}) == 5120 * MIB
    assert "--query-compute-apps=pid,used_memory" in (tmp_path / "asked").read_text()
