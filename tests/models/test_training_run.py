"""Training itself, at a few steps: the one command builds everything and gives the same digests twice."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.training


def digests(models: Path) -> dict[str, str]:
    """Every set digest in every manifest of a folder."""
    found: dict[str, str] = {}
    for path in sorted(models.glob("tiny-*.yaml")):
        artifacts = yaml.safe_load(path.read_text(encoding="utf-8"))["artifacts"]
        found |= {f"{path.stem}/{kind}": artifact["digest"] for kind, artifact in artifacts.items()}
    return found


def test_two_builds_give_the_same_digests(tmp_path: Path) -> None:
    build = importlib.import_module("build")
    for name in ("first", "second"):
        build.main(["--out", str(tmp_path / name), "--steps-scale", "0.002", "--prompts", "2", "--threads", "1"])
    first = digests(tmp_path / "first")
    assert first == digests(tmp_path / "second")
    assert len(first) == 6
    assert len(set(first.values())) == 6, "each version has weights of its own"


def test_a_version_brings_its_missing_parents(tmp_path: Path) -> None:
    build = importlib.import_module("build")
    assert [recipe.version for recipe in build.plan(tmp_path, ["1.2"])] == ["1.0", "1.1", "1.2"]
    weights = build.weights_folder(tmp_path, "1.1")
    weights.mkdir(parents=True)
    (weights / "model.safetensors").touch()
    assert [recipe.version for recipe in build.plan(tmp_path, ["1.2"])] == ["1.2"]


def test_a_shortened_run_may_not_replace_the_shipped_models(capsys: pytest.CaptureFixture[str]) -> None:
    build = importlib.import_module("build")
    with pytest.raises(SystemExit):
        build.main(["--steps-scale", "0.01"])
    assert "--out of its own" in capsys.readouterr().err
