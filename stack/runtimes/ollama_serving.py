"""Makes an Ollama server serve exactly a release's bytes under the release's name, and takes it away again.

Each step looks before and after, so all of it may be repeated after an interruption.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stack.core.release import FileEntry, Release
from stack.runtimes.engine import CantLaunch
from stack.runtimes.ollama import TAG
from stack.runtimes.ollama_api import NoSuchOllamaModel, NotTheWeights, OllamaServer, Told


def serve(
    server: OllamaServer, release: Release, folder: Path, files: Sequence[FileEntry], told: Told | None = None
) -> None:
    """Upload what is missing, make the model, prove its weights, load it to stay. Raises what the server says."""
    weights = [file for file in files if file.path.endswith(".gguf")]
    if release.artifact_format != "gguf" or not weights:
        raise CantLaunch(f"Ollama reads gguf, not {release.artifact_format}")
    if not proven(server, release, files):
        for file in weights:
            server.upload(file.sha256, folder / file.path)
        named = {Path(file.path).name: file.sha256 for file in weights}
        server.create(release.served_model, named, release.launch, told)
        if not proven(server, release, files):
            raise NotTheWeights("it was just made of the right ones", model=release.served_model)
    server.load(release.served_model)


def proven(server: OllamaServer, release: Release, files: Sequence[FileEntry]) -> bool:
    """Is the release's model there, of exactly these weights?"""
    wanted = frozenset(file.sha256 for file in files if file.path.endswith(".gguf"))
    try:
        return bool(wanted) and server.weights(release.served_model) == wanted
    except NoSuchOllamaModel:
        return False


def in_memory(server: OllamaServer, release: Release) -> bool:
    """Is the release's model loaded?"""
    return any(model.name == release.served_model + TAG for model in server.loaded())


def withdraw(server: OllamaServer, release: Release) -> None:
    """Unload once running answers are whole, then delete; nothing to do when it is not there."""
    if any(model.name == release.served_model + TAG for model in server.models()):
        server.unload(release.served_model)
        server.delete(release.served_model)
