"""From one distribution of the engine to the other, built from source here, behind the same canary; and back."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from checkout import Checkout, Done

pytestmark = [pytest.mark.e2e, pytest.mark.compiler, pytest.mark.timeout(3600)]
Json = dict[str, Any]
OTHER = "llamacpp/llama-cpp-python"


@pytest.fixture(scope="module")
def before(served: Checkout) -> Json:
    """The service on the wheel that needs no compiler."""
    service = served.service()
    assert service["stable"]["runtime"].startswith("llamacpp/xllamacpp@")
    return service


@pytest.fixture(scope="module")
def built(served: Checkout, before: Json) -> Done:
    """Minutes: the hash-locked source distribution is compiled, then rolled out."""
    return served.make("deploy", f"RUNTIME={OTHER}", limit_s=3000)


@pytest.fixture(scope="module")
def after(served: Checkout, built: Done) -> Json:
    """The service when that had ended."""
    return served.service()


def test_the_build_is_promoted(before: Json, built: Done, after: Json) -> None:
    assert built.code == 0, built.text
    assert after["stable"]["runtime"].startswith(f"{OTHER}@")
    assert after["stable"]["model"] == before["stable"]["model"]
    assert after["lkg"] == before["stable"]
    assert after["weights"] == {"stable": 100, "candidate": 0}
    rungs = re.findall(r"shifting, candidate at (\d+) %", built.out)
    assert rungs == ["5", "25", "100"]


def test_the_compiler_was_seen_at_work(built: Done) -> None:
    counts = [(int(done), int(of)) for done, of in re.findall(r"\[(\d+)/(\d+)\] Building", built.out)]
    steps = max((of for _, of in counts), default=0)
    seen = [done for done, of in counts if of == steps]
    assert len(set(seen)) >= 5, built.text
    assert seen == sorted(seen)


def test_both_engines_run(after: Json) -> None:
    assert [r["state"] for r in after["replicas"]] == ["healthy", "healthy"]
    assert {r["observed_digest"] for r in after["replicas"]} == {after["stable"]["release"], after["lkg"]["release"]}


def test_the_new_engine_gives_the_same_answers(served: Checkout, after: Json, tmp_path: Path) -> None:
    key = str(served.home / "secrets" / "client.key")
    suite, where = "models/evals/tiny-smoke.yaml", f"{served.gateway_url}/v1"
    run = served.stackctl("eval", "run", "--suite", suite, "--url", where, "--model", "tiny", "--key-file", key)
    assert run.code == 0, run.text


@pytest.fixture(scope="module")
def back(served: Checkout, after: Json) -> Done:
    """Back to the wheel, by hand."""
    return served.make("rollback")


def test_rollback_goes_back_to_the_other_engine(served: Checkout, before: Json, back: Done) -> None:
    assert back.code == 0, back.text
    service = served.service()
    assert service["stable"] == before["stable"]
    serving = [r for r in service["replicas"] if r["slice"] == "stable"]
    assert [(r["state"], r["observed_digest"]) for r in serving] == [("healthy", before["stable"]["release"])]
