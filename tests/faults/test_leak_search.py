"""The search for leaks finds what is planted, in every form, in every kind of place."""

from __future__ import annotations

import base64
import hashlib
import os
import random
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from leaks import Leak, Sampler, Searcher, canary, forms
from running_stack import until

pytestmark = [pytest.mark.faults]


@pytest.mark.parametrize("form", range(13))
def test_a_planted_secret_is_found_in_every_kind_of_place(tmp_path: Path, chance: random.Random, form: int) -> None:
    value = canary(chance).encode()
    shown = sorted(forms(value))
    data = shown[form % len(shown)]
    kinds = {
        "text": lambda: searcher.look("text", "answer", b'{"error": "' + data + b'"}'),
        "file": lambda: planted_file(tmp_path / "file", data, searcher),
        "name": lambda: searcher.look("name", f"/x/{data.decode(errors='replace')}", b""),
        "database": lambda: planted_row(tmp_path / "db", data, searcher),
        "cmdline": lambda: planted_process([data.decode()], {}, searcher),
        "environ": lambda: planted_process([], {"PLANTED": data.decode()}, searcher),
    }
    for kind, plant in kinds.items():
        searcher = Searcher({"planted": value})
        plant()
        assert {leak.name for leak in searcher.leaks} == {"planted"}, kind


def planted_file(folder: Path, data: bytes, searcher: Searcher) -> None:
    (folder / "logs").mkdir(parents=True)
    (folder / "secrets").mkdir()
    (folder / "secrets" / "k").write_bytes(data)
    searcher.look_at_files("file", folder, leave_out=("secrets",))
    assert not searcher.leaks
    (folder / "logs" / "x.log").write_bytes(b"\xff\0" * 5000 + data + b"\0" * 100)
    searcher.look_at_files("file", folder, leave_out=("secrets",))


def planted_row(folder: Path, data: bytes, searcher: Searcher) -> None:
    """Committed, and still in the write-ahead log only."""
    folder.mkdir()
    wire = sqlite3.connect(folder / "state.db")
    wire.execute("pragma journal_mode=wal")
    wire.execute("create table t (x)")
    wire.execute("insert into t values (?)", (data.decode(),))
    wire.commit()
    searcher.look_at_files("database", folder)
    wire.close()


def planted_process(words: list[str], more: dict[str, str], searcher: Searcher) -> None:
    command = [sys.executable, "-c", "print(flush=True); input()", *words]
    child = subprocess.Popen(command, env={**os.environ, **more}, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline()
    with Sampler() as sampler:
        until(lambda: sampler.rounds >= 2)
    child.communicate(b"\n")
    for kind, place, data in sampler.saw:
        searcher.look(kind, place, data)


def test_base64_is_found_at_every_place_in_a_longer_text(chance: random.Random) -> None:
    for before in range(7):
        for after in range(4):
            value = canary(chance).encode()
            text = base64.b64encode(b"u" * before + value + b"w" * after)
            searcher = Searcher({"x": value})
            searcher.look("text", "", text)
            assert searcher.leaks == {Leak("x", "text: ")}


def test_nothing_is_found_where_nothing_is(chance: random.Random) -> None:
    searcher = Searcher({"x": canary(chance).encode()})
    searcher.look("text", "", hashlib.sha256(b"x").hexdigest().encode() * 1000)
    assert not searcher.leaks
