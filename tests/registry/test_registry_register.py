"""Registering, listing, showing, verifying and handing out sound artifacts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import written

from stack.core.digest import Digest
from stack.registry import ContentStore, Progress, difference, list_models, load_manifest, register, show, verify
from stack.registry.errors import ObjectDamaged, RecordDamaged, UnknownModel, VersionTaken


def objects(store: ContentStore) -> list[Path]:
    return sorted(path for path in (store.root / "objects").rglob("*") if path.is_file())


def test_gguf_metadata_comes_from_the_header(store: ContentStore, manifest_path: Path) -> None:
    model = register(load_manifest(manifest_path), "gguf", store)
    assert model.ref == "demo@1.0"
    found = model.metadata
    assert found["architecture"] == "llama"
    assert found["parameters"] == 32 * 40 + 32 + 160
    assert found["quantisation"] == "F16"
    assert (found["context_length"], found["block_count"], found["embedding_length"]) == (256, 2, 32)
    assert (found["head_count"], found["head_count_kv"], found["vocabulary_size"]) == (4, 2, 40)
    assert found["tokenizer"] == "gpt2"
    assert found["tensor_bytes"] == 2560 + 128 + 170


def test_both_formats_agree_about_the_chat_template(store: ContentStore, manifest_path: Path) -> None:
    manifest = load_manifest(manifest_path)
    one, two = (register(manifest, kind, store).metadata for kind in ("gguf", "safetensors"))
    assert one["chat_template_digest"] == two["chat_template_digest"] == Digest.of(written.TEMPLATE.encode())
    assert (one["context_length"], one["head_count_kv"]) == (two["context_length"], two["head_count_kv"])
    assert two["quantisation"] == "BF16"


def test_list_and_show(store: ContentStore, manifest_path: Path) -> None:
    assert list_models(store) == ()
    manifest = load_manifest(manifest_path)
    gguf = register(manifest, "gguf", store)
    assert show(store, "demo@1.0") == gguf
    both = (gguf, register(manifest, "safetensors", store))
    assert list_models(store) == both
    assert show(store, "demo@1.0:safetensors") == both[1]
    with pytest.raises(UnknownModel, match="say which format"):
        show(store, "demo@1.0")


@pytest.mark.parametrize(
    "ref", ["", "demo", "demo@", "demo@2.0", "../demo@1.0", "demo@1.0:zip", "demo@1.0:", "@", "a@b@c"]
)
def test_unknown_references(store: ContentStore, manifest_path: Path, ref: str) -> None:
    register(load_manifest(manifest_path), "gguf", store)
    with pytest.raises(UnknownModel):
        show(store, ref)


def test_same_content_is_stored_once(store: ContentStore, tmp_path: Path) -> None:
    files = {"gguf": {"model.gguf": written.gguf()}}
    for version in ("1.0", "1.1"):
        register(load_manifest(written.write_model(tmp_path, files, version)), "gguf", store)
    assert len(objects(store)) == 1
    assert len(list_models(store)) == 2
    assert not list((store.root / "tmp").iterdir())


def test_two_paths_with_the_same_content(store: ContentStore, tmp_path: Path) -> None:
    files = {"gguf": {"model.gguf": written.gguf(), "a.txt": b"same", "b.txt": b"same"}}
    model = register(load_manifest(written.write_model(tmp_path, files)), "gguf", store)
    assert len(objects(store)) == 2
    tree = store.materialise(model.artifact.digest)
    assert (tree / "a.txt").read_bytes() == (tree / "b.txt").read_bytes() == b"same"


def test_other_content_under_the_same_version_is_refused(store: ContentStore, tmp_path: Path) -> None:
    first = written.write_model(tmp_path / "a", {"gguf": {"model.gguf": written.gguf()}})
    other = written.write_model(tmp_path / "b", {"gguf": {"model.gguf": written.gguf(seed=7)}})
    model = register(load_manifest(first), "gguf", store)
    with pytest.raises(VersionTaken):
        register(load_manifest(other), "gguf", store)
    assert list_models(store) == (model,)
    assert len(objects(store)) == 1


def test_verify_reads_the_files_each_time(store: ContentStore, manifest_path: Path) -> None:
    register(load_manifest(manifest_path), "gguf", store)
    assert verify(store, "demo@1.0").ok
    (victim,) = objects(store)
    before = victim.stat()
    victim.chmod(0o644)
    data = bytearray(victim.read_bytes())
    data[-40] ^= 1
    victim.write_bytes(data)
    os.utime(victim, ns=(before.st_atime_ns, before.st_mtime_ns))
    report = verify(store, "demo@1.0")
    assert not report.ok
    assert [file.state for file in report.files] == ["damaged"]
    with pytest.raises(ObjectDamaged):
        report.require_sound()
    victim.unlink()
    assert [file.state for file in verify(store, "demo@1.0").files] == ["missing"]


def test_materialise_links_and_checks(store: ContentStore, manifest_path: Path) -> None:
    model = register(load_manifest(manifest_path), "safetensors", store)
    tree = store.materialise(model.artifact.digest)
    assert sorted(path.name for path in tree.iterdir()) == sorted(written.safetensors_files())
    for path, data in written.safetensors_files().items():
        assert (tree / path).read_bytes() == data
        assert (tree / path).stat().st_nlink == 2
        assert (tree / path).stat().st_mode & 0o777 == 0o444
    assert store.materialise(model.artifact.digest) == tree


def test_materialise_rebuilds_a_tree_that_was_tampered_with(store: ContentStore, manifest_path: Path) -> None:
    model = register(load_manifest(manifest_path), "gguf", store)
    tree = store.materialise(model.artifact.digest)
    (tree / "extra.txt").write_text("x")
    (tree / "model.gguf").unlink()
    (tree / "model.gguf").write_bytes(b"something else")
    again = store.materialise(model.artifact.digest)
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {"model.gguf": written.gguf()}
    (tree / "model.gguf").unlink()
    (tree / "model.gguf").symlink_to("/etc/hostname")
    assert (store.materialise(model.artifact.digest) / "model.gguf").read_bytes() == written.gguf()


def test_materialise_refuses_a_damaged_object(store: ContentStore, manifest_path: Path) -> None:
    model = register(load_manifest(manifest_path), "gguf", store)
    (victim,) = objects(store)
    victim.chmod(0o644)
    victim.write_bytes(victim.read_bytes()[:-1])
    with pytest.raises(ObjectDamaged):
        store.materialise(model.artifact.digest)
    assert not list((store.root / "trees").iterdir())
    with pytest.raises(RecordDamaged):
        store.materialise(Digest.of(b"unknown"))


def test_registering_again_repairs_a_damaged_object(store: ContentStore, manifest_path: Path) -> None:
    manifest = load_manifest(manifest_path)
    model = register(manifest, "gguf", store)
    (victim,) = objects(store)
    victim.chmod(0o644)
    victim.write_bytes(b"rotten")
    assert register(manifest, "gguf", store) == model
    assert verify(store, "demo@1.0").ok
    assert len(list((store.root / "quarantine").iterdir())) == 1


def test_progress_reaches_the_total(store: ContentStore, manifest_path: Path) -> None:
    manifest = load_manifest(manifest_path)
    seen: list[Progress] = []
    register(manifest, "safetensors", store, seen.append)
    total = sum(len(data) for data in written.safetensors_files().values())
    assert [step.done_bytes for step in seen] == sorted(step.done_bytes for step in seen)
    assert (seen[-1].done_bytes, seen[-1].total_bytes) == (total, total)
    assert {step.file for step in seen} == set(written.safetensors_files())


def test_a_tampered_record_is_not_believed(store: ContentStore, manifest_path: Path) -> None:
    register(load_manifest(manifest_path), "gguf", store)
    record = store.root / "models" / "demo@1.0:gguf.json"
    good = record.read_bytes()
    for bad in (b"", b"{}", b"[" * 100_000, good[:-1], good.replace(b'"size":', b'"size":1')):
        record.write_bytes(bad)
        with pytest.raises(RecordDamaged):
            show(store, "demo@1.0")
    record.write_bytes(good.replace(b'"version":"1.0"', b'"version":"1.1"'))
    with pytest.raises(RecordDamaged):
        list_models(store)


def test_difference(store: ContentStore, tmp_path: Path) -> None:
    keys = {**written.KEYS, "llama.context_length": 512}
    one = {"model.gguf": written.gguf(), "gone.txt": b"1", "same.txt": b"2"}
    two = {"model.gguf": written.gguf(keys), "new.txt": b"1", "same.txt": b"2"}
    before, after = (
        register(load_manifest(written.write_model(tmp_path, {"gguf": files}, version)), "gguf", store)
        for files, version in ((one, "1.0"), (two, "1.1"))
    )
    found = difference(before, after)
    assert (found.added, found.removed, found.changed) == (("new.txt",), ("gone.txt",), ("model.gguf",))
    assert found.metadata == {"context_length": (256, 512)}
    assert not found.same_content
    assert difference(before, before).same_content


def test_a_callback_that_stops_the_job_leaves_something_to_go_on_from(store: ContentStore, manifest_path: Path) -> None:
    class StopHere(Exception):
        pass

    def stop(step: Progress) -> None:
        raise StopHere

    manifest = load_manifest(manifest_path)
    with pytest.raises(StopHere):
        register(manifest, "safetensors", store, stop)
    assert list_models(store) == ()
    assert objects(store) == []
    assert verify(store, register(manifest, "safetensors", store).ref).ok


def test_the_store_s_own_records_are_these_bytes(store: ContentStore, manifest_path: Path) -> None:
    model = register(load_manifest(manifest_path), "gguf", store)
    golden = Path(__file__).with_name("golden")
    record = (store.root / "models" / "demo@1.0:gguf.json").read_bytes()
    assert record == (golden / "record.json").read_bytes()
    assert store.set_path(model.artifact.digest).read_bytes() == (golden / "set.json").read_bytes()
