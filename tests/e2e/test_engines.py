"""From llama.cpp to vLLM and back, with the same weights in two formats, while clients stream; and vLLM's orphans.

vLLM's CPU build is installed from its lock (2.4 GB, a few minutes) and serves the tiny model for real. It is several
times slower here than llama.cpp, which is a reason to refuse it that this stack file takes away.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from checkout import Checkout, Done, copy_to, eventually, free_ports

from stack.core.clock import SystemClock
from stack.core.release import Release
from stack.runtimes.driver import driver_for
from stack.runtimes.health import Health, check_health
from stack.runtimes.heartbeat import heartbeat
from stack.runtimes.wire import exchange

pytestmark = [pytest.mark.e2e, pytest.mark.vllm, pytest.mark.timeout(3600)]
Json = dict[str, Any]
VLLM = "vllm/vllm-cpu"
PATIENT = (
    (r"place_s: \d+", "place_s: 3000"),
    (r"ready_s: \d+", "ready_s: 900"),
    (r"warm_s: \d+", "warm_s: 300"),
    (r"max_seconds: \d+", "max_seconds: 900"),
    (r"max_latency_ratio: [\d.]+", "max_latency_ratio: 100.0"),
)


@dataclass(kw_only=True)
class Clients:
    """Clients that stream one answer after the other until told to stop; what became of each answer."""

    checkout: Checkout
    whole: int = 0
    broken: list[str] = field(default_factory=list)
    releases: set[str] = field(default_factory=set)
    over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """One client."""
        while not self.over.is_set():
            problem = self._stream()
            if problem:
                self.broken.append(problem)
            else:
                self.whole += 1

    def _stream(self) -> str:
        asked = {"model": "tiny", "messages": [{"role": "user", "content": "Tell me a story."}], "stream": True}
        asked |= {"max_tokens": 200, "temperature": 1.0, "ignore_eos": True}
        head = {"authorization": f"Bearer {self.checkout.key}", "content-type": "application/json"}
        link = http.client.HTTPConnection("127.0.0.1", self.checkout.ports[0], timeout=120)
        try:
            link.request("POST", "/v1/chat/completions", json.dumps(asked), head)
            reply = link.getresponse()
            text = reply.read().decode("utf-8", "replace")
            self.releases.add(str(reply.headers.get("x-stack-release")))
        except (OSError, http.client.HTTPException) as error:
            return repr(error)
        finally:
            link.close()
        finished = '"finish_reason":"length"' in text or '"finish_reason":"stop"' in text
        sound = reply.status == 200 and finished and '"error"' not in text and text.rstrip().endswith("data: [DONE]")
        return "" if sound else f"HTTP {reply.status}: {text[-200:]}"


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """tiny@1.1 on llama.cpp, in a checkout of its own that gives a slow engine its time."""
    checkout = copy_to(tmp_path_factory.mktemp("engines") / "inference-stack", free_ports())
    desired = checkout.root / "stack.yaml"
    text = desired.read_text(encoding="utf-8")
    for pattern, patient in PATIENT:
        text, places = re.subn(pattern, patient, text)
        assert places == 1, pattern
    desired.write_text(text, encoding="utf-8")
    try:
        done = checkout.make("deploy", "MODEL=models/tiny-1.1.yaml")
        assert done.code == 0, done.text
        yield checkout
    finally:
        checkout.end()


@pytest.fixture(scope="module")
def before(engines: Checkout) -> Json:
    """The service on llama.cpp."""
    return engines.service()


@pytest.fixture(scope="module")
def moved(engines: Checkout, before: Json) -> Done:
    """Installed, started, judged against llama.cpp, promoted."""
    return engines.make("deploy", "MODEL=models/tiny-1.1.yaml", f"RUNTIME={VLLM}", limit_s=3500)


@pytest.fixture(scope="module")
def on_vllm(engines: Checkout, moved: Done) -> Json:
    """The service on vLLM."""
    assert moved.code == 0, moved.text
    return engines.service()


def test_vllm_is_promoted(before: Json, moved: Done, on_vllm: Json) -> None:
    assert on_vllm["stable"]["runtime"].startswith(f"{VLLM}@")
    assert on_vllm["stable"]["model"] == before["stable"]["model"]
    assert on_vllm["lkg"] == before["stable"]
    assert re.findall(r"shifting, candidate at (\d+) %", moved.out) == ["5", "25", "100"]


def test_smoke_and_paired_eval_compared_the_engines(moved: Done, on_vllm: Json) -> None:
    assert re.search(r"smoke on \S+: (\d+) of \1 passed", moved.out), moved.text
    paired = re.search(r"eval: PASS: not worse by more than .* over (\d+) paired tests", moved.out)
    assert paired, moved.text
    assert int(paired[1]) >= 200


def test_the_formats_differ_and_both_were_registered(engines: Checkout, on_vllm: Json) -> None:
    formats = {row["format"] for row in engines.asked("model", "list")["models"] if row["ref"] == "tiny@1.1"}
    assert formats == {"gguf", "safetensors"}


def test_both_environments_stand_beside_each_other(engines: Checkout, on_vllm: Json) -> None:
    complete = {found.parent.name for found in engines.home.glob("hosts/local/runtimes/*/INSTALLED")}
    assert {name.split("-")[0] for name in complete} >= {"llamacpp", "vllm"}
    (vllm,) = (name for name in complete if name.startswith("vllm-"))
    packages = next((engines.home / "hosts/local/runtimes" / vllm / "lib").glob("python*/site-packages"))
    assert list(packages.glob("vllm-*+cpu.dist-info/METADATA"))
    assert list(packages.glob("vllm/**/__pycache__/*.pyc"))


def test_it_answers_as_llama_cpp_did(engines: Checkout, on_vllm: Json) -> None:
    key = str(engines.home / "secrets" / "client.key")
    suite, where = "models/evals/tiny-smoke.yaml", f"{engines.gateway_url}/v1"
    run = engines.stackctl("eval", "run", "--suite", suite, "--url", where, "--model", "tiny", "--key-file", key)
    assert run.code == 0, run.text


def of_replica(engines: Checkout, replica: str) -> dict[int, str]:
    """The processes of one replica: vLLM's workers rename themselves, so by where they work."""
    place = engines.home / "hosts" / "local" / "replicas" / replica
    found = {}
    for pid, words in engines.processes().items():
        try:
            if Path(f"/proc/{pid}/cwd").resolve() == place:
                found[pid] = words
        except OSError:
            continue
    return found


