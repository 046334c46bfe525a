"""The driver for Ollama: a server of its own that holds many models, is told by API what to load, and reads GGUF.

Nothing here installs it: a host has it, or it has not (`ollama_api` asks for its version). It answers under whatever
name it is asked for, so its answers prove nothing by their name; the digest of the file behind the name does.
"""

from __future__ import annotations

from stack.core.release import Engine, Release
from stack.runtimes.engine import CantLaunch, LaunchDescription, Traits, describe, traits_of

TAG = ":latest"
"""What Ollama puts behind a name that has no tag."""

_TRAITS = {
    "ollama": Traits(
        distribution="ollama",
        liveness_path="/api/version",
        models_path="/v1/models",
        ready_line="Listening on ",
        names_itself=False,
        streams_usage=True,
        concurrent=True,
        sigterm_finishes_streams=False,
        listed_with=TAG,
    )
}


class Ollama:
    """Ollama: reads GGUF, serves an OpenAI-compatible API beside its own."""

    engine: Engine = "ollama"

    def traits(self, distribution: str) -> Traits:
        """How it behaves; raises `UnknownDistribution`."""
        return traits_of(_TRAITS, self.engine, distribution)

    def launch(
        self, release: Release, *, artifact_dir: str, environment_dir: str, host_ip: str, port: int
    ) -> LaunchDescription:
        """What is to be served and where; raises `CantLaunch` or `UnknownDistribution`."""
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
