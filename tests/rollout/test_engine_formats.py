"""The artifact's format follows the engine that is asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from stack.config.stack_yaml import ServiceSettings, load_stack
from stack.rollout.planner import opened_by

STACK = Path(__file__).parents[2] / "stack.yaml"


@pytest.fixture
def service() -> ServiceSettings:
    """The service that ships: gguf on llama.cpp."""
    found: ServiceSettings = next(iter(load_stack(STACK).services.values()))
    assert found.format == "gguf"
    return found


@pytest.mark.parametrize(("engine", "wanted"), [("llamacpp", "gguf"), ("ollama", "gguf"), ("vllm", "safetensors")])
def test_an_engine_gets_what_it_opens(service: ServiceSettings, engine: str, wanted: str) -> None:
    for given in ("gguf", "safetensors"):
        found = opened_by(engine, replace(service, format=given))
        assert found.format == wanted
        assert replace(found, format="gguf") == service


def test_an_unknown_engine_changes_nothing(service: ServiceSettings) -> None:
    assert opened_by("tgi", service) == service
