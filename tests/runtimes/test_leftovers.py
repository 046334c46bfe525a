"""Before an engine starts, what an earlier start of the same replica left running is ended; nobody else is."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

ROLES = Path(__file__).parents[2] / "playbooks" / "roles"
TOOLS = [str(ROLES / role / "files") for role in ("replica", "fence")]
END = f"import sys; sys.path[:0] = {TOOLS!r}; from pathlib import Path; import launch; launch.end_leftovers(Path.cwd())"
Started = Callable[[Path], subprocess.Popen[bytes]]


@pytest.fixture
def started() -> Iterator[Started]:
    """Starts sleepers, each the leader of a group; ends them."""
    with ExitStack() as stack:

        def start(folder: Path) -> subprocess.Popen[bytes]:
            command = [sys.executable, "-c", "print(flush=True); import time; time.sleep(600)"]
            process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, start_new_session=True)
            stack.callback(process.wait)
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == b"\n"
            return process

        yield start


def end_leftovers(folder: Path, group: object) -> None:
    """As the replica's next start does it."""
    (folder / "observed.json").write_text(json.dumps({"pid": group}))
    subprocess.run([sys.executable, "-c", END], cwd=folder, check=True)


def test_an_orphan_is_ended(tmp_path: Path, started: Started) -> None:
    orphan = started(tmp_path)
    end_leftovers(tmp_path, orphan.pid)
    assert orphan.wait(30) == -9


def test_another_group_and_a_pid_used_again_elsewhere_are_left_alone(tmp_path: Path, started: Started) -> None:
    folder, elsewhere = tmp_path / "replica", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    neighbour, stranger = started(folder), started(elsewhere)
    end_leftovers(folder, stranger.pid)
    assert neighbour.poll() is None
    assert stranger.poll() is None


@pytest.mark.parametrize("recorded", [None, 0, "many", -1])
def test_without_a_record_nobody_is_ended(tmp_path: Path, started: Started, recorded: object) -> None:
    process = started(tmp_path)
    end_leftovers(tmp_path, recorded)
    assert process.poll() is None
