"""Real faults: SIGKILL between any two calls of a registration, torn leftovers, a disk that fills up."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import written

from stack.registry import ContentStore, list_models, load_manifest, register, scrub, verify
from stack.registry.errors import StoreUnavailable

CHILD = Path(__file__).with_name("child.py")
KILLS = 20
WEIGHTS = 3 << 20


def command(manifest: Path, kind: str, store: Path, *options: str) -> list[str]:
    return [sys.executable, str(CHILD), str(manifest), kind, str(store), *options]


def answer(run: list[str]) -> dict[str, Any]:
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    value: dict[str, Any] = json.loads(done.stdout)
    return value


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A manifest of one GGUF file of 3 MiB."""
    data = written.gguf(tensors={"t": ([WEIGHTS // 2], 1, WEIGHTS)})
    return written.write_model(tmp_path / "models", {"gguf": {"model.gguf": data}})


@pytest.mark.faults
def test_killed_anywhere_it_is_whole_or_absent(tmp_path: Path, record_property: Any) -> None:
    files = written.sharded_files()
    path = written.write_model(tmp_path / "models", {"safetensors": files})
    calls = answer(command(path, "safetensors", tmp_path / "whole"))["calls"]
    dice = random.Random(8317)
    points = [dice.randrange(1, calls) for _ in range(KILLS // 2)]
    points += [calls - dice.randrange(1, calls // 4) for _ in range(KILLS - len(points))]  # publishing is at the end
    killed = absent = 0
    for number, point in enumerate(points):
        store = ContentStore(tmp_path / f"store-{number % 10}")
        run = command(path, "safetensors", store.root, "--kill-at", str(point))
        done = subprocess.run(run, capture_output=True)
        killed += done.returncode == -signal.SIGKILL
        models = list_models(store)
        absent += not models
        assert all(verify(store, f"{model.ref}:safetensors").ok for model in models)
        assert scrub(store).damaged == ()
    for number in range(10):
        store = ContentStore(tmp_path / f"store-{number}")
        model = register(load_manifest(path), "safetensors", store)
        assert verify(store, model.ref).ok
        assert scrub(store).ok
        assert list((store.root / "tmp").iterdir()) == []
        assert {p.name for p in store.materialise(model.artifact.digest).iterdir()} == set(files)
    record_property("kills", killed)
    print(f"killed {killed} of {KILLS}, absent afterwards {absent}, never half")
    assert killed >= KILLS * 3 // 4
    assert absent


def leftover(store: ContentStore, path: Path, content: bytes) -> Path:
    store.prepare()
    (entry,) = load_manifest(path).artifacts["gguf"].files
    partial = store.partial_path(entry.sha256)
    partial.write_bytes(content)
    return partial


def test_it_goes_on_from_what_an_interrupted_one_left(store: ContentStore, large: Path) -> None:
    whole = (large.parent / "demo-1.0" / "gguf" / "model.gguf").read_bytes()
    inode = leftover(store, large, whole[: len(whole) // 2 + 7]).stat().st_ino
    model = register(load_manifest(large), "gguf", store)
    assert store.object_path(model.artifact.files[0].sha256).stat().st_ino == inode
    assert verify(store, model.ref).ok


def test_a_leftover_that_was_about_to_be_published(store: ContentStore, large: Path) -> None:
    whole = (large.parent / "demo-1.0" / "gguf" / "model.gguf").read_bytes()
    leftover(store, large, whole).chmod(0o444)
    model = register(load_manifest(large), "gguf", store)
    assert verify(store, model.ref).ok


@pytest.mark.parametrize("content", [b"torn" * 1000, bytes(WEIGHTS), bytes(2 * WEIGHTS), b""])
def test_a_torn_leftover_is_not_trusted(store: ContentStore, large: Path, content: bytes) -> None:
    leftover(store, large, content)
    model = register(load_manifest(large), "gguf", store)
    assert verify(store, model.ref).ok
    assert list((store.root / "tmp").iterdir()) == []


def test_a_link_in_place_of_a_leftover_is_not_followed(store: ContentStore, large: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    partial = leftover(store, large, b"")
    partial.unlink()
    partial.symlink_to(victim)
    with pytest.raises(StoreUnavailable):
        register(load_manifest(large), "gguf", store)
    assert victim.read_bytes() == b"precious"
    assert list_models(store) == ()


def check_full(found: dict[str, Any]) -> None:
    assert found["error"]["code"] == "DiskFull"
    assert found["error"]["exit_code"] == 4
    assert found["error"]["hint"]
    assert found["models"] == 0
    assert found["left"] == []


def test_a_file_size_limit(tmp_path: Path, large: Path) -> None:
    check_full(answer(command(large, "gguf", tmp_path / "store", "--file-limit", str(1 << 20))))


@pytest.mark.parametrize("case", ["too small from the start", "fills up meanwhile"])
def test_a_full_disk(tmp_path: Path, large: Path, case: str) -> None:
    """On a tmpfs in a mount namespace of its own; where neither is allowed, with a file size limit instead."""
    small = case == "too small from the start"
    limits = ["--tmpfs", str(2 << 20)] if small else ["--tmpfs", str(8 << 20), "--filler"]
    store = tmp_path / "small"
    store.mkdir()
    inside = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    done = subprocess.run([*inside, *command(large, "gguf", store, *limits)], capture_output=True, text=True)
    found = json.loads(done.stdout) if done.returncode == 0 else {"mounted": False}
    if found == {"mounted": False}:
        found = answer(command(large, "gguf", store, "--file-limit", str(1 << 20)))
    check_full(found)


def test_a_store_that_can_t_be_made(tmp_path: Path, large: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailable):
        register(load_manifest(large), "gguf", ContentStore(tmp_path / "file" / "store"))