@dataclass(frozen=True, kw_only=True)
class Replica:
    """The replica of vLLM, asked without the gateway."""

    name: str
    base: str
    release: Release

    def steps(self) -> int:
        """Decode steps so far."""
        return heartbeat(self.base, driver_for("vllm"), self.release, clock=SystemClock(), timeout_s=10)()

    def health(self) -> Health:
        """By all three checks, with its progress as an excuse for lateness."""
        return check_health(
            self.base, driver_for("vllm"), self.release, clock=SystemClock(), timeout_s=5, progress=self.steps
        )

    def asks(self, **more: Any) -> int | None:
        """The status of a completion."""
        asked = {"model": self.release.served_model, "messages": [{"role": "user", "content": "Hello"}], **more}
        reply = exchange("POST", f"{self.base}/v1/chat/completions", clock=SystemClock(), timeout_s=300, payload=asked)
        return reply.status


@pytest.fixture(scope="module")
def replica(engines: Checkout, on_vllm: Json) -> Replica:
    """The one that serves."""
    (name,) = (row["id"] for row in on_vllm["replicas"] if row["slice"] == "stable")
    launch = json.loads((engines.home / "hosts" / "local" / "replicas" / name / "launch.json").read_text())
    plan = engines.asked("plan", "--model", "models/tiny-1.1.yaml", "--runtime", VLLM)
    release = Release.from_json(plan["body"]["release"])
    assert release.served_model == launch["served_model"]
    return Replica(name=name, base=f"http://127.0.0.1:{launch['port']}", release=release)


