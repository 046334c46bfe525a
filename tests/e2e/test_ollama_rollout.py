"""From llama.cpp to the host's own Ollama server and back, by the same rollout.

The server is a stand-in that follows the published API and answers by a real llama.cpp on the bytes that it was given;
where OLLAMA_HOST names a real server, it is that one.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from checkout import REPOSITORY, Checkout, Done, copy_to, eventually, free_ports

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
Json = dict[str, Any]
REAL = os.environ.get("OLLAMA_HOST", "").removeprefix("http://").rstrip("/")


def _module(path: Path) -> ModuleType:
    spec = util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[path.stem] = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


stand_in = _module(REPOSITORY / "tests" / "runtimes" / "ollama_stand_in.py")
ollama = _module(REPOSITORY / "playbooks" / "roles" / "replica" / "files" / "ollama.py")


@dataclass
class Engines:
    """One llama.cpp behind the stand-in for each model that it was asked for."""

    checkout: Checkout
    folder: Path
    running: dict[str, tuple[str, subprocess.Popen[bytes]]] = field(default_factory=dict)

    def serve(self, model: str, weights: bytes) -> str:
        """Where it answers."""
        if model not in self.running:
            self.running[model] = self._start(model, weights)
        return self.running[model][0]

    def _start(self, model: str, weights: bytes) -> tuple[str, subprocess.Popen[bytes]]:
        folder, port = self.folder / model, free_ports()[0]
        folder.mkdir(parents=True)
        (folder / "model.gguf").write_bytes(weights)
        launch = {"artifact_dir": str(folder), "served_model": model, "bind_address": "127.0.0.1", "port": port}
        launch |= {"parallel": 4, "context": 1024, "threads": 1, "grace_s": 1}
        (folder / "launch.json").write_text(json.dumps(launch))
        (python,) = (self.checkout.home / "hosts" / "local" / "runtimes").glob("llamacpp-*/bin/python")
        script = REPOSITORY / "playbooks" / "roles" / "replica" / "files" / "launch_xllamacpp.py"
        log = folder / "engine.log"
        with log.open("wb") as out:
            process = subprocess.Popen([str(python), "-u", str(script), str(folder)], stdout=out, stderr=out)
        eventually(lambda: b"listening on" in log.read_bytes(), "the engine behind the stand-in listens")
        return f"127.0.0.1:{port}", process

    def end(self) -> None:
        """All of them."""
        for _, process in self.running.values():
            process.kill()
            process.wait()


@dataclass(frozen=True)
class Served:
    """A checkout that serves tiny on llama.cpp, on a host that has an Ollama server."""

    checkout: Checkout
    server: Any
    standin: Any

    @property
    def runtime(self) -> str:
        """What to deploy."""
        return f"ollama/ollama@{self.server.version()}"


@pytest.fixture(scope="module", params=["stand-in", *(["real"] if REAL else [])])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """tiny@1.0 serves on llama.cpp; nothing of ours is in Ollama."""
    root = tmp_path_factory.mktemp("ollama")
    checkout = copy_to(root / "inference-stack", free_ports())
    engines = Engines(checkout, root / "engines")
    with ExitStack() as stack:
        stack.callback(engines.end)
        state = None
        if request.param == "stand-in":
            state = stack.enter_context(stand_in.serving_ollama(stand_in.OllamaStandIn(version="0.12.3")))
            state.engine = engines.serve
        address = REAL if state is None else f"127.0.0.1:{state.port}"
        desired = checkout.root / "stack.yaml"
        text = desired.read_text(encoding="utf-8")
        text, hosts = re.subn(r"connection: local}", f'connection: local, ollama: "{address}"}}', text)
        text, ratios = re.subn(r"max_latency_ratio: [\d.]+", "max_latency_ratio: 100", text)
        assert (hosts, ratios) == (1, 1)
        desired.write_text(text, encoding="utf-8")
        stack.callback(checkout.end)
        done = checkout.make("deploy")
        assert done.code == 0, done.text
        yield Served(checkout, ollama.Server(address), state)


@pytest.fixture(scope="module")
def before(served: Served) -> Json:
    """The service on llama.cpp."""
    return served.checkout.service()


@pytest.fixture(scope="module")
def forth(served: Served, before: Json) -> Done:
    """Onto Ollama."""
    return served.checkout.make("deploy", f"RUNTIME={served.runtime}")


@pytest.fixture(scope="module")
def after(served: Served, forth: Done) -> Json:
    """The service then."""
    return served.checkout.service()


def test_it_is_promoted_step_by_step(served: Served, before: Json, forth: Done, after: Json) -> None:
    assert forth.code == 0, forth.text
    assert re.findall(r"shifting, candidate at (\d+) %", forth.out) == ["5", "25", "100"]
    assert after["stable"]["runtime"] == served.runtime
    assert after["stable"]["model"] == before["stable"]["model"]
    assert after["lkg"] == before["stable"]
    assert [r["state"] for r in after["replicas"]] == ["healthy", "healthy"]


def test_ollama_holds_exactly_the_artifacts_bytes_in_memory(served: Served, after: Json) -> None:
    (name,) = [n for n in served.server.loaded() if n.startswith("tiny-")]
    (blob,) = served.server.weights(name.removesuffix(":latest"))
    (file,) = (served.checkout.home / "hosts" / "local" / "artifacts").glob("*/model.gguf")
    assert blob == f"sha256:{ollama_digest(file)}"
    observed = {r["observed_digest"] for r in after["replicas"]}
    assert observed == {after["stable"]["release"], after["lkg"]["release"]}


def ollama_digest(file: Path) -> str:
    """As the model's files are named there."""
    artifact = _module(REPOSITORY / "playbooks" / "roles" / "replica" / "files" / "artifact.py")
    return str(artifact.hash_file(file)["sha256"])


def test_clients_get_ollamas_answers_and_all_of_them(served: Served, after: Json) -> None:
    key = str(served.checkout.home / "secrets" / "client.key")
    suite, where = "models/evals/tiny-smoke.yaml", f"{served.checkout.gateway_url}/v1"
    run = served.checkout.stackctl(
        "eval", "run", "--suite", suite, "--url", where, "--model", "tiny", "--key-file", key
    )
    assert run.code == 0, run.text


def test_another_version_than_the_servers_is_refused(served: Served, after: Json) -> None:
    done = served.checkout.make("deploy", "RUNTIME=ollama/ollama@0.0.1")
    assert done.code != 0
    assert "the release names 0.0.1" in done.text
    assert served.checkout.make("deploy", "RUNTIME=ollama/ollama").code != 0
    assert served.checkout.service()["stable"] == after["stable"]


def test_back_on_llama_cpp_what_is_retired_leaves_ollamas_memory_and_disk(
    served: Served, before: Json, after: Json
) -> None:
    back = served.checkout.make("rollback")
    assert back.code == 0, back.text
    assert served.checkout.service()["stable"] == before["stable"]
    eventually(
        lambda: not [n for n in served.server.models() + served.server.loaded() if n.startswith("tiny-")],
        "nothing of ours is left in Ollama",
    )
