"""The one door to an Ollama server: its published API, each call bounded, each answer looked at. Decides nothing.

What is uploaded is named by its digest, and what a model name stands for is asked back: Ollama stores whatever it is
given under any name, and lets anybody replace it.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from stack.core.digest import Digest
from stack.core.errors import InvalidInput, Refused, Unavailable
from stack.core.release import Launch
from stack.core.strict_json import NotJson, parse_json

MAX_REPLY = 8 << 20
_FROM = re.compile(r"^FROM \S*sha256[-:]([0-9a-f]{64})\s*$", re.MULTILINE)
Told = Callable[[str], None]


class OllamaUnavailable(Unavailable):
    """Ollama at {base} can't be used: {detail}."""

    hint = "See whether `ollama serve` runs there and listens on that address (OLLAMA_HOST)."


class OllamaBusy(Unavailable):
    """Ollama at {base} is busy: {detail}."""

    hint = (
        "It takes no more requests for now (OLLAMA_MAX_QUEUE, OLLAMA_NUM_PARALLEL); try again, or give it less to do."
    )


class NoSuchOllamaModel(Unavailable):
    """Ollama at {base} has no model {model}: {detail}."""

    hint = "It is made from a GGUF file by its digest; deploy the release again."


class OllamaRefused(Refused):
    """Ollama at {base} refused: {detail}."""

    hint = "Compare the artifact's digest and the version of Ollama."


class NotTheWeights(Refused):
    """Ollama's model {model} is made of other weights: {detail}."""

    hint = "Somebody replaced the model under this name; deploy the release again."


class WrongOllamaAddress(InvalidInput):
    """{detail} is no address of Ollama."""

    hint = "Write http://host:port, without a path."


@dataclass(frozen=True, kw_only=True)
class OllamaModel:
    """A row of `/api/tags` or `/api/ps`."""

    name: str
    digest: str
    size: int


