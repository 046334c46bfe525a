"""Releases for tests."""

from __future__ import annotations

from stack.core.digest import Digest
from stack.core.release import Engine, Launch, Release, RuntimeVersion


def release_of(distribution: str, *, context: int = 256) -> Release:
    """A release that runs on `distribution`."""
    engine: Engine = "vllm" if distribution.startswith("vllm") else "llamacpp"
    return Release(
        service="tiny",
        model="tiny@1.0",
        artifact=Digest.of(b"weights"),
        artifact_format="safetensors" if engine == "vllm" else "gguf",
        runtime=RuntimeVersion(engine=engine, distribution=distribution, version="1", lock=Digest.of(b"lock")),
        launch=Launch(context=context, parallel=2, threads=1),
    )
