"""The gateway's own answers: OpenAI-shaped errors and plain HTTP heads, as bytes. Pure."""

from __future__ import annotations

from http import HTTPStatus
from typing import NamedTuple

import orjson

REASONS = {s.value: s.phrase.encode() for s in HTTPStatus}
JSON = b"application/json"
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class Problem(NamedTuple):
    """One way a request can fail: the status, a stable code for programs and a message for people."""

    status: int
    code: str
    message: str
    retry_after_s: int = 0


NO_KEY = Problem(401, "missing_api_key", "Give an API key: `Authorization: Bearer <key>`.")
BAD_KEY = Problem(401, "invalid_api_key", "This API key is not known here.")
NO_TABLE = Problem(503, "no_routing_table", "The gateway has no routing table yet.", 1)
NO_PATH = Problem(404, "unknown_path", "There is nothing at this path.")
WRONG_METHOD = Problem(405, "method_not_allowed", "This path does not know this method.")
PIN_REFUSED = Problem(403, "pin_not_allowed", "This API key may not choose a slice (x-stack-slice).")
PIN_UNKNOWN = Problem(400, "unknown_slice", "x-stack-slice must be stable, candidate or lkg.")
NO_TARGET = Problem(503, "no_target", "No replica of this model is deployed at the moment.", 1)
MALFORMED = Problem(400, "malformed_request", "This is not a well-formed HTTP/1.1 request.")
BAD_FRAMING = Problem(400, "bad_framing", "Content-Length and Transfer-Encoding are in conflict, repeated or unknown.")
NO_UPGRADE = Problem(400, "upgrade_not_supported", "Only HTTP/1.1 is spoken here: leave out the Upgrade header.")
BAD_HOST = Problem(400, "bad_host", "Exactly one Host header is needed.")
HEAD_TOO_LARGE = Problem(431, "head_too_large", "The request's head is too large or has too many fields.")
BODY_TOO_LARGE = Problem(413, "body_too_large", "The request's body is larger than this gateway accepts.")
TOO_SLOW = Problem(408, "request_timeout", "The request did not arrive in time.")
DRAINING = Problem(503, "shutting_down", "The gateway is shutting down.", 1)
UPSTREAM_FAILED = Problem(502, "connection_failed", "No replica of this model could answer.", 1)
UPSTREAM_TIMEOUT = Problem(504, "TIMEOUT", "No replica of this model began to answer in time.", 1)
UPSTREAM_BUSY = Problem(503, "PROVIDER_DEGRADED", "The replicas of this model refuse requests at the moment.", 1)
BAD_ANSWER = Problem(502, "bad_answer", "The replicas of this model gave answers that make no sense.")
STREAM_CUT = Problem(502, "stream_cut", "The replica broke off in the middle of this answer; it is incomplete.")


def unknown_model(model: str) -> Problem:
    """The model is not served, or not for this key: both look the same."""
    return Problem(404, "model_not_found", f"The model {model[:100]!r} does not exist or this key has no access to it.")


def error_body(problem: Problem) -> bytes:
    """``{"error": {"message", "type", "param", "code"}}`` as OpenAI writes it."""
    kind = _TYPES.get(problem.status, "server_error" if problem.status >= 500 else "invalid_request_error")
    return orjson.dumps({"error": {"message": problem.message, "type": kind, "param": None, "code": problem.code}})


def head(status: int, kind: bytes, extra: bytes, framing: bytes, *, keep: bool) -> bytes:
    """A response head; ``extra`` and ``framing`` are whole header lines."""
    close = b"" if keep else b"connection: close\r\n"
    return b"HTTP/1.1 %d %s\r\ncontent-type: %s\r\n%s%s%s\r\n" % (
        status,
        REASONS.get(status, b"Unknown"),
        kind,
        framing,
        extra,
        close,
    )


def good(extra: bytes) -> bytes:
    """The head of a good JSON answer on a connection that stays, up to the number of its ``content-length``."""
    return b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n%bcontent-length: " % (JSON, extra)


def plain(
    status: int, body: bytes, *, keep: bool, kind: bytes = JSON, extra: bytes = b"", bodiless: bool = False
) -> bytes:
    """A whole response with a body of known length (left out for HEAD)."""
    top = head(status, kind, extra, b"content-length: %d\r\n" % len(body), keep=keep)
    return top if bodiless else top + body


def refusal(problem: Problem, *, keep: bool, extra: bytes = b"") -> bytes:
    """The whole response for a problem."""
    if problem.retry_after_s:
        extra += b"retry-after: %d\r\n" % problem.retry_after_s
    return plain(problem.status, error_body(problem), keep=keep, extra=extra)


def error_event(problem: Problem) -> bytes:
    """The same, as the last event of a stream that has already begun."""
    return b"data: " + error_body(problem) + b"\n\n"