@dataclass(frozen=True, kw_only=True)
class OllamaServer:
    """A server at `base`; `timeout_s` is for short questions, `work_s` for loading, hashing and making."""

    base: str
    timeout_s: float = 10.0
    work_s: float = 600.0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"https?://[A-Za-z0-9.:\[\]-]+", self.base):
            raise WrongOllamaAddress(self.base[:80])

    def version(self) -> str:
        """The server's version."""
        return _text(self._asked("GET", "/api/version"), "version")

    def models(self) -> tuple[OllamaModel, ...]:
        """What it has on disk."""
        return _models(self._asked("GET", "/api/tags"))

    def loaded(self) -> tuple[OllamaModel, ...]:
        """What it has in memory."""
        return _models(self._asked("GET", "/api/ps"))

    def has_blob(self, digest: Digest) -> bool:
        """Does it have the file?"""
        with self._sent("HEAD", f"/api/blobs/{digest}") as reply:
            if reply.status_code not in (200, 404):
                raise OllamaRefused(f"HTTP {reply.status_code} to a question for a file", base=self.base)
            return bool(reply.status_code == 200)

    def upload(self, digest: Digest, path: Path) -> None:
        """Send the file, unless it is there; the server hashes it and refuses another."""
        if self.has_blob(digest):
            return
        with path.open("rb") as file, self._sent("POST", f"/api/blobs/{digest}", content=_blocks(file)) as reply:
            self._check(reply, 201, "")

    def create(self, model: str, files: Mapping[str, Digest], launch: Launch, told: Told | None = None) -> None:
        """Make `model` from uploaded files; `told` gets each step. Anything but a last `success` is a refusal."""
        parameters = {"num_ctx": launch.context, "num_thread": launch.threads}
        named = {name: str(digest) for name, digest in files.items()}
        asked = {"model": model, "files": named, "parameters": parameters, "stream": True}
        last = ""
        with self._sent("POST", "/api/create", json=asked) as reply:
            self._check(reply, 200, model)
            for line in reply.iter_lines():
                step = _object(line.encode())
                if "error" in step:
                    raise OllamaRefused(str(step["error"])[:300], base=self.base)
                last = str(step.get("status", ""))
                if told:
                    told(last)
        if last != "success":
            raise OllamaRefused(f"making {model} ended at {last or 'nothing'}", base=self.base)

    def weights(self, model: str) -> frozenset[Digest]:
        """The digests of the files that `model` is made of, as the server says now."""
        text = _text(self._asked("POST", "/api/show", json={"model": model}, model=model), "modelfile")
        return frozenset(Digest(f"sha256:{found}") for found in _FROM.findall(text))

    def load(self, model: str) -> None:
        """Into memory, to stay."""
        self._keep(model, -1, "load")

    def unload(self, model: str) -> None:
        """Out of memory, at once; running answers finish first."""
        self._keep(model, 0, "unload")

    def delete(self, model: str) -> None:
        """Off its disk; nothing to do when it is not there."""
        with self._sent("DELETE", "/api/delete", json={"model": model}) as reply:
            if reply.status_code != 404:
                self._check(reply, 200, model)

    def _keep(self, model: str, keep_alive: int, done: str) -> None:
        asked = {"model": model, "messages": [], "keep_alive": keep_alive, "stream": False}
        reply = self._asked("POST", "/api/chat", json=asked, model=model)
        if reply.get("done") is not True or reply.get("done_reason") != done:
            raise OllamaRefused(f"asked to {done} {model}, it says {str(reply)[:120]}", base=self.base)

    def _asked(self, method: str, path: str, model: str = "", **sent: Any) -> dict[str, Any]:
        with self._sent(method, path, **sent) as reply:
            self._check(reply, 200, model)
            body = b""
            for block in reply.iter_bytes():
                body += block
                if len(body) > MAX_REPLY:
                    raise OllamaUnavailable(f"more than {MAX_REPLY >> 20} MiB came", base=self.base)
        try:
            return _object(body)
        except OllamaUnavailable as error:
            raise OllamaUnavailable(error.detail, base=self.base) from error

    @contextmanager
    def _sent(self, method: str, path: str, **sent: Any) -> Iterator[httpx.Response]:
        limit = httpx.Timeout(self.timeout_s, read=self.work_s if method == "POST" else self.timeout_s)
        tls = ssl.create_default_context() if self.base.startswith("https") else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            with (
                httpx.Client(base_url=self.base, timeout=limit, verify=tls, trust_env=False) as client,
                client.stream(method, path, **sent) as reply,
            ):
                yield reply
        except httpx.HTTPError as error:
            raise OllamaUnavailable(f"{type(error).__name__}: {str(error)[:160]}", base=self.base) from error

    def _check(self, reply: httpx.Response, wanted: int, model: str) -> None:
        if reply.status_code == wanted:
            return
        reply.read()
        try:
            said = str(_object(reply.content).get("error", ""))[:300]
        except OllamaUnavailable:
            said = reply.text[:120]
        if reply.status_code == 503:
            raise OllamaBusy(said, base=self.base)
        if reply.status_code == 404 and model:
            raise NoSuchOllamaModel(said, base=self.base, model=model)
        raise OllamaRefused(f"HTTP {reply.status_code}: {said}", base=self.base)


def _object(data: bytes) -> dict[str, Any]:
    try:
        body = parse_json(data)
    except NotJson as error:
        raise OllamaUnavailable(f"the answer is not JSON: {error}", base="the address") from error
    if not isinstance(body, dict):
        raise OllamaUnavailable("the answer is no object", base="the address")
    return body


def _text(body: Mapping[str, Any], key: str) -> str:
    value = body.get(key)
    if not isinstance(value, str) or not value:
        raise OllamaUnavailable(f"the answer has no {key}", base="the address")
    return value


def _models(body: Mapping[str, Any]) -> tuple[OllamaModel, ...]:
    rows = body.get("models")
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and isinstance(row.get("name"), str) for row in rows
    ):
        raise OllamaUnavailable("the answer is no list of models", base="the address")
    return tuple(
        OllamaModel(name=row["name"], digest=str(row.get("digest", "")), size=int(row.get("size") or 0)) for row in rows
    )


def _blocks(file: Any) -> Iterator[bytes]:
    while block := file.read(1 << 20):
        yield block