def test_the_driver_knows_how_it_behaves(replica: Replica) -> None:
    before = replica.steps()
    assert replica.health().ok
    assert replica.steps() > before
    assert replica.asks(model="nobody") == 404
    assert replica.asks(max_tokens=5000) == 400


def test_saturated_it_is_never_called_sick(replica: Replica) -> None:
    threads = [
        threading.Thread(target=replica.asks, kwargs={"max_tokens": 900, "ignore_eos": True, "temperature": 1.0})
        for _ in range(24)  # on four slots
    ]
    for thread in threads:
        thread.start()
    looks = []
    while any(thread.is_alive() for thread in threads):
        looks.append(replica.health())
    assert [look.reason for look in looks if not look.ok] == []
    assert len(looks) >= 2


def test_wedged_it_is_found_although_it_says_200(engines: Checkout, replica: Replica) -> None:
    engine = [pid for pid, words in of_replica(engines, replica.name).items() if words.startswith("VLLM::")]
    assert engine
    for pid in engine:
        os.kill(pid, signal.SIGSTOP)
    try:
        found = replica.health()
        assert found.live
        assert not found.ok
        assert found.seconds < 30
    finally:
        for pid in engine:
            os.kill(pid, signal.SIGCONT)
    eventually(lambda: replica.health().ok, "it answers again")


def test_a_killed_leader_leaves_no_orphan_beside_its_successor(engines: Checkout, on_vllm: Json) -> None:
    (replica,) = (row["id"] for row in on_vllm["replicas"] if row["slice"] == "stable")
    first = of_replica(engines, replica)
    assert len(first) >= 3, first  # the launcher, the server, the engine's own process
    observed = engines.home / "hosts" / "local" / "replicas" / replica / "observed.json"
    leader = json.loads(observed.read_text())["pid"]
    assert leader in first
    os.kill(leader, signal.SIGKILL)
    eventually(lambda: json.loads(observed.read_text())["pid"] != leader, "it is started again")
    eventually(lambda: not first.keys() & of_replica(engines, replica).keys(), "the first group is gone")

    def healthy() -> bool:
        return all(row["state"] == "healthy" for row in engines.service()["replicas"])

    for _ in range(4):  # vLLM takes its time to load
        try:
            eventually(healthy, "it serves again")
            break
        except AssertionError:
            continue
    assert healthy()


@pytest.fixture(scope="module")
def back(engines: Checkout, on_vllm: Json) -> tuple[Done, Clients]:
    """Back to llama.cpp while clients stream."""
    clients = Clients(checkout=engines)
    threads = [threading.Thread(target=clients.run) for _ in range(2)]
    for thread in threads:
        thread.start()
    eventually(lambda: clients.whole + len(clients.broken) >= 4, "clients stream")
    try:
        done = engines.make("rollback", limit_s=1800)
        count = clients.whole
        eventually(lambda: clients.whole >= count + 4 or clients.broken, "clients stream afterwards")
    finally:
        clients.over.set()
        for thread in threads:
            thread.join()
    return done, clients


def test_back_on_llama_cpp(engines: Checkout, before: Json, back: tuple[Done, Clients]) -> None:
    done, _ = back
    assert done.code == 0, done.text
    assert engines.service()["stable"] == before["stable"]


def test_no_stream_broke_on_the_way_back(back: tuple[Done, Clients]) -> None:
    _, clients = back
    assert clients.broken == []
    assert clients.whole >= 8
    assert len(clients.releases) == 2  # both engines answered


def test_vllm_is_gone_without_a_rest(engines: Checkout, on_vllm: Json, back: tuple[Done, Clients]) -> None:
    gone = [row["id"] for row in on_vllm["replicas"] if row["slice"] == "stable"]
    kept = {row["id"] for row in engines.service()["replicas"]}
    withdrawn = [replica for replica in gone if replica not in kept]
    eventually(lambda: not any(of_replica(engines, replica) for replica in withdrawn), "its processes are gone")
    engines.stackctl("down", limit_s=300)
    assert [words for words in engines.processes().values() if "vllm" in words.lower()] == []
