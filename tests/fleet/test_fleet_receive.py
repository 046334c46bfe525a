"""The host's end of sending, told wrong things: what is not checked is not kept, the unverified gets no name."""

from __future__ import annotations

import hashlib
import json
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from conftest_fleet import tool

WHOLE = bytes(range(256)) * 40
STEP = 4096
RIGHT = hashlib.sha256(WHOLE).hexdigest()
Message = tuple[dict[str, Any], bytes]


def message(value: dict[str, Any], content: bytes = b"") -> bytes:
    text = json.dumps(value).encode()
    return len(text).to_bytes(4, "big") + text + content


def plan(**more: Any) -> dict[str, Any]:
    """One archive of wheels, as the playbook sends it."""
    made = {"into": "wheels/gem.partial", "mark": RIGHT, "files": [["gem.tar", len(WHOLE)]]}
    return {**made, "digest": RIGHT, "final": "wheels/gem.tar", **more}


def chunks(content: bytes = WHOLE, begin: int = 0, end: int | None = None) -> list[Message]:
    pieces = [(at, content[at : at + STEP]) for at in range(begin, len(content), STEP)]
    made = [
        ({"file": 0, "offset": at, "length": len(piece), "sha256": hashlib.sha256(piece).hexdigest()}, piece)
        for at, piece in pieces
    ]
    return made[:end]


def send(root: Path, told: dict[str, Any], sent: Iterable[Message] = (), cut: int = 0) -> list[dict[str, Any]]:
    """The receiver's lines. ``cut``: so many bytes of the end are never sent."""
    stream = message(told) + b"".join(message(*one) for one in sent)
    command = [sys.executable, str(tool("fence", "receive.py")), str(root)]
    done = subprocess.run(command, input=stream[: len(stream) - cut], capture_output=True, check=False, timeout=120)
    assert b"Traceback" not in done.stderr, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_all_at_once_and_then_it_is_not_asked_for_again(tmp_path: Path) -> None:
    assert send(tmp_path, plan(), chunks())[-1]["state"] == "complete"
    assert (tmp_path / "wheels" / "gem.tar").read_bytes() == WHOLE
    assert [path.name for path in (tmp_path / "wheels").iterdir()] == ["gem.tar"]
    assert send(tmp_path, plan()) == [{"state": "needless"}]


@pytest.mark.parametrize("cut", [1, STEP - 1, STEP, STEP + 40, 2 * STEP + 300])
def test_it_goes_on_at_the_last_chunk_that_was_whole(tmp_path: Path, cut: int) -> None:
    send(tmp_path, plan(), chunks(), cut)
    assert not (tmp_path / "wheels" / "gem.tar").exists()
    ready = send(tmp_path, plan())[0]
    assert ready["state"] == "ready"
    (have,) = ready["have"]
    assert have % STEP == 0
    assert len(WHOLE) - have <= cut + 2 * STEP
    assert send(tmp_path, plan(), chunks(begin=have))[-1]["state"] == "complete"


def test_what_a_killed_receiver_wrote_without_noting_it_is_cut_off(tmp_path: Path) -> None:
    send(tmp_path, plan(), chunks(end=1))
    with (tmp_path / "wheels" / "gem.partial" / "gem.tar").open("ab") as file:
        file.write(b"half of a chunk")
    with (tmp_path / "wheels" / "gem.partial.chunks").open("a") as notes:
        notes.write(f"0 {STEP} 40")
    assert send(tmp_path, plan())[0]["have"] == [STEP]


@pytest.mark.parametrize(
    "wrong",
    [
        {"sha256": "0" * 64},
        {"offset": 2 * STEP},
        {"offset": 0},
        {"offset": len(WHOLE)},
    ],
)
def test_a_wrong_chunk_is_refused_and_what_was_right_stays(tmp_path: Path, wrong: dict[str, Any]) -> None:
    first, second = chunks(end=2)
    last = send(tmp_path, plan(), [first, ({**second[0], **wrong}, second[1])])[-1]
    assert last["state"] == "failed"
    assert send(tmp_path, plan())[0]["have"] == [STEP]


def test_bytes_that_changed_later_are_found_and_only_they_are_sent_again(tmp_path: Path) -> None:
    send(tmp_path, plan(), chunks(end=2))
    with (tmp_path / "wheels" / "gem.partial" / "gem.tar").open("r+b") as file:
        file.seek(STEP + 5)
        file.write(b"\xff\xfe")
    last = send(tmp_path, plan(), chunks(begin=2 * STEP))[-1]
    assert (last["state"], last["have"]) == ("partial", [STEP])
    assert not (tmp_path / "wheels" / "gem.tar").exists()
    assert send(tmp_path, plan(), chunks(begin=STEP))[-1]["state"] == "complete"


def test_an_archive_that_is_not_what_its_digest_names_never_gets_its_name(tmp_path: Path) -> None:
    other = bytes(reversed(WHOLE))
    last = send(tmp_path, plan(), chunks(other))[-1]
    assert last["state"] == "failed"
    assert "not what its digest names" in last["error"]
    assert not (tmp_path / "wheels" / "gem.tar").exists()
    assert send(tmp_path, plan(), chunks())[-1]["state"] == "complete"


def test_what_was_kept_of_something_else_does_not_count(tmp_path: Path) -> None:
    send(tmp_path, plan(), chunks(end=2))
    assert send(tmp_path, plan(mark="another"))[0]["have"] == [0]


@pytest.mark.parametrize(
    "more",
    [{"into": "../out"}, {"into": "/tmp/out"}, {"files": [["../../out", 3]]}, {"final": "../out"}, {"into": ""}],
)
def test_paths_stay_below_the_root(tmp_path: Path, more: dict[str, Any]) -> None:
    root = tmp_path / "root"
    root.mkdir()
    assert send(root, plan(**more), chunks())[-1]["state"] == "failed"
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


def test_what_stands_already_needs_nothing(tmp_path: Path) -> None:
    (tmp_path / "runtimes").mkdir()
    assert send(tmp_path, plan(unless=["runtimes"])) == [{"state": "needless"}]
    assert not (tmp_path / "wheels").exists()


def test_a_write_that_fails_midway_is_said_and_what_was_right_stays(tmp_path: Path) -> None:
    """As on a disk that fills up meanwhile: here a limit on the size of files."""
    stream = message(plan()) + b"".join(message(*one) for one in chunks())
    words = shlex.join([sys.executable, str(tool("fence", "receive.py")), str(tmp_path)])
    limited = ["bash", "-c", f"ulimit -f {(STEP + STEP // 2) // 1024}; exec {words}"]
    done = subprocess.run(limited, input=stream, capture_output=True, check=False, timeout=120)
    last = json.loads(done.stdout.splitlines()[-1])
    assert (last["state"], done.returncode) == ("failed", 1)
    assert "File too large" in last["error"]
    assert send(tmp_path, plan())[0]["have"] == [STEP]


def test_no_room_is_said_before_the_first_byte(tmp_path: Path) -> None:
    huge = plan(files=[["gem.tar", 1 << 60]])
    (last,) = send(tmp_path, huge)
    assert last["state"] == "failed"
    assert "No space left on device" in last["error"]
