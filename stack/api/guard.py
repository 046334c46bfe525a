"""What every request must pass before any route sees it: host name, sizes, and who asks.

The API listens on loopback, which a browser on the same machine can reach: a foreign ``Host`` means a rebound DNS name
and is refused. The access desk says whose token it is, in a thread of its own, since it reads the database; what a
caller may do is asked by each route. Bodies are counted as they come, so a missing or lying ``Content-Length`` does not
help. Errors have the one shape; a call that would change something and is refused here is told to the access desk.
"""

from __future__ import annotations

from anyio import CapacityLimiter, to_thread
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stack.api.errors import answer
from stack.api.flood import Ledger, RefusedCall
from stack.api.operator import Access
from stack.api.permissions import CALLER
from stack.core.caller import Caller
from stack.core.errors import InvalidInput, Refused, StackError

MAX_BODY = 1 << 20
MAX_HEADERS = 64
MAX_HEAD = 32 << 10
MAX_TOKEN = 512
OPEN_PATHS = frozenset({"/health"})
LOCAL_NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})
_LOOKING = frozenset({"GET", "HEAD", "OPTIONS"})
_AUTHENTICATING = 8


class ForeignHost(Refused):
    """This API answers to 127.0.0.1 and localhost only, not to {host}."""

    hint = "Call it as http://127.0.0.1:<port>; forward the port over SSH from elsewhere."


class WrongToken(Refused):
    """The token is missing, unknown, expired or revoked."""

    hint = (
        "Send 'Authorization: Bearer <token>' with a token of stackctl token create, or that of "
        "STACK_HOME/secrets/admin.token. stackctl sends the one in the file that STACK_TOKEN_FILE names."
    )


class TooLarge(InvalidInput):
    """The request body is larger than {limit} bytes."""

    hint = "Send the path of the manifest, not its files."


class HeadTooLarge(InvalidInput):
    """The request's headers are more than {count} or larger than {limit} bytes."""

    hint = "Send Host, Authorization and Content-Type; nothing else is looked at."


def host_allowed(host: str) -> bool:
    """``name`` or ``name:port`` with a loopback name."""
    name, separator, port = host.rpartition(":")
    if host.endswith("]") or not separator:
        return host.lower() in LOCAL_NAMES
    return name.lower() in LOCAL_NAMES and port.isascii() and port.isdigit()


def bearer_token(authorization: list[str]) -> str:
    """The token of the one ``Authorization`` header; empty when there is none, two, or another scheme."""
    if len(authorization) != 1:
        return ""
    scheme, _, given = authorization[0].partition(" ")
    token = given.strip()
    fits = scheme.lower() == "bearer" and token.isascii() and token.isprintable() and len(token) <= MAX_TOKEN
    return token if fits and " " not in token else ""


class Guard:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, access: Access, ledger: Ledger, max_body: int = MAX_BODY) -> None:
        self._app = app
        self._access = access
        self._ledger = ledger
        self._max_body = max_body
        self._limiter: CapacityLimiter | None = None  # long polls hold the common threads; nobody waits for them here

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            refusal = await self._refuse(scope)
        except StackError as error:
            await answer(error)(scope, receive, send)
            return
        if refusal is not None:
            refused, status = refusal
            await self._account(scope, refused)
            headers = {"www-authenticate": "Bearer"} if status == 401 else None
            await answer(refused, status, headers)(scope, receive, send)
            return
        await self._counted(scope, receive, send)

    async def _refuse(self, scope: Scope) -> tuple[StackError, int] | None:
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not host_allowed(hosts[0]):
            return ForeignHost(host=repr(", ".join(hosts))[:80]), 421
        if len(headers.raw) > MAX_HEADERS or sum(len(n) + len(v) for n, v in headers.raw) > MAX_HEAD:
            return HeadTooLarge(count=MAX_HEADERS, limit=MAX_HEAD), 431
        if scope["path"] not in OPEN_PATHS:
            caller = await self._caller(bearer_token(headers.getlist("authorization")))
            if caller is None:
                return WrongToken(), 401
            scope[CALLER] = caller
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self._max_body:
            return TooLarge(limit=self._max_body), 413
        return None

    async def _caller(self, token: str) -> Caller | None:
        if not token:
            return None
        if self._limiter is None:
            self._limiter = CapacityLimiter(_AUTHENTICATING)
        return await to_thread.run_sync(self._access.authenticate, token, limiter=self._limiter)

    async def _account(self, scope: Scope, error: StackError) -> None:
        """Refused before anybody was known, and would have changed something."""
        if scope["method"] in _LOOKING or not isinstance(error, Refused):
            return
        peer = (scope.get("client") or ("unknown",))[0]
        what = f"{scope['method']} {scope['path']}"[:200]
        await self._ledger.refused(RefusedCall(what=what, why=error.message, peer=str(peer)))

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
