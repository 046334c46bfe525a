"""Ollama through its API, and a replica on it: against a stand-in, and where OLLAMA_HOST names a real server, that too.

Faults can be had from the stand-in only.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ollama_stand_in import OllamaStandIn, serving_ollama, tagged
from releases import release_of

from stack.core.clock import SystemClock
from stack.core.digest import Digest
from stack.core.release import Artifact, FileEntry, Release, RuntimeVersion
from stack.runtimes.driver import driver_for
from stack.runtimes.engine import CantLaunch
from stack.runtimes.health import check_health
from stack.runtimes.warm import WarmUpFailed, warm_up

Json = dict[str, Any]
REPOSITORY = Path(__file__).parents[2]
MODEL = REPOSITORY / "models" / "tiny-1.0" / "gguf" / "model.gguf"
SHA = hashlib.sha256(MODEL.read_bytes()).hexdigest()
DIGEST = f"sha256:{SHA}"
FILES = (FileEntry(path="model.gguf", size=MODEL.stat().st_size, sha256=Digest(DIGEST)),)
REAL = os.environ.get("OLLAMA_HOST", "").removeprefix("http://").rstrip("/")
DRIVER = driver_for("ollama")
RUNTIME = RuntimeVersion(engine="ollama", distribution="ollama", version="1", lock=Digest.of(b"lock"))
RELEASE: Release = replace(release_of("xllamacpp"), runtime=RUNTIME, artifact=Artifact.digest_of(FILES))


def _tool(name: str) -> ModuleType:
    path = REPOSITORY / "playbooks" / "roles" / "replica" / "files" / f"{name}.py"
    spec = util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ollama = _tool("ollama")
launch_ollama = _tool("launch_ollama")


@pytest.fixture
def standin() -> Iterator[OllamaStandIn]:
    """The stand-in, for faults."""
    with serving_ollama(OllamaStandIn()) as state:
        yield state


@pytest.fixture(params=["stand-in", *(["real"] if REAL else [])])
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each server there is, without the release on it."""
    found = REAL if request.param == "real" else f"127.0.0.1:{request.getfixturevalue('standin').port}"
    ollama.withdraw(ollama.Server(found), RELEASE.served_model)
    yield found
    ollama.withdraw(ollama.Server(found), RELEASE.served_model)


def launch_on(address: str, **changed: Any) -> Json:
    """What launch.json holds."""
    return {
        "engine": "ollama",
        "distribution": "ollama",
        "ollama": address,
        "version": ollama.Server(address).version(),
        "artifact_dir": str(MODEL.parent),
        "artifact_digest": str(RELEASE.artifact),
        "release_digest": str(RELEASE.digest),
        "files": [{"path": "model.gguf", "sha256": SHA, "size": MODEL.stat().st_size}],
        "environment_dir": "/nowhere",
        "served_model": RELEASE.served_model,
        "bind_address": "127.0.0.1",
        "port": free_port(),
        "context": 256,
        "parallel": 2,
        "threads": 1,
        "grace_s": 30,
        **changed,
    }


