"""A new version of the runtime is a release like any other: beside the old one, behind a canary, and back without it
being installed again."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from checkout import Checkout, Done, copy_to, free_ports

from stack.runtimes.locks import versions

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
Json = dict[str, Any]
NEW, OLD, *_ = versions("llamacpp", "xllamacpp")
RUNTIME = "llamacpp/xllamacpp"


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """tiny@1.0 serves on the older version."""
    checkout = copy_to(tmp_path_factory.mktemp("versions") / "inference-stack", free_ports())
    try:
        done = checkout.make("deploy", f"RUNTIME={RUNTIME}@{OLD}")
        assert done.code == 0, done.text
        yield checkout
    finally:
        checkout.end()


@pytest.fixture(scope="module")
def before(old: Checkout) -> Json:
    """The service then."""
    return old.service()


@pytest.fixture(scope="module")
def upgraded(old: Checkout, before: Json) -> Done:
    """The stack file names no version, so this is the default one."""
    return old.make("deploy")


@pytest.fixture(scope="module")
def after(old: Checkout, upgraded: Done) -> Json:
    """The service after it."""
    return old.service()


def environments(checkout: Checkout) -> dict[str, int]:
    """What is installed on the host, and since when."""
    folder = checkout.home / "hosts" / "local" / "runtimes"
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("llamacpp-*/INSTALLED")}


def test_the_new_version_goes_up_the_ladder_with_the_same_model(before: Json, upgraded: Done, after: Json) -> None:
    assert before["stable"]["runtime"] == f"{RUNTIME}@{OLD}"
    assert upgraded.code == 0, upgraded.text
    assert re.findall(r"shifting, candidate at (\d+) %", upgraded.out) == ["5", "25", "100"]
    assert after["stable"]["runtime"] == f"{RUNTIME}@{NEW}"
    assert after["stable"]["model"] == before["stable"]["model"]
    assert after["lkg"] == before["stable"]


def test_both_versions_are_installed_and_run(old: Checkout, after: Json) -> None:
    found = environments(old)
    assert sorted(name.rsplit("-", 1)[0] for name in found) == sorted(f"llamacpp-xllamacpp-{v}" for v in (OLD, NEW))
    assert {r["observed_digest"] for r in after["replicas"]} == {after["stable"]["release"], after["lkg"]["release"]}
    maps = [Path(f"/proc/{pid}/maps").read_text(errors="replace") for pid in old.processes() if _engine(pid)]
    assert all(any(f"/{name}/" in text for text in maps) for name in found)  # each from its own environment


def _engine(pid: int) -> bool:
    return b"launch_xllamacpp.py" in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_version_that_is_not_locked_is_refused_with_those_that_are(old: Checkout, after: Json) -> None:
    done = old.make("deploy", f"RUNTIME={RUNTIME}@0.0.1")
    assert done.code != 0
    assert f"there is no lock of version 0.0.1; there are: {NEW}, {OLD}" in done.text
    assert old.service()["stable"] == after["stable"]


def test_back_to_the_old_version_nothing_is_installed(old: Checkout, before: Json, after: Json) -> None:
    installed = environments(old)
    back = old.make("rollback")
    assert back.code == 0, back.text
    assert "Install the runtime" not in back.out
    assert old.service()["stable"] == before["stable"]
    assert environments(old) == installed
