"""One chat completion from an OpenAI-compatible server, as an `Answer` that says what came or why nothing did.

Never raises for what a server does: a timeout, a status, nonsense with 200 are all answers with an `error`.
Judging the text is for `assertions`.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from stack.core.chat_answer import parse_reply, parse_stream
from stack.core.clock import Clock
from stack.evals.answer import Answer
from stack.evals.suite import Case

MAX_ANSWER = 4 << 20


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where to ask: `base_url` ends in `/v1`. With `expected_model`, an answer naming another model is a failure."""

    base_url: str
    model: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    expected_model: str | None = None
    timeout_s: float = 60.0


class _KeptConnectionClosed(Exception):
    """A connection used before was closed before a byte of the answer."""


class Asker:
    """Asks one endpoint over kept connections; safe to use from several threads.

    A server may close a kept connection just when the next request is sent on it. That says nothing about the
    model, so such a request goes out once more, on a fresh connection; a fresh connection has no such excuse.
    """

    def __init__(self, endpoint: Endpoint, clock: Clock, connections: int) -> None:
        self._endpoint = endpoint
        self._clock = clock
        plain = endpoint.base_url.startswith("http://")  # spares reading the machine's certificates for each replica
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if plain else httpx.create_ssl_context(trust_env=False)
        self._kept = _client(endpoint, tls, connections, kept=connections)
        self._fresh = _client(endpoint, tls, connections, kept=0)

    def close(self) -> None:
        """Close the connections."""
        self._kept.close()
        self._fresh.close()

    def ask(self, case: Case, seed: int, *, stream: bool) -> Answer:
        """One answer, complete or with the reason why not."""
        started = self._clock.monotonic()
        request = body(self._endpoint.model, case, seed, stream)
        try:
            try:
                return self._send(self._kept, request, started)
            except _KeptConnectionClosed:
                return self._send(self._fresh, request, started)
        except httpx.TimeoutException:
            error = f"timeout: no answer within {self._endpoint.timeout_s:g} s"
        except (httpx.HTTPError, httpx.InvalidURL) as problem:
            error = f"transport: {type(problem).__name__}: {str(problem)[:200]}"
        return Answer(error=error, latency_s=self._clock.monotonic() - started)

    def _send(self, client: httpx.Client, request: dict[str, Any], started: float) -> Answer:
        events: list[str] = []
        url = self._endpoint.base_url.rstrip("/") + "/chat/completions"
        tracing = {"trace": lambda event, _: events.append(event)}
        try:
            with client.stream("POST", url, json=request, extensions=tracing) as response:
                return self._receive(response, started, request["stream"])
        except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as error:
            connected = any(event.startswith("connection.connect") for event in events)
            answered = "http11.receive_response_headers.complete" in events
            if connected or answered:
                raise
            raise _KeptConnectionClosed from error

    def _receive(self, response: httpx.Response, started: float, stream: bool) -> Answer:
        arrived: list[tuple[float, bytes]] = []
        size = 0
        error: str | None = None
        for chunk in response.iter_bytes():
            moment = self._clock.monotonic() - started
            size += len(chunk)
            arrived.append((moment, chunk))
            if size > MAX_ANSWER:
                error = f"the answer is larger than {MAX_ANSWER >> 20} MiB"
            elif moment > self._endpoint.timeout_s:
                error = f"timeout: not complete within {self._endpoint.timeout_s:g} s"
            if error:
                break
        facts = _facts(response, self._clock.monotonic() - started)
        if error:
            return Answer(error=error, **facts)
        if response.status_code != 200:
            text = b"".join(chunk for _, chunk in arrived)[:300].decode("utf-8", "replace")
            return Answer(error=f"HTTP {response.status_code}: {text}", **facts)
        parsed = parse_stream(arrived) if stream else parse_reply(b"".join(chunk for _, chunk in arrived))
        return Answer.of(parsed, expected_model=self._endpoint.expected_model, **facts)


def _client(endpoint: Endpoint, tls: ssl.SSLContext, connections: int, *, kept: int) -> httpx.Client:
    return httpx.Client(
        headers=dict(endpoint.headers),
        timeout=endpoint.timeout_s,
        verify=tls,
        limits=httpx.Limits(max_connections=connections, max_keepalive_connections=kept),
        trust_env=False,
        follow_redirects=False,
    )


def body(model: str, case: Case, seed: int, stream: bool) -> dict[str, Any]:
    """The request for one case."""
    options = case.options
    request: dict[str, Any] = {
        "model": model,
        "messages": list(case.messages),
        "temperature": options.temperature,
        "max_tokens": options.max_tokens,
        "seed": seed,
        "stream": stream,
    }
    if stream:
        request["stream_options"] = {"include_usage": True}
    if options.tools is not None:
        request["tools"] = options.tools
    if options.tool_choice is not None:
        request["tool_choice"] = options.tool_choice
    return request


def _facts(response: httpx.Response, latency: float) -> dict[str, Any]:
    headers = response.headers
    return {
        "status": response.status_code,
        "latency_s": latency,
        "release": headers.get("x-stack-release"),
        "slice": headers.get("x-stack-slice"),
        "replica": headers.get("x-stack-replica"),
    }