def free_port() -> int:
    """One that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, kw_only=True)
class Replica:
    """A started launcher."""

    process: subprocess.Popen[bytes]
    port: int
    folder: Path

    @property
    def base(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What it said."""
        return (self.folder / "engine.log").read_text()

    def ask(self, method: str, path: str, body: Json | None = None) -> tuple[int, bytes]:
        """Status and body; 0 when nobody listens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None)
            reply = connection.getresponse()
            return reply.status, reply.read()
        except (ConnectionRefusedError, ConnectionResetError):
            return 0, b""
        finally:
            connection.close()

    def ended(self) -> int:
        """Its exit code, waited for."""
        return self.process.wait(60)


@contextmanager
def replica_on(root: Path, launch: Json) -> Iterator[Replica]:
    """`launch.py`, as a supervisor starts it."""
    (root / "bin").mkdir()
    for source in REPOSITORY.glob("playbooks/roles/*/files/*.py"):
        (root / "bin" / source.name).write_bytes(source.read_bytes())
    folder = root / "replicas" / "r1"
    folder.mkdir(parents=True)
    (folder / "launch.json").write_text(json.dumps(launch))
    with (folder / "engine.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(root / "bin" / "launch.py"), str(folder)], stdout=log, stderr=log, cwd=folder
        )
    try:
        yield Replica(process=process, port=launch["port"], folder=folder)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait()


def eventually(probe: Callable[[], Any], what: str) -> Any:
    """The first true answer."""
    for _ in range(600):
        if found := probe():
            return found
        time.sleep(0.1)
    raise AssertionError(f"never: {what}")


def ready(replica: Replica) -> None:
    """It lets completions through."""
    eventually(lambda: replica.ask("GET", "/health")[0] == 200 or replica.process.poll() is not None, "ready")
    assert replica.process.poll() is None, replica.log


# every server ----------------------------------------------------------------------------------------------------


def test_a_release_is_served_from_exactly_its_bytes_and_taken_away(address: str) -> None:
    server, launch = ollama.Server(address), launch_on(address)
    for _ in range(2):
        ollama.serve(server, launch)
        assert server.has_blob(DIGEST)
        assert server.weights(RELEASE.served_model) == {DIGEST}
        assert tagged(RELEASE.served_model) in server.loaded()
        assert ollama.problem_now(server, launch) == ""
    ollama.withdraw(server, RELEASE.served_model)
    assert tagged(RELEASE.served_model) not in server.models() + server.loaded()
    ollama.withdraw(server, RELEASE.served_model)


def test_what_somebody_unloads_is_loaded_again_and_what_they_delete_is_a_problem(address: str) -> None:
    server, launch = ollama.Server(address), launch_on(address)
    ollama.serve(server, launch)
    server.unload(RELEASE.served_model)
    assert tagged(RELEASE.served_model) not in server.loaded()
    assert ollama.problem_now(server, launch) == ""
    assert tagged(RELEASE.served_model) in server.loaded()
    server.delete(RELEASE.served_model)
    assert "replaced or deleted" in ollama.problem_now(server, launch)


def test_other_bytes_are_refused_at_upload(address: str, tmp_path: Path) -> None:
    wrong = tmp_path / "model.gguf"
    wrong.write_bytes(MODEL.read_bytes()[:-1] + b"\0" + os.urandom(8))
    other = f"sha256:{hashlib.sha256(os.urandom(8)).hexdigest()}"
    with pytest.raises(ollama.Wrong, match="HTTP 400"):
        ollama.Server(address).upload(other, wrong)
    assert not ollama.Server(address).has_blob(other)


def test_an_unknown_model_is_named(address: str) -> None:
    with pytest.raises(ollama.NoSuchModel):
        ollama.Server(address).load("nobody")


def test_a_replica_is_healthy_warms_up_and_lets_nothing_else_through(address: str, tmp_path: Path) -> None:
    with replica_on(tmp_path, launch_on(address)) as replica:
        ready(replica)
        health = check_health(replica.base, DRIVER, RELEASE, clock=SystemClock())
        assert health.ok, health.reason
        assert len(warm_up(replica.base, DRIVER, RELEASE, clock=SystemClock(), timeout_s=60).steps) == 3
        other = {"model": "other", "messages": [{"role": "user", "content": "Hello"}]}
        assert replica.ask("POST", "/v1/chat/completions", other)[0] == 404
        for path in ("/api/delete", "/api/create", "/api/tags", "/v1/models/x"):
            assert replica.ask("GET", path)[0] == 404
            assert replica.ask("POST", path, {"model": RELEASE.served_model})[0] == 404
        assert replica.ask("POST", "/v1/chat/completions", {"model": 5})[0] == 404
        assert replica.ask("POST", "/v1/chat/completions")[0] in (400, 411)
        seen = json.loads((replica.folder / "observed.json").read_text())
        assert (seen["pid"], seen["release_digest"]) == (replica.process.pid, str(RELEASE.digest))
        replica.process.send_signal(signal.SIGTERM)
        assert replica.ended() == 0
        assert "drained" in replica.log


def test_another_version_of_the_server_is_refused_and_nothing_is_made(address: str, tmp_path: Path) -> None:
    with replica_on(tmp_path, launch_on(address, version="0.0.1-other")) as replica:
        assert replica.ended() == 78
        assert "the release names 0.0.1-other" in replica.log
    assert tagged(RELEASE.served_model) not in ollama.Server(address).models()


# the stand-in's faults -------------------------------------------------------------------------------------------

FAULTS: dict[str, tuple[Json, int, str]] = {
    "busy": ({"busy": True}, 1, "maximum pending requests"),
    "a web page": ({"html": True}, 1, "not JSON"),
    "an error while making": ({"create_error": "unsupported architecture"}, 78, "unsupported architecture"),
    "making never ends well": ({"create_stops": True}, 78, "ended at parsing GGUF"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_never_a_start(standin: OllamaStandIn, tmp_path: Path, name: str) -> None:
    faults, code, words = FAULTS[name]
    launch = launch_on(f"127.0.0.1:{standin.port}")
    for key, value in faults.items():
        setattr(standin, key, value)
    with replica_on(tmp_path, launch) as replica:
        assert replica.ended() == code
        assert words in replica.log
        assert not (replica.folder / "observed.json").exists()
    assert standin.loaded == set()


def test_no_server_is_tried_again_by_the_supervisor(tmp_path: Path) -> None:
    with serving_ollama(OllamaStandIn()) as gone:
        launch = launch_on(f"127.0.0.1:{gone.port}")
    with replica_on(tmp_path, launch) as replica:
        assert replica.ended() == 1
        assert "no Ollama listens" in replica.log
    ollama.withdraw(ollama.Server(launch["ollama"]), "anything")  # nobody holds it in memory


CHANGES: dict[str, tuple[Callable[[OllamaStandIn], Any], str]] = {
    "upgraded": (lambda s: setattr(s, "version", "9.9"), "is version 9.9"),
    "replaced": (
        lambda s: s.models[tagged(RELEASE.served_model)].update(files={"model.gguf": str(Digest.of(b"other"))}),
        "somebody replaced",
    ),
    "deleted": (lambda s: s.models.clear(), "somebody replaced or deleted"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_server_that_is_no_longer_the_releases_ends_the_replica_for_good(
    standin: OllamaStandIn, tmp_path: Path, name: str
) -> None:
    change, words = CHANGES[name]
    with replica_on(tmp_path, launch_on(f"127.0.0.1:{standin.port}")) as replica:
        ready(replica)
        change(standin)
        assert replica.ended() == 78
        assert words in replica.log


def test_a_server_that_was_not_proven_for_a_while_is_not_ready(
    standin: OllamaStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = launch_on(f"127.0.0.1:{standin.port}")
    ollama.serve(ollama.Server(launch["ollama"]), launch)
    replica, now = launch_ollama.Replica(launch), [100.0]
    monkeypatch.setattr(launch_ollama.time, "monotonic", lambda: now[0])
    assert not replica.ready
    replica.look()
    assert replica.ready
    standin.html = True
    now[0] += launch_ollama.STALE_S
    replica.look()
    assert not replica.ready
    assert not replica.wrong
    standin.html = False
    replica.look()
    assert replica.ready


def stream(replica: Replica) -> http.client.HTTPResponse:
    """A streamed completion that has begun."""
    connection = http.client.HTTPConnection("127.0.0.1", replica.port, timeout=60)
    body = {"messages": [{"role": "user", "content": "Hello"}], "stream": True}
    connection.request("POST", "/v1/chat/completions", json.dumps(body))
    return connection.getresponse()


def test_a_running_stream_outlives_sigterm_and_newcomers_are_refused(standin: OllamaStandIn, tmp_path: Path) -> None:
    standin.waits = threading.Event()
    with replica_on(tmp_path, launch_on(f"127.0.0.1:{standin.port}")) as replica:
        ready(replica)
        running = stream(replica)
        replica.process.send_signal(signal.SIGTERM)
        eventually(lambda: replica.ask("GET", "/health")[0] == 0, "nobody is let in")
        standin.waits.set()
        assert running.read().endswith(b"data: [DONE]\n\n")
        assert replica.ended() == 0
        assert "drained" in replica.log


def test_what_the_server_cuts_looks_cut(standin: OllamaStandIn, tmp_path: Path) -> None:
    with replica_on(tmp_path, launch_on(f"127.0.0.1:{standin.port}")) as replica:
        ready(replica)
        standin.cuts = True
        with pytest.raises(http.client.IncompleteRead):
            stream(replica).read()
        with pytest.raises(WarmUpFailed):
            warm_up(replica.base, DRIVER, RELEASE, clock=SystemClock(), timeout_s=10)


def stopped(root: Path, replica: str) -> subprocess.CompletedProcess[str]:
    """What the host does once a replica has ended."""
    code = f"import sys; sys.path.insert(0, {str(root / 'bin')!r}); import replica; from pathlib import Path; "
    code += f"replica.leave_server(Path({str(root)!r}), {replica!r})"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)


def test_the_model_stays_for_another_replica_of_the_release_and_goes_with_the_last(
    standin: OllamaStandIn, tmp_path: Path
) -> None:
    launch = launch_on(f"127.0.0.1:{standin.port}")
    with replica_on(tmp_path, launch) as replica:
        ready(replica)
        (tmp_path / "replicas" / "r2").mkdir()
        (tmp_path / "replicas" / "r2" / "launch.json").write_text(json.dumps(launch))
        assert stopped(tmp_path, "r2").returncode == 0
        assert standin.loaded == {tagged(RELEASE.served_model)}
    standin.keeps_loaded = True
    unsure = stopped(tmp_path, "r1")
    assert (unsure.returncode, "may still be in Ollama's memory" in unsure.stderr) == (1, True)
    standin.keeps_loaded = False
    assert stopped(tmp_path, "r1").returncode == 0
    assert (standin.loaded, standin.models) == (set(), {})


def test_only_gguf_is_read() -> None:
    place: Json = {"artifact_dir": "/a", "environment_dir": "/e", "host_ip": "127.0.0.1", "port": 11434}
    with pytest.raises(CantLaunch, match="reads gguf"):
        DRIVER.launch(replace(RELEASE, artifact_format="safetensors"), **place)
    with pytest.raises(ollama.Wrong, match=r"no \.gguf"), serving_ollama(OllamaStandIn()) as standin:
        address = f"127.0.0.1:{standin.port}"
        ollama.serve(ollama.Server(address), launch_on(address, files=[]))
