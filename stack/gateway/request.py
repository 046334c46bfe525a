"""What a completion request asks for: pure functions over the body's bytes.

The whole body is parsed once (the model may stand anywhere in it). What goes to a replica is the same JSON with
``model`` replaced, so a duplicate or hidden ``model`` key can't name another one than the gateway routed by.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

from stack.gateway.answers import Problem

NOT_JSON = Problem(400, "invalid_json", "The body must be one JSON object.")
NO_MODEL = Problem(400, "model_missing", "The body needs a field `model`: the name of a model this gateway serves.")
MODEL_NOT_TEXT = Problem(400, "model_invalid", "The field `model` must be a string.")


class BadRequest(Exception):
    """The body can't be used; ``problem`` is the answer."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class Completion(NamedTuple):
    """A parsed request: ``rest`` is its JSON without ``model``; ``added_usage`` tells that we asked for the usage."""

    model: str
    stream: bool
    added_usage: bool
    rest: bytes

    def body_for(self, served_model: str) -> tuple[bytes, bytes]:
        """The two parts of the body to send to a replica that serves ``served_model``."""
        first = b'{"model":' + orjson.dumps(served_model)
        return (first, b"," + self.rest[1:]) if self.rest != b"{}" else (first, b"}")


def read_completion(body: bytes) -> Completion:
    """Parse a chat or text completion request, or raise ``BadRequest``."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(NOT_JSON) from error
    if not isinstance(document, dict):
        raise BadRequest(NOT_JSON)
    model = document.pop("model", document)  # a value that no JSON has: the field is missing
    if not isinstance(model, str):
        raise BadRequest(NO_MODEL if model is document else MODEL_NOT_TEXT)
    stream = document.get("stream") is True
    added = stream and _ask_for_usage(document)
    return Completion(model, stream, added, orjson.dumps(document))


def _ask_for_usage(document: dict[str, Any]) -> bool:
    """Make the stream end with its usage; False when the client asked for that itself (or wrote nonsense there)."""
    options = document.get("stream_options")
    if options is None:
        options = {}
    if not isinstance(options, dict) or options.get("include_usage") not in (None, False):
        return False
    document["stream_options"] = {**options, "include_usage": True}
    return True
