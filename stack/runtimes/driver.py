"""Which driver belongs to an engine."""

from __future__ import annotations

from stack.core.errors import InvalidInput
from stack.runtimes.engine import Driver, LaunchDescription, Traits
from stack.runtimes.llamacpp import LlamaCpp
from stack.runtimes.ollama import Ollama
from stack.runtimes.vllm import Vllm

__all__ = ["Driver", "LaunchDescription", "NoDriver", "Traits", "driver_for"]


class NoDriver(InvalidInput):
    """There is no driver for the engine {engine} yet; there is one for: {known}."""

    hint = "Choose one of the known engines in the runtime setting of the service."


def driver_for(engine: str) -> Driver:
    """The driver of `engine`; raises `NoDriver`."""
    drivers: dict[str, Driver] = {"llamacpp": LlamaCpp(), "vllm": Vllm(), "ollama": Ollama()}
    if engine not in drivers:
        raise NoDriver(engine=engine, known=", ".join(drivers))
    return drivers[engine]
