"""Training itself, at a few steps: the one command builds everything and gives the same digests twice.

It runs in an environment of its own, which ``make training-environment`` makes and ``make test`` asks for.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml

pytestmark = [pytest.mark.training, pytest.mark.timeout(900)]
REPOSITORY = Path(__file__).resolve().parents[2]
TRAINING = REPOSITORY / "models" / "training"
PYTHON = REPOSITORY / ".venv-training" / "bin" / "python"


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The training environment's Python, in the folder of the scripts."""
    assert PYTHON.exists(), "there is no .venv-training; run: make training-environment"
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    command = [str(PYTHON), *arguments]
    return subprocess.run(
        command, cwd=TRAINING, env=environment, capture_output=True, text=True, check=False, timeout=800
    )


def digests(models: Path) -> dict[str, str]:
    """Every set digest in every manifest of a folder."""
    found: dict[str, str] = {}
    for path in sorted(models.glob("tiny-*.yaml")):
        artifacts = yaml.safe_load(path.read_text(encoding="utf-8"))["artifacts"]
        found |= {f"{path.stem}/{kind}": artifact["digest"] for kind, artifact in artifacts.items()}
    return found


def test_two_builds_give_the_same_digests(tmp_path: Path) -> None:
    for name in ("first", "second"):
        out = str(tmp_path / name)
        done = python("build.py", "--out", out, "--steps-scale", "0.002", "--prompts", "2", "--threads", "1")
        assert done.returncode == 0, done.stderr
    first = digests(tmp_path / "first")
    assert first == digests(tmp_path / "second")
    assert len(first) == 6
    assert len(set(first.values())) == 6, "each version has weights of its own"


MISSING_PARENTS = """
import build, pathlib, sys
models = pathlib.Path(sys.argv[1])
print([recipe.version for recipe in build.plan(models, ["1.2"])])
weights = build.weights_folder(models, "1.1")
weights.mkdir(parents=True)
(weights / "model.safetensors").touch()
print([recipe.version for recipe in build.plan(models, ["1.2"])])
"""


def test_a_version_brings_its_missing_parents(tmp_path: Path) -> None:
    done = python("-c", MISSING_PARENTS, str(tmp_path))
    assert done.stdout.splitlines() == ["['1.0', '1.1', '1.2']", "['1.2']"], done.stderr


def test_a_shortened_run_may_not_replace_the_shipped_models() -> None:
    refused = python("build.py", "--steps-scale", "0.01")
    assert refused.returncode == 2
    assert "--out of its own" in refused.stderr
