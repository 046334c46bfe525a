"""The host's tools for artifacts and replicas: nothing unverified is placed or opened."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest_fleet import artifact_digest, fake_installed, install_tools, tool

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def placed(tmp_path: Path, source: Path, run_tool: Run) -> Path:
    """A root with the artifact in place and a replica's launch.json, its engine a script that says it was started."""
    root = tmp_path / "host"
    tools = install_tools(root)
    digest = artifact_digest(source)
    assert run_tool(tools / "artifact.py", "place", root, digest, source).returncode == 0
    fake_installed(root, "engine")
    folder = root / "replicas" / "r1"
    folder.mkdir(parents=True)
    content = (source / "model.gguf").read_bytes()
    sha = hashlib.sha256(content).hexdigest()
    launch = {
        "replica_id": "r1", "artifact_digest": digest, "release_digest": "sha256:" + "a" * 64, "engine": "llamacpp",
        "distribution": "xllamacpp", "artifact_dir": str(root / "artifacts" / digest[7:]),
        "environment_dir": str(root / "runtimes" / "engine"),
        "files": [{"path": "model.gguf", "sha256": sha, "size": len(content)}],
    }  # fmt: skip
    (folder / "launch.json").write_text(json.dumps(launch))
    return root


def flip(path: Path) -> None:
    """One bit, size and times as before."""
    info = path.stat()
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def launch_again(root: Path, run_tool: Run) -> subprocess.CompletedProcess[str]:
    return run_tool(root / "bin" / "launch.py", root / "replicas" / "r1")


def test_the_engine_is_started_on_verified_bytes(placed: Path, run_tool: Run) -> None:
    done = launch_again(placed, run_tool)
    assert done.returncode == 0, done.stderr
    said = done.stdout.split()
    observed = json.loads((placed / "replicas" / "r1" / "observed.json").read_text())
    assert said[:2] == ["engine", "started"]
    assert observed["pid"] == int(said[2])
    assert observed["release_digest"] == "sha256:" + "a" * 64
    assert observed["starts"] == 1


def test_a_flipped_bit_is_never_opened(placed: Path, run_tool: Run) -> None:
    flip(next((placed / "artifacts").glob("*/model.gguf")))
    done = launch_again(placed, run_tool)
    assert done.returncode == 78
    assert "launch refused" in done.stderr
    assert "engine started" not in done.stdout
    assert not (placed / "replicas" / "r1" / "observed.json").exists()


def test_an_added_file_or_another_list_is_refused(placed: Path, run_tool: Run) -> None:
    launch = placed / "replicas" / "r1" / "launch.json"
    value = json.loads(launch.read_text())
    value["files"][0]["size"] += 1
    launch.write_text(json.dumps(value))
    assert "file list" in launch_again(placed, run_tool).stderr
    (Path(value["artifact_dir"]) / "extra").write_text("x")
    assert launch_again(placed, run_tool).returncode == 78


def test_a_wrong_source_is_not_placed(tmp_path: Path, source: Path, run_tool: Run) -> None:
    digest = artifact_digest(source)
    flip(source / "model.gguf")
    done = run_tool(tool("replica", "artifact.py"), "place", tmp_path / "host", digest, source)
    assert done.returncode == 65
    assert "artifact refused" in done.stdout
    assert not list((tmp_path / "host").rglob("*.gguf"))


def test_a_link_in_the_source_is_refused(tmp_path: Path, source: Path, run_tool: Run) -> None:
    (source / "link").symlink_to("/etc/passwd")
    done = run_tool(tool("replica", "artifact.py"), "place", tmp_path / "host", artifact_digest(source), source)
    assert done.returncode == 65
    assert "not a plain file" in done.stdout


def test_a_damaged_artifact_is_placed_again(placed: Path, source: Path, run_tool: Run) -> None:
    digest = artifact_digest(source)
    flip(next((placed / "artifacts").glob("*/model.gguf")))
    tools = placed / "bin" / "artifact.py"
    assert run_tool(tools, "check", placed, digest).returncode == 65
    assert run_tool(tools, "place", placed, digest, source).returncode == 0
    assert run_tool(tools, "check", placed, digest).returncode == 0
    assert [path.name for path in (placed / "artifacts").iterdir()] == [digest[7:]]


def test_a_missing_source_is_an_error_not_a_trace(tmp_path: Path, run_tool: Run) -> None:
    done = run_tool(tool("replica", "artifact.py"), "place", tmp_path, "sha256:" + "0" * 64, tmp_path / "none")
    assert (done.returncode, done.stderr) == (66, "")


def test_observing_an_empty_host_finds_nothing_and_makes_nothing(tmp_path: Path, run_tool: Run) -> None:
    root = tmp_path / "host"
    seen = json.loads(run_tool(tool("fence", "observe.py"), root).stdout)
    assert (seen["replicas"], seen["epoch"], seen["supervised"]) == ([], 0, False)
    assert not root.exists()


def test_digests_of_a_dead_process_do_not_count(placed: Path, run_tool: Run) -> None:
    launch_again(placed, run_tool)
    seen = json.loads(run_tool(placed / "bin" / "observe.py", placed, '{"service_manager": "supervisord"}').stdout)
    assert seen["replicas"][0]["state"] == "stopped"
    assert seen["replicas"][0]["artifact_digest"] is None


def test_stopping_ends_the_whole_process_group(placed: Path, run_tool: Run) -> None:
    """A replica that nobody supervises any more, with a child of its own that ignores SIGTERM."""
    folder = placed / "replicas" / "r1"
    child = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    parent = f"import subprocess,sys,time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    command = [sys.executable, "-c", parent, str(folder)]
    leader = subprocess.Popen(command, cwd=folder, start_new_session=True, stdout=subprocess.PIPE, text=True)
    assert leader.stdout is not None
    assert leader.stdout.readline() == "up\n"
    (folder / "observed.json").write_text(json.dumps({"pid": leader.pid}))
    stopper = subprocess.Popen(
        [sys.executable, str(placed / "bin" / "replica.py"), "stop", str(placed), "supervisord", "r1", "0"]
    )
    leader.wait(timeout=30)
    assert stopper.wait(timeout=30) == 0
    with pytest.raises(ProcessLookupError):
        for _ in range(100):  # the child is init's to reap
            os.killpg(leader.pid, 0)
            time.sleep(0.05)


def test_a_long_root_gets_a_short_socket(tmp_path: Path) -> None:
    code = "import observe, pathlib, sys; print(observe.socket_path(pathlib.Path(sys.argv[1])))"
    folder = tool("fence", "observe.py").parent
    for root, short in ((tmp_path / ("x" * 150), True), (Path("/srv/stack"), False)):
        done = subprocess.run(
            [sys.executable, "-c", code, str(root)], cwd=folder, capture_output=True, text=True, check=True
        )
        path = done.stdout.strip()
        assert len(path) < 95
        assert path.startswith(str(root)) is not short
