"""One chat completion from an OpenAI-compatible server, as an `Answer` that says what came or why nothing did.

Never raises for what a server does: a timeout, a status, nonsense with 200 are all answers with an `error`.
Judging the text is for `assertions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from stack.core.clock import Clock
from stack.evals.reply import Answer, parse_reply, parse_stream
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


class Asker:
    """Asks one endpoint over kept connections; safe to use from several threads."""

    def __init__(self, endpoint: Endpoint, clock: Clock, connections: int) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self._client = httpx.Client(
            headers=dict(endpoint.headers),
            timeout=endpoint.timeout_s,
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            trust_env=False,
            follow_redirects=False,
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def ask(self, case: Case, seed: int, *, stream: bool) -> Answer:
        """One answer, complete or with the reason why not."""
        started = self._clock.monotonic()
        url = self._endpoint.base_url.rstrip("/") + "/chat/completions"
        try:
            with self._client.stream("POST", url, json=body(self._endpoint.model, case, seed, stream)) as response:
                return self._receive(response, started, stream)
        except httpx.TimeoutException:
            error = f"timeout: no answer within {self._endpoint.timeout_s:g} s"
        except (httpx.HTTPError, httpx.InvalidURL) as problem:
            error = f"transport: {type(problem).__name__}: {str(problem)[:200]}"
        return Answer(error=error, latency_s=self._clock.monotonic() - started)

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
        return parsed.finish(expected_model=self._endpoint.expected_model, **facts)


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
