#!/usr/bin/env python3
"""The one door to this host's Ollama server: its published API, each call bounded, each answer looked at.

A server is named by ``launch.json``: its address and the version that the release names. What is uploaded is named by
its digest, and what a model name stands for is asked back: Ollama stores whatever it is given under any name, and lets
anybody replace it. Every step looks before and after, so all may be repeated. Standard library
only, Python 3.9 or newer.
"""

from __future__ import annotations

import http.client
import json
import re
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, FrozenSet, Iterator, List, Optional

MAX_REPLY = 8 << 20
TAG = ":latest"  # what Ollama puts behind a name that has no tag
_FROM = re.compile(r"^FROM \S*sha256[-:]([0-9a-f]{64})\s*$", re.MULTILINE)


class Unreachable(Exception):
    """The server can't be used now; the text says why. Trying again may help."""


class NobodyListens(Unreachable):
    """There is no server, so it holds nothing in memory either."""


class Wrong(Exception):
    """The server is another one than the release names, or refused; trying again does not help."""


class NoSuchModel(Exception):
    """The server has no model of this name."""


class Server:
    """The server at ``address`` (host:port); ``work_s`` is for loading, hashing and making."""

    def __init__(self, address: str, timeout_s: float = 10.0, work_s: float = 600.0) -> None:
        self.address, self.timeout_s, self.work_s = address, timeout_s, work_s

    def version(self) -> str:
        """The server's version."""
        return _text(self._asked("GET", "/api/version"), "version")

    def models(self) -> List[str]:
        """The names of what it has on disk."""
        return _names(self._asked("GET", "/api/tags"))

    def loaded(self) -> List[str]:
        """The names of what it has in memory."""
        return _names(self._asked("GET", "/api/ps"))

    def has_blob(self, digest: str) -> bool:
        """Does it have the file ``sha256:<hex>``?"""
        with self._sent("HEAD", f"/api/blobs/{digest}") as reply:
            if reply.status not in (200, 404):
                raise Wrong(f"Ollama answers HTTP {reply.status} to a question for a file")
            return reply.status == 200

    def upload(self, digest: str, path: Path) -> None:
        """Send the file, unless it is there; the server hashes it and refuses another."""
        if self.has_blob(digest):
            return
        with open(path, "rb") as file:
            length = {"content-length": str(path.stat().st_size)}
            with self._sent("POST", f"/api/blobs/{digest}", file, length) as reply:
                _check(reply, 201)

    def create(self, model: str, files: Dict[str, str], parameters: Dict[str, Any]) -> None:
        """Make ``model`` from uploaded files (name -> digest). Anything but a last ``success`` is a refusal."""
        asked = {"model": model, "files": files, "parameters": parameters, "stream": True}
        last = ""
        with self._sent("POST", "/api/create", asked) as reply:
            _check(reply, 200)
            for line in _whole(reply).splitlines():
                step = _object(line)
                if "error" in step:
                    raise Wrong(f"Ollama can't make {model}: {str(step['error'])[:300]}")
                last = str(step.get("status", ""))
        if last != "success":
            raise Wrong(f"making {model} ended at {last or 'nothing'}")

    def weights(self, model: str) -> FrozenSet[str]:
        """The digests of the files that ``model`` is made of, as the server says now."""
        text = _text(self._asked("POST", "/api/show", {"model": model}), "modelfile")
        return frozenset(f"sha256:{found}" for found in _FROM.findall(text))

    def load(self, model: str) -> None:
        """Into memory, to stay."""
        self._keep(model, -1, "load")

    def unload(self, model: str) -> None:
        """Out of memory, at once; running answers finish first."""
        self._keep(model, 0, "unload")

    def delete(self, model: str) -> None:
        """Off its disk; nothing to do when it is not there."""
        with self._sent("DELETE", "/api/delete", {"model": model}) as reply:
            if reply.status != 404:
                _check(reply, 200)

    def _keep(self, model: str, keep_alive: int, done: str) -> None:
        asked = {"model": model, "messages": [], "keep_alive": keep_alive, "stream": False}
        reply = self._asked("POST", "/api/chat", asked)
        if reply.get("done") is not True or reply.get("done_reason") != done:
            raise Wrong(f"Ollama was asked to {done} {model} and says {str(reply)[:120]}")

    def _asked(self, method: str, path: str, body: Optional[Dict[str, Any]] = None) -> Dict[str, Any]:
        with self._sent(method, path, body) as reply:
            _check(reply, 200)
            return _object(_whole(reply))

    @contextmanager
    def _sent(
        self, method: str, path: str, body: Any = None, headers: Optional[Dict[str, str]] = None
    ) -> Iterator[http.client.HTTPResponse]:
        sent = json.dumps(body).encode() if isinstance(body, dict) else body
        kind = {"content-type": "application/json"} if isinstance(body, dict) else {}
        connection = http.client.HTTPConnection(self.address, timeout=self.timeout_s, blocksize=1 << 20)
        try:
            connection.connect()
            connection.sock.settimeout(self.work_s if method == "POST" else self.timeout_s)
            connection.request(method, path, sent, {**kind, **(headers or {})})
            yield connection.getresponse()
        except ConnectionRefusedError as error:
            raise NobodyListens(f"no Ollama listens on {self.address}: {error.strerror}") from error
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"Ollama on {self.address} can't be used: {type(error).__name__} {error}") from error
        finally:
            connection.close()


