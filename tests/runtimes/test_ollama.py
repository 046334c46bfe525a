"""Ollama through its API. The suite runs against a stand-in, and against a real server where OLLAMA_HOST names one.

Faults can be had from the stand-in only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ollama_stand_in import OllamaStandIn, serving_ollama, tagged
from releases import release_of

from stack.core.clock import SystemClock
from stack.core.digest import Digest
from stack.core.release import FileEntry, Release, RuntimeVersion
from stack.runtimes.driver import driver_for
from stack.runtimes.engine import CantLaunch
from stack.runtimes.health import check_health
from stack.runtimes.ollama_api import (
    NoSuchOllamaModel,
    NotTheWeights,
    OllamaBusy,
    OllamaRefused,
    OllamaServer,
    OllamaUnavailable,
    WrongOllamaAddress,
)
from stack.runtimes.ollama_serving import in_memory, proven, serve, withdraw
from stack.runtimes.warm import WarmUpFailed, warm_up

MODEL = Path(__file__).parents[2] / "models" / "tiny-1.0" / "gguf" / "model.gguf"
FILES = (FileEntry(path="model.gguf", size=MODEL.stat().st_size, sha256=Digest.of(MODEL.read_bytes())),)
REAL = os.environ.get("OLLAMA_HOST", "")
DRIVER = driver_for("ollama")
RUNTIME = RuntimeVersion(engine="ollama", distribution="ollama", version="1", lock=Digest.of(b"lock"))
RELEASE: Release = replace(release_of("xllamacpp"), runtime=RUNTIME)


@pytest.fixture
def standin() -> Iterator[OllamaStandIn]:
    """The stand-in, for faults."""
    with serving_ollama(OllamaStandIn()) as state:
        yield state


@pytest.fixture(params=["stand-in", *(["real"] if REAL else [])])
def server(request: pytest.FixtureRequest) -> Iterator[OllamaServer]:
    """Each server there is, without the release on it."""
    if request.param == "real":
        found = OllamaServer(base=REAL if "//" in REAL else f"http://{REAL}")
    else:
        found = OllamaServer(base=request.getfixturevalue("standin").base, timeout_s=5, work_s=5)
    withdraw(found, RELEASE)
    yield found
    withdraw(found, RELEASE)


def test_a_release_is_served_from_exactly_its_bytes(server: OllamaServer) -> None:
    steps: list[str] = []
    serve(server, RELEASE, MODEL.parent, FILES, steps.append)
    assert steps[-1] == "success"
    assert server.has_blob(FILES[0].sha256)
    assert server.weights(RELEASE.served_model) == {FILES[0].sha256}
    assert in_memory(server, RELEASE)
    assert server.version()


def test_it_is_healthy_and_warms_up_like_any_engine(server: OllamaServer) -> None:
    serve(server, RELEASE, MODEL.parent, FILES)
    health = check_health(server.base, DRIVER, RELEASE, clock=SystemClock())
    assert health.ok, health.reason
    assert len(warm_up(server.base, DRIVER, RELEASE, clock=SystemClock(), timeout_s=60).steps) == 3


def test_serving_again_makes_nothing_again(server: OllamaServer) -> None:
    serve(server, RELEASE, MODEL.parent, FILES)
    steps: list[str] = []
    serve(server, RELEASE, MODEL.parent, FILES, steps.append)
    assert steps == []


def test_unloaded_it_stays_on_disk_and_withdrawn_it_is_gone(server: OllamaServer) -> None:
    serve(server, RELEASE, MODEL.parent, FILES)
    server.unload(RELEASE.served_model)
    assert not in_memory(server, RELEASE)
    assert proven(server, RELEASE, FILES)
    withdraw(server, RELEASE)
    assert tagged(RELEASE.served_model) not in [model.name for model in server.models()]
    withdraw(server, RELEASE)


def test_an_unknown_model_is_named(server: OllamaServer) -> None:
    with pytest.raises(NoSuchOllamaModel, match="no model nobody"):
        server.load("nobody")
    health = check_health(server.base, DRIVER, RELEASE, clock=SystemClock())
    assert not health.listed
    assert not health.answered


def test_other_bytes_are_refused_at_upload(server: OllamaServer, tmp_path: Path) -> None:
    wrong = tmp_path / "model.gguf"
    wrong.write_bytes(MODEL.read_bytes()[:-1] + b"\0" + os.urandom(8))
    with pytest.raises(OllamaRefused, match="HTTP 400"):
        server.upload(Digest.of(b"something else"), wrong)
    assert not server.has_blob(Digest.of(b"something else"))


def of(standin: OllamaStandIn) -> OllamaServer:
    """The door to the stand-in."""
    return OllamaServer(base=standin.base, timeout_s=5, work_s=5)


FAULTS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "busy": ({"busy": True}, OllamaBusy, "maximum pending requests"),
    "a web page": ({"html": True}, OllamaUnavailable, "not JSON"),
    "an error while making": ({"create_error": "unsupported architecture"}, OllamaRefused, "unsupported architecture"),
    "making never ends well": ({"create_stops": True}, OllamaRefused, "ended at parsing GGUF"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_never_success(standin: OllamaStandIn, name: str) -> None:
    faults, error, words = FAULTS[name]
    for key, value in faults.items():
        setattr(standin, key, value)
    with pytest.raises(error, match=words):
        of(standin).version()
        serve(of(standin), RELEASE, MODEL.parent, FILES)
    assert standin.loaded == set()


def test_a_model_replaced_under_its_name_is_made_anew(standin: OllamaStandIn) -> None:
    server = of(standin)
    serve(server, RELEASE, MODEL.parent, FILES)
    standin.models[tagged(RELEASE.served_model)]["files"] = {"model.gguf": str(Digest.of(b"other weights"))}
    assert not proven(server, RELEASE, FILES)
    serve(server, RELEASE, MODEL.parent, FILES)
    assert proven(server, RELEASE, FILES)


def test_a_model_that_stays_in_memory_is_said(standin: OllamaStandIn) -> None:
    serve(of(standin), RELEASE, MODEL.parent, FILES)
    standin.keeps_loaded = True
    with pytest.raises(OllamaRefused, match="asked to unload"):
        withdraw(of(standin), RELEASE)


def test_weights_that_are_others_right_after_making_are_refused(standin: OllamaStandIn) -> None:
    other = Digest.of(b"other")
    standin.blobs[str(other)] = b"other"
    lying = replace(FILES[0], path="a.gguf")
    standin.models.clear()
    create = OllamaServer.create
    server = of(standin)

    def lies(*_: Any) -> None:
        create(server, RELEASE.served_model, {"a.gguf": other}, RELEASE.launch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OllamaServer, "create", lies)
        patch.setattr(OllamaServer, "upload", lambda *_: None)
        with pytest.raises(NotTheWeights):
            serve(server, RELEASE, MODEL.parent, (lying,))
    assert standin.loaded == set()


def test_a_stream_that_breaks_fails_the_warm_up(standin: OllamaStandIn) -> None:
    serve(of(standin), RELEASE, MODEL.parent, FILES)
    standin.stream_error = "llama runner process has terminated"
    with pytest.raises(WarmUpFailed):
        warm_up(standin.base, DRIVER, RELEASE, clock=SystemClock(), timeout_s=10)


def test_nobody_there_is_unavailable() -> None:
    with serving_ollama(OllamaStandIn()) as gone:
        base = gone.base
    with pytest.raises(OllamaUnavailable, match="ConnectError") as caught:
        OllamaServer(base=base, timeout_s=1).version()
    assert caught.value.exit_code == 4


def test_only_an_address_is_an_address_and_only_gguf_is_read(tmp_path: Path) -> None:
    for text in ("", "localhost:11434", "http://x/y", "http://x y", "file:///etc/passwd"):
        with pytest.raises(WrongOllamaAddress):
            OllamaServer(base=text)
    place: dict[str, Any] = {"artifact_dir": "/a", "environment_dir": "/e", "host_ip": "127.0.0.1", "port": 11434}
    with pytest.raises(CantLaunch, match="reads gguf"):
        DRIVER.launch(replace(RELEASE, artifact_format="safetensors"), **place)
    with pytest.raises(CantLaunch, match="reads gguf"):
        serve(OllamaServer(base="http://127.0.0.1:1"), RELEASE, tmp_path, ())
