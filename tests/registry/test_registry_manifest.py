"""Manifests: every mistake at once with its line; nothing outside the artifact's root is ever touched."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import written
import yaml
from hypothesis import given
from hypothesis import strategies as st

from stack.registry import load_manifest
from stack.registry.errors import ManifestInvalid
from stack.registry.paths import magic_problem, path_problem

GOOD = written.body({"gguf": {"model.gguf": written.gguf()}})


def mistakes(path: Path) -> list[dict[str, Any]]:
    with pytest.raises(ManifestInvalid) as caught:
        load_manifest(path)
    assert caught.value.exit_code == 2
    assert caught.value.advice
    errors: list[dict[str, Any]] = caught.value.facts["errors"]
    assert len(errors) == caught.value.facts["count"] >= 1
    return errors


def rewritten(path: Path, change: Any) -> Path:
    value = copy.deepcopy(yaml.safe_load(path.read_text()))
    change(value)
    path.write_text(yaml.safe_dump(value, sort_keys=False, width=1000))
    return path


def first_file(value: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = value["artifacts"]["gguf"]["files"][0]
    return entry


def test_a_good_manifest(manifest_path: Path) -> None:
    manifest = load_manifest(manifest_path)
    assert (manifest.name, manifest.version, manifest.licence) == ("demo", "1.0", "Apache-2.0")
    assert set(manifest.artifacts) == {"gguf", "safetensors"}
    assert manifest.artifacts["gguf"].files[0].path == "model.gguf"


def test_every_mistake_at_once_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(
        "schema: 2\n"
        "name: Bad Name\n"
        "version: 1.0\n"
        "licence: [a]\n"
        "source: here\n"
        "colour: red\n"
        "artifacts:\n"
        "  gguf:\n"
        "    root: ../up\n"
        "    digest: sha256:12\n"
        "    files:\n"
        "    - path: /etc/passwd\n"
        "      size: -1\n"
        "      sha256: XYZ\n"
        "    - path: a.gguf\n"
        "      size: true\n"
        "      path: b.gguf\n"
        "  onnx: {}\n"
    )
    found = {(error["line"], error["path"]) for error in mistakes(path)}
    place = "artifacts.gguf.files"
    assert found == {
        (1, "schema"),
        (1, "description"),
        (2, "name"),
        (3, "version"),
        (4, "licence"),
        (6, "colour"),
        (9, "artifacts.gguf.root"),
        (10, "artifacts.gguf.digest"),
        (12, f"{place}[0].path"),
        (13, f"{place}[0].size"),
        (14, f"{place}[0].sha256"),
        (15, f"{place}[1].sha256"),
        (16, f"{place}[1].size"),
        (17, f"{place}[1].path"),
        (18, "artifacts.onnx"),
    }


@pytest.mark.parametrize(
    "path",
    [
        "../x",
        "a/../x",
        "/x",
        "a\\b",
        "C:x",
        "c:/x",
        "a\0b",
        "a\nb",
        "a//b",
        "./a",
        "a/",
        "",
        "é",
        "\x7f",
        "..",
        "a" * 256,
    ],
)
def test_unsafe_paths(manifest_path: Path, path: str) -> None:
    assert path_problem(path)
    rewritten(manifest_path, lambda value: first_file(value).update(path=path))
    assert any(error["path"] == "artifacts.gguf.files[0].path" for error in mistakes(manifest_path))


@given(st.text(st.characters(max_codepoint=300), max_size=40) | st.from_regex(r"[a./\\:]{1,12}", fullmatch=True))
def test_an_allowed_path_stays_below_its_root(path: str) -> None:
    if path_problem(path) is None:
        joined = os.path.normpath(f"/root/{path}")
        assert joined == f"/root/{path}"
        assert "\0" not in path


@pytest.mark.parametrize("name", ["w.bin", "W.PT", "a.pth", "a.ckpt", "a.pkl", "a.pickle", "a.joblib", "m.py", "x.so"])
def test_pickles_and_code_are_refused_by_name(manifest_path: Path, name: str) -> None:
    rewritten(manifest_path, lambda value: first_file(value).update(path=name))
    assert any("pickle" in error["problem"] or "code" in error["problem"] for error in mistakes(manifest_path))


def test_magic() -> None:
    for head in (b"\x80\x02}q", b"\x80\x05\x95", b"PK\x03\x04abc"):
        assert magic_problem(head)
    for head in (b"", b"\x80", b"GGUF", b"{}", b"\x80\x00\x00\x00\x00\x00\x00\x00{"):
        assert magic_problem(head) is None


def test_missing_and_wrongly_sized_files(manifest_path: Path) -> None:
    root = manifest_path.parent / "demo-1.0"
    (root / "gguf" / "model.gguf").unlink()
    weights = root / "safetensors" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    (root / "safetensors" / "config.json").write_bytes(b"x" * 5000)
    found = mistakes(manifest_path)
    assert [("no such file" in e["problem"], "truncated" in e["problem"], "longer" in e["problem"]) for e in found] == [
        (True, False, False),
        (False, False, True),
        (False, True, False),
    ]


@pytest.mark.parametrize("where", ["file", "root", "middle", "inside"])
def test_symlinks_anywhere_are_refused(tmp_path: Path, where: str) -> None:
    path = written.write_model(tmp_path, {"gguf": {"sub/model.gguf": written.gguf()}})
    place = {
        "file": tmp_path / "demo-1.0/gguf/sub/model.gguf",
        "inside": tmp_path / "demo-1.0/gguf/sub/model.gguf",
        "middle": tmp_path / "demo-1.0/gguf/sub",
        "root": tmp_path / "demo-1.0",
    }[where]
    moved = place.with_name("moved.gguf") if where == "inside" else tmp_path.parent / f"{tmp_path.name}-outside"
    place.rename(moved)
    place.symlink_to(moved)
    (error,) = mistakes(path)
    assert "symbolic link" in error["problem"]


def test_fifo_and_directory_are_refused_at_once(manifest_path: Path) -> None:
    place = manifest_path.parent / "demo-1.0" / "gguf" / "model.gguf"
    place.unlink()
    os.mkfifo(place)
    assert "regular file" in mistakes(manifest_path)[0]["problem"]
    place.unlink()
    place.mkdir()
    assert "regular file" in mistakes(manifest_path)[0]["problem"]


def test_duplicate_and_nested_paths(manifest_path: Path) -> None:
    def change(value: dict[str, Any]) -> None:
        entry = first_file(value)
        inner = {**entry, "path": "model.gguf/inner"}
        value["artifacts"]["gguf"]["files"] = [entry, dict(entry), inner]

    problems = " ".join(error["problem"] for error in mistakes(rewritten(manifest_path, change)))
    assert "listed twice" in problems
    assert "lies inside another" in problems


def test_a_set_digest_that_disagrees(manifest_path: Path) -> None:
    wrong = "sha256:" + "0" * 64
    rewritten(manifest_path, lambda value: value["artifacts"]["gguf"].update(digest=wrong))
    (error,) = mistakes(manifest_path)
    assert error["path"] == "artifacts.gguf.digest"
    assert GOOD["artifacts"]["gguf"]["digest"] in error["problem"]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "empty"),
        ("a: &x 1\nb: *x\n", "anchors"),
        ("a: !!python/object:os.system x\n", "tags"),
        ("a: 1\n---\nb: 2\n", "one document"),
        ("[" * 100_000, "nested"),
        ("a: [\n", "not YAML"),
        ("\tx: 1", "not YAML"),
        ("a: \x01", "not YAML"),
        ("- 1\n", "expected a mapping"),
        ("name: " + "9" * 6000, "expected text"),
        ("a: " + "x" * (5 << 20), "larger"),
    ],
)
def test_hostile_yaml(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(text)
    assert any(word in error["problem"] for error in mistakes(path))


def test_unreadable_manifests(tmp_path: Path) -> None:
    assert mistakes(tmp_path / "absent.yaml")[0]["line"] == 0
    assert mistakes(tmp_path)[0]["line"] == 0
    (tmp_path / "latin.yaml").write_bytes(b"schema: 1\nname: \xff\n")
    assert mistakes(tmp_path / "latin.yaml") == [{"line": 2, "path": "", "problem": "not UTF-8 text"}]
