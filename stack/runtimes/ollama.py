"""The driver for Ollama: a server of its own that holds many models, is told by API what to load, and reads GGUF.

Nothing here installs it: a host has it, of the version that the release names, or it has not. A replica is a small
process on the host (`launch_ollama.py`) that lets the gateway through to the release's model alone, and only while the
server shows that the name stands for exactly the release's files; so what it answers proves who gave it.
"""

from __future__ import annotations

from stack.core.release import Engine, Release
from stack.runtimes.engine import CantLaunch, LaunchDescription, Traits, describe, traits_of

_TRAITS = {
    "ollama": Traits(
        distribution="ollama",
        liveness_path="/health",
        models_path="/v1/models",
        ready_line="listening on http://",
        names_itself=True,
        streams_usage=True,
        concurrent=True,
        sigterm_finishes_streams=True,
        provided=True,
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
