"""What every request must pass before any route sees it: host name, size, token.

The API listens on loopback, which a browser on the same machine can reach: a foreign ``Host`` means a
rebound DNS name and is refused. The token is compared in constant time. Bodies are counted as they come,
so a missing or lying ``Content-Length`` does not help. Errors have the one shape.
"""

from __future__ import annotations

import secrets

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stack.api.errors import answer
from stack.core.errors import InvalidInput, Refused, StackError

MAX_BODY = 1 << 20
OPEN_PATHS = frozenset({"/health"})
LOCAL_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})


class ForeignHost(Refused):
    """This API answers to 127.0.0.1 and localhost only, not to {host}."""

    hint = "Call it as http://127.0.0.1:<port>; forward the port over SSH from elsewhere."


class WrongToken(Refused):
    """The admin token is missing or wrong."""

    hint = "Send 'Authorization: Bearer <token>' with the token of STACK_HOME/secrets/admin.token."


class TooLarge(InvalidInput):
    """The request body is larger than {limit} bytes."""

    hint = "Send the path of the manifest, not its files."


def host_allowed(host: str) -> bool:
    """``name`` or ``name:port`` with a loopback name."""
    name, separator, port = host.rpartition(":")
    if host.endswith("]") or not separator:
        return host.lower() in LOCAL_NAMES
    return name.lower() in LOCAL_NAMES and port.isascii() and port.isdigit()


def token_matches(authorization: str, token: str) -> bool:
    """Constant-time; an empty token matches nothing."""
    scheme, _, given = authorization.partition(" ")
    same = secrets.compare_digest(given.strip().encode(), token.encode())
    return bool(token) and scheme.lower() == "bearer" and same


class Guard:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, token: str, max_body: int = MAX_BODY) -> None:
        self._app = app
        self._token = token
        self._max_body = max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        refusal = self._refuse(scope)
        if refusal is not None:
            error, status = refusal
            await answer(error, status)(scope, receive, send)
            return
        await self._counted(scope, receive, send)

    def _refuse(self, scope: Scope) -> tuple[StackError, int] | None:
        headers = Headers(scope=scope)
        if not host_allowed(headers.get("host", "")):
            return ForeignHost(host=repr(headers.get("host", ""))[:80]), 421
        if scope["path"] not in OPEN_PATHS and not token_matches(headers.get("authorization", ""), self._token):
            return WrongToken(), 401
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self._max_body:
            return TooLarge(limit=self._max_body), 413
        return None

    async def _counted(self, scope: Scope, receive: Receive, send: Send) -> None:
        seen, too_large, started = 0, False, False

        async def counting() -> Message:
            nonlocal seen, too_large
            message = await receive()
            seen += len(message.get("body", b""))
            too_large = too_large or seen > self._max_body
            return {"type": "http.disconnect"} if too_large else message

        async def noting(message: Message) -> None:
            nonlocal started
            if not too_large or started:
                started = True
                await send(message)

        try:
            await self._app(scope, counting, noting)
        except ClientDisconnect:
            if not too_large:
                raise
        if too_large and not started:
            await answer(TooLarge(limit=self._max_body), 413)(scope, receive, send)
