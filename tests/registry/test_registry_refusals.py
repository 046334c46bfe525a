"""What is never admitted: spoiled, swapped, incomplete and dangerous files; and that nothing of it stays behind."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import written

from stack.core.errors import InvalidInput, Refused, StackError
from stack.registry import ContentStore, Manifest, Progress, list_models, load_manifest, register
from stack.registry.errors import (
    DigestMismatch,
    HeaderInvalid,
    IncompleteArtifact,
    PickleRefused,
    SourceChanged,
    UnsafePath,
)


def nothing_registered(store: ContentStore) -> None:
    assert list_models(store) == ()
    left = [path for path in store.root.rglob("*") if path.is_file() and path.name not in ("lock", "trees.lock")]
    assert left == []


def refused(
    tmp_path: Path,
    store: ContentStore,
    kind: Any,
    files: dict[str, bytes],
    error: type[StackError],
    word: str | None = None,
) -> None:
    manifest = load_manifest(written.write_model(tmp_path / "models", {kind: files}))
    with pytest.raises(error, match=word) as caught:
        register(manifest, kind, store)
    assert caught.value.advice
    nothing_registered(store)


def without(*names: str) -> dict[str, Any]:
    return {key: value for key, value in written.KEYS.items() if key not in names}


@pytest.mark.parametrize(
    ("keys", "error", "word"),
    [
        (without("tokenizer.chat_template"), IncompleteArtifact, "chat template"),
        ({**written.KEYS, "tokenizer.chat_template": ""}, IncompleteArtifact, "chat template"),
        (without("tokenizer.ggml.tokens"), IncompleteArtifact, "tokenizer"),
        (without("general.architecture"), HeaderInvalid, "architecture"),
        (without("llama.context_length"), HeaderInvalid, "context_length"),
        ({**written.KEYS, "llama.block_count": 0}, HeaderInvalid, "block_count"),
        ({**written.KEYS, "split.no": 0, "split.count": 2}, HeaderInvalid, "whole split"),
    ],
)
def test_gguf_that_no_runtime_could_serve(
    tmp_path: Path, store: ContentStore, keys: dict[str, Any], error: type[StackError], word: str
) -> None:
    refused(tmp_path, store, "gguf", {"model.gguf": written.gguf(keys)}, error, word)


def split(count: int = 3) -> dict[str, bytes]:
    rest = {"general.architecture": "llama"}
    return {
        f"m-{n + 1:05}-of-{count:05}.gguf": written.gguf(
            {**(written.KEYS if n == 0 else rest), "split.no": n, "split.count": count}, seed=n
        )
        for n in range(count)
    }


def test_split_gguf(tmp_path: Path, store: ContentStore) -> None:
    model = register(load_manifest(written.write_model(tmp_path / "models", {"gguf": split()})), "gguf", store)
    assert model.metadata["tensor_count"] == 9
    assert model.metadata["parameters"] == 3 * (1280 + 32 + 160)


def test_split_gguf_with_a_part_missing_or_given_twice(tmp_path: Path, store: ContentStore) -> None:
    files = split()
    twice = {**files, "m-00003-of-00003.gguf": files["m-00002-of-00003.gguf"]}
    refused(tmp_path / "twice", store, "gguf", twice, HeaderInvalid, "whole split")
    del files["m-00002-of-00003.gguf"]
    refused(tmp_path / "missing", store, "gguf", files, HeaderInvalid, "whole split")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
def test_incomplete_safetensors(tmp_path: Path, store: ContentStore, name: str) -> None:
    files = written.safetensors_files()
    del files[name]
    refused(tmp_path, store, "safetensors", files, IncompleteArtifact)


@pytest.mark.parametrize(
    ("name", "content", "error", "word"),
    [
        ("tokenizer_config.json", b"{}", IncompleteArtifact, "chat template"),
        ("tokenizer_config.json", b'{"chat_template": "\\ud800"}', HeaderInvalid, "not text"),
        ("tokenizer_config.json", b"nonsense", HeaderInvalid, "JSON"),
        ("tokenizer.json", b"nonsense", HeaderInvalid, "JSON"),
        ("config.json", b"[]", HeaderInvalid, "JSON object"),
        ("config.json", b"{}", HeaderInvalid, "architectures"),
        ("config.json", json.dumps({**written.CONFIG, "vocab_size": -1}).encode(), HeaderInvalid, "vocabulary"),
        ("model.safetensors", b"\x80\x02}q\x00." + bytes(60), PickleRefused, "pickle"),
        ("model.safetensors", b"PK\x03\x04archive/data.pkl" + bytes(60), PickleRefused, "zip"),
        ("notes.txt", b"\x80\x04\x95" + bytes(60), PickleRefused, "pickle"),
    ],
)
def test_bad_safetensors_files(
    tmp_path: Path, store: ContentStore, name: str, content: bytes, error: type[StackError], word: str
) -> None:
    refused(tmp_path, store, "safetensors", {**written.safetensors_files(), name: content}, error, word)


def test_shards_and_their_index(tmp_path: Path, store: ContentStore) -> None:
    good = written.sharded_files()
    index = "model.safetensors.index.json"
    refused(tmp_path / "a", store, "safetensors", {k: v for k, v in good.items() if k != index}, IncompleteArtifact)
    short = {k: v for k, v in good.items() if "00002-of" not in k}
    refused(tmp_path / "b", store, "safetensors", short, HeaderInvalid, "disagrees")
    moved = good[index].replace(b"00001-of", b"00003-of")
    refused(tmp_path / "c", store, "safetensors", {**good, index: moved}, HeaderInvalid, "disagrees")
    again = {**good, "extra.safetensors": good["model-00001-of-00003.safetensors"]}
    refused(tmp_path / "d", store, "safetensors", again, HeaderInvalid, "same name")
    manifest = load_manifest(written.write_model(tmp_path / "e", {"safetensors": good}))
    assert register(manifest, "safetensors", store).metadata["tensor_count"] == 3


def test_a_flipped_bit_anywhere_is_refused(tmp_path: Path, store: ContentStore, record_property: Any) -> None:
    data = written.gguf()
    path = written.write_model(tmp_path, {"gguf": {"model.gguf": data}})
    manifest = load_manifest(path)
    place = tmp_path / "demo-1.0" / "gguf" / "model.gguf"
    positions = range(0, len(data), 13)
    for position in positions:
        spoiled = bytearray(data)
        spoiled[position] ^= 1 << position % 8
        place.write_bytes(spoiled)
        with pytest.raises(DigestMismatch):
            register(manifest, "gguf", store)
        nothing_registered(store)
    record_property("positions", len(positions))


def test_a_spoiled_source_is_refused_even_when_the_store_has_the_content(tmp_path: Path, store: ContentStore) -> None:
    manifest = load_manifest(written.write_model(tmp_path, {"gguf": {"model.gguf": written.gguf()}}))
    register(manifest, "gguf", store)
    place = tmp_path / "demo-1.0" / "gguf" / "model.gguf"
    place.write_bytes(place.read_bytes()[:-64] + bytes(64))
    with pytest.raises(DigestMismatch) as caught:
        register(manifest, "gguf", store)
    assert isinstance(caught.value, Refused)


def test_a_spoiled_shard_takes_the_others_with_it(tmp_path: Path, store: ContentStore) -> None:
    manifest = load_manifest(written.write_model(tmp_path, {"safetensors": written.sharded_files(8)}))
    place = tmp_path / "demo-1.0/safetensors/model-00008-of-00008.safetensors"
    place.write_bytes(place.read_bytes()[:-1] + b"?")
    with pytest.raises(DigestMismatch, match="00008-of-00008"):
        register(manifest, "safetensors", store)
    nothing_registered(store)


def test_swapped_files_are_refused(tmp_path: Path, store: ContentStore) -> None:
    manifest = load_manifest(written.write_model(tmp_path, {"safetensors": written.sharded_files()}))
    one, two = (tmp_path / f"demo-1.0/safetensors/model-0000{n}-of-00003.safetensors" for n in (1, 2))
    kept = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(kept)
    with pytest.raises(DigestMismatch):
        register(manifest, "safetensors", store)
    nothing_registered(store)


@pytest.mark.parametrize("size", [-1, 1, 4096])
def test_a_source_that_changed_size_after_the_manifest_was_read(tmp_path: Path, store: ContentStore, size: int) -> None:
    manifest = load_manifest(written.write_model(tmp_path, {"gguf": {"model.gguf": written.gguf()}}))
    place = tmp_path / "demo-1.0" / "gguf" / "model.gguf"
    os.truncate(place, place.stat().st_size + size)
    with pytest.raises((DigestMismatch, SourceChanged)):
        register(manifest, "gguf", store)
    nothing_registered(store)


def test_a_source_that_changes_while_it_is_read(tmp_path: Path, store: ContentStore) -> None:
    head = written.gguf(tensors={"t": ([2 << 20], 0, 8 << 20)})
    manifest = load_manifest(written.write_model(tmp_path, {"gguf": {"model.gguf": head}}))
    place = tmp_path / "demo-1.0" / "gguf" / "model.gguf"

    def meddle(step: Progress) -> None:
        if step.done_bytes < 3 << 20:
            with place.open("r+b") as file:
                file.seek(6 << 20)
                file.write(b"changed")

    with pytest.raises(SourceChanged):
        register(manifest, "gguf", store, meddle)
    nothing_registered(store)


def test_a_link_swapped_in_after_the_manifest_was_read(tmp_path: Path, store: ContentStore) -> None:
    manifest = load_manifest(written.write_model(tmp_path / "m", {"gguf": {"model.gguf": written.gguf()}}))
    folder = tmp_path / "m" / "demo-1.0" / "gguf"
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafePath, match="symbolic link"):
        register(manifest, "gguf", store)
    nothing_registered(store)


def test_a_format_that_the_manifest_lacks(tmp_path: Path, store: ContentStore) -> None:
    manifest = load_manifest(written.write_model(tmp_path, {"gguf": {"model.gguf": written.gguf()}}))
    with pytest.raises(InvalidInput, match="no safetensors"):
        register(manifest, "safetensors", store)


def test_many_registrations_at_the_same_time(tmp_path: Path, store: ContentStore) -> None:
    files = {"gguf": {"model.gguf": written.gguf()}}
    manifests = [load_manifest(written.write_model(tmp_path, files, f"1.{n}")) for n in range(4)] * 2

    def work(manifest: Manifest) -> None:
        model = register(manifest, "gguf", store)
        done.append((store.materialise(model.artifact.digest) / "model.gguf").read_bytes())

    done: list[bytes] = []
    threads = [threading.Thread(target=work, args=(manifest,)) for manifest in manifests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [written.gguf()] * 8
    assert len(list_models(store)) == 4
    assert len([path for path in (store.root / "objects").rglob("*") if path.is_file()]) == 1
