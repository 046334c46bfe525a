"""Bad input and broken surroundings, through ``stackctl``: a clear error, its exit code, and nothing half-done."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import yaml
from running_stack import MODELS, REPOSITORY, RunningStack, until

pytestmark = [pytest.mark.faults]
Stacks = Callable[..., RunningStack]
Count = Callable[[str], None]


def copied(folder: Path, version: str = "1.1") -> Path:
    """A manifest with its files, to be damaged."""
    shutil.copy(MODELS / f"tiny-{version}.yaml", folder)
    shutil.copytree(MODELS / f"tiny-{version}", folder / f"tiny-{version}")
    return folder / f"tiny-{version}.yaml"


def flip(path: Path, place: float = 0.5) -> None:
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 1
    path.write_bytes(data)


def _flipped(folder: Path) -> str:
    flip(folder / "tiny-1.1" / "gguf" / "model.gguf")
    return r"model\.gguf"


def _truncated(folder: Path) -> str:
    path = folder / "tiny-1.1" / "gguf" / "model.gguf"
    os.truncate(path, path.stat().st_size - 1)
    return r"model\.gguf"


def _swapped(folder: Path) -> str:
    shutil.copy(MODELS / "tiny-1.2" / "gguf" / "model.gguf", folder / "tiny-1.1" / "gguf" / "model.gguf")
    return r"model\.gguf"


def _missing(folder: Path) -> str:
    (folder / "tiny-1.1" / "gguf" / "model.gguf").unlink()
    return r"model\.gguf"


def _symlink(folder: Path) -> str:
    path = folder / "tiny-1.1" / "gguf" / "model.gguf"
    path.unlink()
    path.symlink_to(MODELS / "tiny-1.1" / "gguf" / "model.gguf")
    return "link"


def _changed(folder: Path, change: Callable[[dict[str, object]], None]) -> None:
    body = yaml.safe_load((folder / "tiny-1.1.yaml").read_text())
    change(body["artifacts"]["gguf"])
    (folder / "tiny-1.1.yaml").write_text(yaml.safe_dump(body))


def _traversal(folder: Path) -> str:
    _changed(folder, lambda gguf: gguf["files"][0].update(path="../../../etc/passwd"))  # type: ignore[index]
    return r"\.\."


def _pickle(folder: Path) -> str:
    (folder / "tiny-1.1" / "gguf" / "model.gguf").rename(folder / "tiny-1.1" / "gguf" / "pytorch_model.bin")
    _changed(folder, lambda gguf: gguf["files"][0].update(path="pytorch_model.bin"))  # type: ignore[index]
    return r"pytorch_model\.bin"


def test_damaged_and_hostile_models_are_refused_whole(new_stack: Stacks, tmp_path: Path, counted: Count) -> None:
    stack = new_stack()
    stack.up()
    cases = (_flipped, _truncated, _swapped, _missing, _symlink, _traversal, _pickle)
    codes = []
    for damage in cases:
        folder = tmp_path / damage.__name__
        folder.mkdir()
        manifest = copied(folder)
        said = damage(folder)
        for words in (("model", "register", str(manifest)), ("deploy", "--model", str(manifest))):
            done = stack.ctl(*words)
            codes.append(done.returncode)
            assert done.returncode in (2, 3), (damage.__name__, words, done.stdout, done.stderr)
            assert pytest.approx(done.stderr.count("Traceback")) == 0
            assert _matches(said, done.stderr + done.stdout), (damage.__name__, done.stderr)
    assert stack.must("model", "list")["models"] == []
    assert stack.must("rollout", "list")["rollouts"] == []
    assert stack.must("status")["services"] == []
    assert not [p for p in (stack.home / "store" / "tmp").rglob("*") if p.is_file()]
    counted(f"damaged or hostile models: {len(codes)} of {len(codes)} refused ({len(cases)} kinds), 0 registered")


def _matches(pattern: str, text: str) -> bool:
    import re

    return re.search(pattern, text) is not None


def test_a_full_disk_while_registering(new_stack: Stacks, counted: Count) -> None:
    """The control plane may write no file larger than 1.2 MB: the model's copy breaks off, the database goes on."""
    stack = new_stack()
    limited = f"ulimit -f {1_200_000 // 1024}; exec {sys.executable} -m stack.cli up --stack {stack.stack_yaml}"
    done = subprocess.run(
        ["bash", "-c", limited], cwd=REPOSITORY, env=stack.environment, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    for words in (("model", "register", str(MODELS / "tiny-1.0.yaml")), ("deploy",)):
        full = stack.ctl(*words)
        assert full.returncode == 4, (full.stdout, full.stderr)
        assert "Traceback" not in full.stderr
        assert _matches("(?i)file too large|no space|room|full", full.stderr), full.stderr
    assert stack.must("model", "list")["models"] == []
    assert stack.must("rollout", "list")["rollouts"] == []
    assert not [p for p in (stack.home / "store").rglob("*") if p.is_file() and p.stat().st_size > 100_000]
    stack.down()
    stack.up()
    assert stack.ctl("model", "register", str(MODELS / "tiny-1.0.yaml")).returncode == 0
    counted("disk full while registering: exit 4, nothing left in the store; registers once there is room")


@pytest.mark.parametrize("name", ["gateway", "admin"])
def test_a_port_in_use(new_stack: Stacks, name: str, counted: Count) -> None:
    stack = new_stack()
    port = stack.gateway_port if name == "gateway" else stack.admin_port
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        up = stack.ctl("up", "--stack", str(stack.stack_yaml))
        assert up.returncode == 4, (up.stdout, up.stderr)
        assert str(port) in up.stderr
        assert f"STACK_{name.upper()}_PORT" in up.stderr
    stack.up()
    counted(f"{name} port in use: exit 4, names the port and the variable; starts once it is free")


def test_a_runtime_that_does_not_install(new_stack: Stacks, tmp_path: Path, counted: Count) -> None:
    stack = new_stack()
    (stack.host / "runtimes").unlink()
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9", "PIP_NO_CACHE_DIR": "1", "PIP_RETRIES": "0", "PIP_TIMEOUT": "2"}
    nowhere |= {"PIP_CONFIG_FILE": "/dev/null", "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": ""}
    assert stack.ctl("up", "--stack", str(stack.stack_yaml), **nowhere).returncode == 0
    done = stack.ctl("deploy")
    assert done.returncode == 4, (done.stdout, done.stderr)
    said = done.stdout + done.stderr
    assert _matches("Install the runtime|not installed", said), said
    assert _matches("No matching distribution|Could not find a version|Connection refused", said), said
    status = stack.must("status")
    assert [s["stable"] for s in status["services"]] == [None]
    assert status["services"][0]["replicas"] == []
    assert stack.ask()[0] in (404, 503)
    assert not [p for p in (stack.host / "runtimes").iterdir() if p.is_dir() and p.name != "locks"]
    counted("a runtime that does not install: exit 4 with pip's own words, no environment left, nothing routed")


@pytest.mark.e2e
def test_an_artifact_damaged_on_the_host_is_not_served(new_stack: Stacks, counted: Count) -> None:
    stack = new_stack()
    stack.up()
    assert stack.deploy("1.0")["phase"] == "promoted"
    replica, pids = next(iter(stack.engines().items()))
    digest = next(r["observed_digest"] for r in stack.must("status")["services"][0]["replicas"])
    assert digest
    path = next((stack.host / "artifacts").glob("*/model.gguf"))
    whole = path.read_bytes()
    path.chmod(0o600)
    damaged = bytearray(whole)
    damaged[len(damaged) // 2] ^= 1
    path.unlink()
    path.write_bytes(bytes(damaged))
    os.kill(pids[0], signal.SIGKILL)
    log = stack.host / "replicas" / replica / "engine.log"
    until(lambda: "launch refused" in log.read_text(errors="replace"))
    until(lambda: replica not in stack.engines())
    port = stack.table["targets"][0]["port"]
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://127.0.0.1:{port}/health", timeout=5, trust_env=False)
    assert stack.ask()[0] in (502, 503)
    shown = stack.must("status")["services"][0]["replicas"]
    assert [r["state"] for r in shown] == ["unhealthy"]
    counted("an artifact damaged on the host: the restarted engine refuses to open it, clients get 502 or 503")
