"""Fetching wheels on the controller, with a pip that stands in: seen while it lasts, once for all, never half."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest_fleet import tool

NAME = "gem-1.0-0123456789ab"
LOCK = "gem==1.0 --hash=sha256:00\nruby==2.0 --hash=sha256:00\n"
PIP = """
import pathlib, sys, time
folder = pathlib.Path({folder!r})
with (folder / "asked").open("a") as asked:
    asked.write("x")
print("Collecting gem", flush=True)
while not (folder / "go").exists():
    time.sleep(0.01)
if (folder / "go").read_text() == "fail":
    print("ERROR: no such host", flush=True)
    sys.exit(1)
target = pathlib.Path(sys.argv[sys.argv.index("--dest") + 1])
target.mkdir()
(target / "gem-1.0-py3-none-any.whl").write_bytes(b"a wheel")
"""


class House:
    """A cache and a pip of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.cache = folder, folder / "cache"
        package = folder / "path" / "pip"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(PIP.format(folder=str(folder)))

    def ask(self, asker: str = "op.1") -> subprocess.CompletedProcess[str]:
        """One call, as the task makes it."""
        row = {"name": NAME, "digest": "sha256:" + "a" * 64, "text": LOCK}
        command = [sys.executable, str(tool("runtime", "wheelhouse.py")), str(self.cache), asker]
        environment = {**os.environ, "PYTHONPATH": str(self.folder / "path")}
        words = [*command, "3.11", "x86_64", "glibc 2.36"]
        return subprocess.run(
            words, input=json.dumps([row]), capture_output=True, text=True, check=False, env=environment
        )

    def state(self, asker: str = "op.1") -> dict[str, Any]:
        """What a call that did not fail says."""
        done = self.ask(asker)
        assert done.returncode == 0, done.stdout + done.stderr
        return dict(json.loads(done.stdout))

    def go(self, how: str = "on") -> None:
        """Let the stand-in end."""
        (self.folder / "going").write_text(how)
        (self.folder / "going").replace(self.folder / "go")

    def fetchers(self) -> list[int]:
        """Processes that work on this cache."""
        mark = os.fsencode(self.cache)
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and mark in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
        return found


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def fetched(house: House, asker: str = "op.1") -> dict[str, Any]:
    """Ask until it is there."""
    while (found := house.state(asker))["state"] == "fetching":
        pass
    return found


def test_a_download_is_seen_while_it_lasts_and_done_once_for_all(house: House) -> None:
    first = house.state()
    assert first["state"] == "fetching"
    assert "1 of 2" in first["line"]
    assert "Collecting gem" in first["line"]
    assert house.state("op.2")["state"] == "fetching"
    house.go()
    found = fetched(house)
    (wheels,) = found["wheels"]
    assert Path(wheels["archive"]).is_file()
    assert fetched(house, "op.3") == found
    assert (house.folder / "asked").read_text() == "x"
    assert not list(house.cache.glob(".*"))


def test_a_failure_is_told_with_pips_words_and_another_asker_begins_anew(house: House) -> None:
    assert house.state()["state"] == "fetching"
    house.go("fail")
    while house.fetchers():
        time.sleep(0.01)
    failed = house.ask()
    assert failed.returncode == 1
    assert "ERROR: no such host" in failed.stdout
    assert not list(house.cache.glob("*.tar"))
    house.go()
    assert fetched(house, "op.2")["wheels"]
    assert (house.folder / "asked").read_text() == "xx"


def test_a_fetcher_that_is_killed_leaves_nothing_half_and_is_begun_again(house: House) -> None:
    assert house.state()["state"] == "fetching"
    for pid in house.fetchers():
        os.kill(pid, signal.SIGKILL)
    house.go()
    assert fetched(house)["wheels"]
    assert (house.folder / "asked").read_text() == "xx"
    assert not list(house.cache.glob(".*"))


@pytest.mark.parametrize("damage", ["flipped", "shorter"])
def test_an_archive_that_was_damaged_is_fetched_again(house: House, damage: str) -> None:
    house.go()
    (wheels,) = fetched(house)["wheels"]
    archive = Path(wheels["archive"])
    good = archive.read_bytes()
    archive.write_bytes(bytes([good[0] ^ 1]) + good[1:] if damage == "flipped" else good[:-512])
    assert fetched(house)["wheels"] == [wheels]
    assert archive.read_bytes() == good
    assert (house.folder / "asked").read_text() == "xx"


def test_an_archive_from_before_digests_were_kept_is_taken_as_it_is(house: House) -> None:
    house.go()
    (wheels,) = fetched(house)["wheels"]
    Path(f"{wheels['archive']}.sha256").unlink()
    assert fetched(house)["wheels"] == [wheels]
    assert (house.folder / "asked").read_text() == "x"
