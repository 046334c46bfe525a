"""The tiny model's data: tasks, suites and manifests. Needs no torch."""

from __future__ import annotations

import hashlib
import importlib
import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

MODELS = Path(__file__).resolve().parents[2] / "models"
VERSIONS = ("1.0", "1.1", "1.2")
KINDS = ("gguf", "safetensors")

tasks = importlib.import_module("tasks")
suites = importlib.import_module("suites")


def manifest(version: str) -> dict[str, Any]:
    value: dict[str, Any] = yaml.safe_load((MODELS / f"tiny-{version}.yaml").read_text(encoding="utf-8"))
    return value


def load_suite(name: str) -> dict[str, Any]:
    value: dict[str, Any] = yaml.safe_load((MODELS / "evals" / name).read_text(encoding="utf-8"))
    return value


@pytest.mark.parametrize("task", [*tasks.GRADED, tasks.CHAT])
def test_the_same_seed_draws_the_same_items(task: str) -> None:
    first = [tasks.draw(random.Random(3), task) for _ in range(50)]
    assert first == [tasks.draw(random.Random(3), task) for _ in range(50)]


@pytest.mark.parametrize("task", tasks.GRADED)
def test_training_never_draws_a_held_out_content(task: str) -> None:
    graded = {item.key for item in suites.evaluation() if item.task == task}
    rng = random.Random(11)
    drawn = [tasks.draw_train(rng, task) for _ in range(5000)]
    assert not graded & {item.key for item in drawn}
    assert not any(tasks.held_out(item.key) for item in drawn)


def test_about_a_tenth_of_contents_is_held_out() -> None:
    keys = [f"addition:{a}:{b}" for a in range(50) for b in range(50)]
    assert 0.08 < sum(map(tasks.held_out, keys)) / len(keys) < 0.12


def test_a_mix_limits_the_lists_to_reverse() -> None:
    rng = random.Random(2)
    lengths = {len(tasks.draw_train(rng, "reverse", 4).answer.split()) for _ in range(500)}
    assert lengths == {2, 3, 4}


def test_asking_for_more_held_out_prompts_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="held-out prompts"):
        tasks.held_out_set(1000)


@pytest.mark.parametrize("name", ["tiny-smoke.yaml", "tiny-eval.yaml"])
def test_suites_regenerate_byte_for_byte(name: str) -> None:
    assert (MODELS / "evals" / name).read_bytes() == suites.suites()[name].encode()


def test_the_evaluation_suite_reads_back_as_the_held_out_items() -> None:
    tests = load_suite("tiny-eval.yaml")["tests"]
    read = [(t["metadata"]["task"], t["vars"]["prompt"], t["assert"][-1]["value"]) for t in tests]
    assert read == [(item.task, item.prompt, item.answer) for item in suites.evaluation()]
    assert len({t["description"] for t in tests}) == len(tests)


def test_the_smoke_suite_asks_only_what_every_version_answers() -> None:
    tests = load_suite("tiny-smoke.yaml")["tests"]
    assert len(tests) == 8
    assert {t["metadata"]["task"] for t in tests} == {"chat", "capitals", "json"}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_manifest_names_its_version_and_both_formats(version: str) -> None:
    found = manifest(version)
    assert (found["schema"], found["name"], found["version"]) == (1, "tiny", version)
    assert found["licence"] == "Apache-2.0"
    assert tuple(found["artifacts"]) == KINDS


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_manifest_matches_the_files_it_ships(version: str, kind: str) -> None:
    artifact = manifest(version)["artifacts"][kind]
    root = MODELS / artifact["root"]
    on_disk = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    assert [entry["path"] for entry in artifact["files"]] == on_disk
    for entry in artifact["files"]:
        content = (root / entry["path"]).read_bytes()
        assert entry["size"] == len(content)
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_set_digest_covers_the_listed_files(version: str, kind: str) -> None:
    artifact = manifest(version)["artifacts"][kind]
    canonical = json.dumps(sorted(artifact["files"], key=lambda e: e["path"]), sort_keys=True, separators=(",", ":"))
    assert artifact["digest"] == "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def test_the_recorded_evaluation_tells_the_story() -> None:
    accuracy = json.loads((MODELS / "tiny-evaluation.json").read_text(encoding="utf-8"))["accuracy"]
    good, better, regressed = (accuracy[version] for version in VERSIONS)
    assert better["overall"] > good["overall"]
    assert min(better[task] for task in tasks.GRADED) >= 0.97
    assert regressed["overall"] <= better["overall"] - 0.25
    assert sum(regressed[task] <= 0.4 for task in tasks.GRADED) >= 2
    assert min(regressed["json"], regressed["capitals"]) >= 0.97


@pytest.mark.parametrize("version", VERSIONS)
def test_the_gguf_carries_name_and_chat_template(version: str) -> None:
    head = (MODELS / f"tiny-{version}" / "gguf" / "model.gguf").read_bytes()[:65536]
    assert head[:4] == b"GGUF"
    assert f"tiny-{version}".encode() in head
    assert b"<|im_start|>assistant" in head