def wrong_version(server: Server, wanted: str) -> str:
    """Why this is not the server that the release names, or an empty string."""
    found = server.version()
    return "" if found == wanted else f"Ollama on {server.address} is version {found}, the release names {wanted}"


def gguf(launch: Dict[str, Any]) -> Dict[str, str]:
    """The weights of a launch: path below the artifact -> ``sha256:<hex>``, as hashed on this host."""
    return {row["path"]: f"sha256:{row['sha256']}" for row in launch["files"] if row["path"].endswith(".gguf")}


def proven(server: Server, launch: Dict[str, Any]) -> bool:
    """Is the release's model there, of exactly these weights?"""
    wanted = frozenset(gguf(launch).values())
    try:
        return bool(wanted) and server.weights(launch["served_model"]) == wanted
    except NoSuchModel:
        return False


def serve(server: Server, launch: Dict[str, Any]) -> None:
    """Upload what is missing, make the model, prove its weights, load it to stay. Raises Unreachable or Wrong."""
    model, files = launch["served_model"], gguf(launch)
    problem = wrong_version(server, launch["version"]) or ("" if files else "the artifact has no .gguf file")
    if problem:
        raise Wrong(problem)
    if not proven(server, launch):
        for path, digest in files.items():
            server.upload(digest, Path(launch["artifact_dir"]) / path)
        named = {Path(path).name: digest for path, digest in files.items()}
        server.create(model, named, {"num_ctx": launch["context"], "num_thread": launch["threads"]})
        if not proven(server, launch):
            raise Wrong(f"Ollama's {model} is of other weights, though it was just made of the right ones")
    server.load(model)


def problem_now(server: Server, launch: Dict[str, Any]) -> str:
    """Why it no longer serves exactly the release, or an empty string. What is only not in memory is loaded again."""
    problem = wrong_version(server, launch["version"])
    if not problem and not proven(server, launch):
        problem = f"somebody replaced or deleted Ollama's model {launch['served_model']}"
    if not problem and launch["served_model"] + TAG not in server.loaded():
        server.load(launch["served_model"])
    return problem


def withdraw(server: Server, model: str) -> None:
    """Unload once running answers are whole, then delete; nothing to do when it is not there, or no server is."""
    try:
        if model + TAG in server.models():
            server.unload(model)
            server.delete(model)
    except NobodyListens:
        return


def _check(reply: http.client.HTTPResponse, wanted: int) -> None:
    if reply.status == wanted:
        return
    body = reply.read(4096)
    try:
        said = str(_object(body).get("error", ""))[:300]
    except Unreachable:
        said = body.decode("utf-8", "replace")[:120]
    if reply.status == 503:
        raise Unreachable(f"Ollama is busy: {said}")
    if reply.status == 404:
        raise NoSuchModel(said)
    raise Wrong(f"Ollama answers HTTP {reply.status}: {said}")


def _whole(reply: http.client.HTTPResponse) -> bytes:
    body = reply.read(MAX_REPLY + 1)
    if len(body) > MAX_REPLY:
        raise Unreachable(f"Ollama sent more than {MAX_REPLY >> 20} MiB")
    return body


def _object(data: bytes) -> Dict[str, Any]:
    try:
        body = json.loads(data)
    except ValueError as error:
        raise Unreachable(f"Ollama's answer is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise Unreachable("Ollama's answer is no object")
    return body


def _text(body: Dict[str, Any], key: str) -> str:
    value = body.get(key)
    if not isinstance(value, str) or not value:
        raise Unreachable(f"Ollama's answer has no {key}")
    return value


def _names(body: Dict[str, Any]) -> List[str]:
    rows = body.get("models")
    if not isinstance(rows, list) or not all(isinstance(r, dict) and isinstance(r.get("name"), str) for r in rows):
        raise Unreachable("Ollama's answer is no list of models")
    return [row["name"] for row in rows]
