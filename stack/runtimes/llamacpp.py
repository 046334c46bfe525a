"""The driver for llama.cpp in its two distributions.

`xllamacpp` is the C++ server inside a Python process; `llama-cpp-python` is a Python server that answers one request
at a time and has neither `/health` nor `/metrics`, nor usage in streams. How each is started on a host is the
launcher's business; here stands what can be relied on.
"""

from __future__ import annotations

from stack.core.release import Engine, Release
from stack.runtimes.engine import CantLaunch, LaunchDescription, Traits, describe, traits_of

_METRICS = {
    "prompt_tokens": "llamacpp:prompt_tokens_total",
    "generated_tokens": "llamacpp:tokens_predicted_total",
    "steps": "llamacpp:n_decode_total",
    "running": "llamacpp:requests_processing",
    "waiting": "llamacpp:requests_deferred",
}
_XLLAMACPP = Traits(
    distribution="xllamacpp",
    liveness_path="/health",
    models_path="/v1/models",
    ready_line="listening on http://",
    names_itself=True,
    streams_usage=True,
    concurrent=True,
    sigterm_finishes_streams=True,
    metrics_path="/metrics",
    metrics=_METRICS,
)
_LLAMA_CPP_PYTHON = Traits(
    distribution="llama-cpp-python",
    liveness_path="/v1/models",
    models_path="/v1/models",
    ready_line="Uvicorn running on http://",
    names_itself=False,
    streams_usage=False,
    concurrent=False,
    sigterm_finishes_streams=True,
)
_TRAITS = {traits.distribution: traits for traits in (_XLLAMACPP, _LLAMA_CPP_PYTHON)}


class LlamaCpp:
    """llama.cpp: reads GGUF, serves an OpenAI-compatible API."""

    engine: Engine = "llamacpp"

    def traits(self, distribution: str) -> Traits:
        """How this distribution behaves; raises `UnknownDistribution`."""
        return traits_of(_TRAITS, self.engine, distribution)

    def launch(
        self, release: Release, *, artifact_dir: str, environment_dir: str, host_ip: str, port: int
    ) -> LaunchDescription:
        """What starts `release`; raises `CantLaunch` or `UnknownDistribution`."""
        self.traits(release.runtime.distribution)
        if release.runtime.engine != self.engine:
            raise CantLaunch(f"it is for the engine {release.runtime.engine}")
        return describe(
            release,
            "gguf",
            artifact_dir=artifact_dir,
            environment_dir=environment_dir,
            host_ip=host_ip,
            port=port,
        )
