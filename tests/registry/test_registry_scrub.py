"""Scrub finds what rotted, sets it aside, and repairs it only from content with the right digest."""

from __future__ import annotations

from pathlib import Path

import pytest
import written

from stack.core.release import ModelVersion
from stack.registry import ContentStore, load_manifest, register, scrub, verify


@pytest.fixture
def model(store: ContentStore, manifest_path: Path) -> ModelVersion:
    return register(load_manifest(manifest_path), "safetensors", store)


def spoil(path: Path) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def weights(store: ContentStore, model: ModelVersion) -> Path:
    (entry,) = [file for file in model.artifact.files if file.path == "model.safetensors"]
    return store.object_path(entry.sha256)


def test_a_sound_store(store: ContentStore, model: ModelVersion) -> None:
    report = scrub(store)
    assert report.ok
    assert report.checked == len(model.artifact.files)
    assert scrub(ContentStore(store.root.parent / "empty")).checked == 0


def test_damage_is_set_aside_and_trees_with_it(store: ContentStore, model: ModelVersion) -> None:
    store.materialise(model.artifact.digest)
    spoil(weights(store, model))
    report = scrub(store)
    assert not report.ok
    assert len(report.damaged) == len(report.unrepaired) == 1
    assert not weights(store, model).exists()
    assert len(list((store.root / "quarantine").iterdir())) == 1
    assert not list((store.root / "trees").iterdir())
    again = scrub(store)
    assert not again.ok
    assert again.missing == report.damaged


@pytest.mark.parametrize("kind", ["tree", "store"])
@pytest.mark.parametrize("harm", ["spoil", "remove"])
def test_repair_from_a_second_copy(
    store: ContentStore, model: ModelVersion, manifest_path: Path, kind: str, harm: str
) -> None:
    second = manifest_path.parent
    if kind == "store":
        second = store.root.parent / "second"
        register(load_manifest(manifest_path), "safetensors", ContentStore(second))
    victim = weights(store, model)
    if harm == "spoil":
        spoil(victim)
    else:
        victim.unlink()
    report = scrub(store, second)
    assert report.ok
    assert len(report.repaired) == 1
    assert victim.stat().st_mode & 0o777 == 0o444
    assert verify(store, model.ref).ok
    assert (store.materialise(model.artifact.digest) / "model.safetensors").exists()


def test_a_second_copy_that_is_damaged_too_repairs_nothing(
    store: ContentStore, model: ModelVersion, manifest_path: Path
) -> None:
    spoil(weights(store, model))
    spoil(manifest_path.parent / "demo-1.0" / "safetensors" / "model.safetensors")
    report = scrub(store, manifest_path.parent)
    assert not report.ok
    assert report.repaired == ()
    assert not list((store.root / "tmp").iterdir())
    assert not verify(store, model.ref).ok


def test_a_second_copy_behind_a_link_is_not_followed(store: ContentStore, model: ModelVersion, tmp_path: Path) -> None:
    outside, second = tmp_path / "outside", tmp_path / "second"
    written.write_files(outside, written.safetensors_files())
    second.mkdir()
    (second / "model.safetensors").symlink_to(outside / "model.safetensors")
    spoil(weights(store, model))
    assert scrub(store, second).repaired == ()


def test_broken_records_are_named(store: ContentStore, model: ModelVersion) -> None:
    record = store.root / "models" / "demo@1.0:safetensors.json"
    record.write_bytes(b"{}")
    listed = store.set_path(model.artifact.digest)
    listed.write_bytes(b"[]")
    report = scrub(store)
    assert not report.ok
    assert set(report.broken_records) == {f"sets/{listed.name}", f"models/{record.name}"}
