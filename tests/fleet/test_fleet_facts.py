"""What hosts say of themselves: asked through real Ansible, kept, and held against what we need."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from conftest_fleet import Local
from hypothesis import given
from hypothesis import strategies as st

from stack.app.machines import MachineDesk, UnknownHost
from stack.core.clock import SystemClock
from stack.fleet.facts import Accelerator, Facts, FactsFiles, FactsUnreadable, notes, problems, read_facts
from stack.store.store import Store

NOW = datetime(2026, 3, 4, tzinfo=UTC)
SAID: dict[str, Any] = {
    "memory": {"total": 8 << 30, "available": 4 << 30},
    "disk": {"path": "/opt", "total": 1 << 40, "free": 1 << 39, "writable": True},
    "accelerators": [],
    "cpus": 8,
    "architecture": "x86_64",
    "system": "Linux",
    "libc": "glibc 2.36",
    "python": "3.11.2",
    "service_manager": "systemd",
    "user": 0,
    "environments": True,
    "open_files": 1024,
    "after_reboot": "systemd",
    "clock_s": NOW.timestamp() + 1.5,
}
GPU = Accelerator(name="H200", total=139 << 30, free=138 << 30, driver="570", id="GPU-1")


def facts(**changed: Any) -> Facts:
    return read_facts("h", {"facts": {**SAID, **changed}}, NOW)


def test_a_good_host_has_no_problems_and_reads_back_equal(tmp_path: Path) -> None:
    good = facts()
    assert (problems(good, "cpu"), good.skew_s) == ((), 1.5)
    assert Facts.from_json(json.loads(json.dumps(good.to_json()))) == good
    with_gpu = replace(good, accelerators=(GPU,))
    files = FactsFiles(tmp_path / "facts")
    assert files.get("h") is None
    files.put("h", with_gpu)
    assert files.get("h") == with_gpu
    (tmp_path / "facts" / "h.json").write_text("{")
    assert files.get("h") is None


@pytest.mark.parametrize(
    ("changed", "group", "word"),
    [
        ({"memory": {"total": 1, "available": None}}, "cpu", "memory"),
        ({"disk": {**SAID["disk"], "free": 1 << 20}}, "cpu", "disk"),
        ({"disk": {**SAID["disk"], "free": None}}, "cpu", "disk"),
        ({"disk": {**SAID["disk"], "writable": False}}, "cpu", "written"),
        ({"python": "3.8.1"}, "cpu", "Python"),
        ({"python": "?"}, "cpu", "Python"),
        ({}, "gpu", "no accelerator"),
        ({"accelerators": None}, "gpu", "nvidia-smi"),
        ({"clock_s": NOW.timestamp() - 90}, "cpu", "clock"),
        ({"clock_s": float("nan")}, "cpu", "time"),
        ({"environments": False}, "cpu", "python3-venv"),
        ({"environments": None}, "cpu", "python3-venv"),
        ({"libc": " "}, "cpu", "glibc"),
        ({"libc": "musl 1.2"}, "cpu", "musl"),
        ({"open_files": 256}, "cpu", "256 files"),
        ({"open_files": None}, "cpu", "files"),
    ],
)
def test_what_a_host_lacks_or_does_not_say_is_a_problem(changed: Any, group: str, word: str) -> None:
    found = problems(facts(**changed), group)
    assert len(found) == 1
    assert word in found[0]


@pytest.mark.parametrize(("starts", "count"), [("systemd", 0), ("cron", 0), ("nothing", 1)])
def test_what_a_reboot_does_is_told_and_is_no_problem(starts: str, count: int) -> None:
    found = facts(after_reboot=starts)
    assert (problems(found, "cpu"), len(notes(found))) == ((), count)


def test_facts_of_an_older_release_are_still_read(tmp_path: Path) -> None:
    files = FactsFiles(tmp_path)
    files.put("h", facts())
    kept = json.loads((tmp_path / "h.json").read_text())
    for new in ("libc", "environments", "open_files", "after_reboot"):
        del kept[new]
    (tmp_path / "h.json").write_text(json.dumps(kept))
    older = files.get("h")
    assert older is not None
    assert len(problems(older, "cpu")) == 3  # they say nothing of it, so they prove nothing


@given(
    st.dictionaries(st.sampled_from(sorted(SAID)), st.none() | st.text() | st.integers() | st.just({}) | st.just([3]))
)
def test_nonsense_is_no_answer(changed: dict[str, Any]) -> None:
    try:
        read = facts(**changed)
    except FactsUnreadable:
        return
    assert isinstance(problems(read, "gpu"), tuple)


def test_this_machine_is_asked_through_ansible(local: Local, tmp_path: Path) -> None:
    clock = SystemClock()
    store = Store.open(tmp_path / "state.db", clock)
    gone = replace(local.host, name="gone", connection="ssh", address="127.0.0.1", port=1)
    desk = MachineDesk(
        store=store,
        inventory={local.host.name: local.host, gone.name: gone},
        door=local.door,
        known=FactsFiles(tmp_path / "facts"),
        clock=clock,
    )
    assert all(host["facts"] is None and host["problems"] for host in desk.list()["hosts"])
    asked = desk.check(None)
    here, away = asked["hosts"]
    assert (here["problems"], here["facts"]["cpus"] > 0, abs(here["facts"]["skew_s"]) < 30) == ([], True, True)
    assert asked["ok"] is False
    assert "unreachable" in away["problems"][0]
    assert desk.list()["hosts"][0]["facts"] == here["facts"]
    with pytest.raises(UnknownHost):
        desk.check("moon")
    store.close()
