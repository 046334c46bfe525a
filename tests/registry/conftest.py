"""A store, and small artifacts to register in it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import written

from stack.registry import ContentStore


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    """An empty store."""
    return ContentStore(tmp_path / "store")


@pytest.fixture
def manifest_path(tmp_path: Path) -> Path:
    """A manifest with a GGUF and a safetensors artifact."""
    return written.write_model(
        tmp_path / "models", {"gguf": {"model.gguf": written.gguf()}, "safetensors": written.safetensors_files()}
    )
