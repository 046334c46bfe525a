"""What each path of the gateway answers; completions go on to an ``Exchange``."""

from __future__ import annotations

import orjson

from stack.gateway import answers
from stack.gateway.downstream import Downstream, Request
from stack.gateway.exchange import Exchange
from stack.gateway.metrics import prometheus
from stack.gateway.table import SLICES, Key, Slice

COMPLETIONS = frozenset((b"/v1/chat/completions", b"/v1/completions"))
_OPEN = frozenset((b"/health", b"/metrics"))
_MODELS = b"/v1/models"


def handle(client: Downstream, request: Request) -> None:
    """Answer one well-formed request."""
    path = request.path
    if b"?" in path:
        path = path.partition(b"?")[0]
    if path in COMPLETIONS:
        _complete(client, request, path)
    elif path in _OPEN or path == _MODELS or path.startswith(_MODELS + b"/"):
        if request.method not in (b"GET", b"HEAD"):
            client.refuse(answers.WRONG_METHOD, b"allow: GET, HEAD\r\n")
        elif path == b"/health":
            _health(client, request)
        elif path == b"/metrics":
            body = prometheus(client.core.books, client.core.health.failures, client.core.version)
            _give(client, request, 200, body, b"text/plain; version=0.0.4; charset=utf-8")
        else:
            _models(client, request, path[len(_MODELS) + 1 :].decode("utf-8", "replace"))
    else:
        client.refuse(answers.NO_PATH)


def _complete(client: Downstream, request: Request, path: bytes) -> None:
    if request.method != b"POST":
        client.refuse(answers.WRONG_METHOD, b"allow: POST\r\n")
        return
    key = _key(client, request)
    if key is None:
        return
    pin: Slice | None = None
    if request.pin is not None:
        pin = next((s for s in SLICES if s.encode() == request.pin), None)
        problem = answers.PIN_UNKNOWN if pin is None else None if key.may_pin else answers.PIN_REFUSED
        if problem is not None:
            client.refuse(problem)
            return
    exchange = client.exchange = Exchange(client.core, client, path=path, key=key, pin=pin, extra=request.trace)
    parts, request.parts = request.parts, []
    exchange.start(parts[0] if len(parts) == 1 else b"".join(parts))


def _key(client: Downstream, request: Request) -> Key | None:
    """The caller's key, or None after the refusal has been sent."""
    core = client.core
    if core.table is None:
        client.refuse(answers.NO_TABLE)
        return None
    key = request.key
    if key is None:
        problem = answers.NO_KEY if request.authorization is None else answers.BAD_KEY
        client.refuse(problem, b"www-authenticate: Bearer\r\n")
    return key


def _health(client: Downstream, request: Request) -> None:
    ready, report = client.core.ready()
    _give(client, request, 200 if ready else 503, orjson.dumps(report))


def _models(client: Downstream, request: Request, wanted: str) -> None:
    key = _key(client, request)
    if key is None:
        return
    rows = [_model_row(n) for n, r in client.core.routes.items() if key.models is None or r.service.name in key.models]
    if not wanted:
        _give(client, request, 200, orjson.dumps({"object": "list", "data": rows}))
        return
    row = next((r for r in rows if r["id"] == wanted), None)
    if row is None:
        client.refuse(answers.unknown_model(wanted))
    else:
        _give(client, request, 200, orjson.dumps(row))


def _model_row(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "inference-stack"}


def _give(client: Downstream, request: Request, status: int, body: bytes, kind: bytes = answers.JSON) -> None:
    bodiless = request.method == b"HEAD"
    client.reply(answers.plain(status, body, keep=client.keeps(), kind=kind, bodiless=bodiless))
