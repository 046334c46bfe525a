"""The admin API as this program calls it: ``http.client``, loopback only, errors rebuilt as they were raised.

Leaves to others: what the answers mean.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, urlencode

from stack.cli.command import Place
from stack.cli.token_file import personal_token, shared_token
from stack.core.errors import StackError, Unavailable

Json = dict[str, Any]
_LONGEST_LINE = 16 << 20
_LONGEST_CALL_S = 3600.0  # reading every byte of a large model takes its time


class NotRunning(Unavailable):
    """The control plane does not answer on port {port}: {detail}."""

    hint = "Start it: stackctl up. If it runs on another port, set STACK_ADMIN_PORT; stackctl doctor looks closer."


class Garbled(Unavailable):
    """The control plane gave an answer that can't be understood: {detail}."""

    hint = "Look at logs/control-plane.log; is another program on that port?"


class Answered(StackError):
    """An error the control plane answered, with its own code, message, hint and exit code."""

    def __init__(self, body: Json) -> None:
        error = body["error"]
        self._body = body
        self._message = str(error["message"])
        self.exit_code = int(error["exit_code"])  # type: ignore[misc]
        super().__init__(self._message, advice=str(error.get("hint", "")), **error.get("facts", {}))

    @property
    def code(self) -> str:
        return str(self._body["error"]["code"])

    @property
    def message(self) -> str:
        return self._message

    def to_json(self) -> Json:
        return self._body


def rebuilt(body: Any) -> StackError:
    """The error in an error body; an unknown shape is an error of its own."""
    try:
        return Answered(body)
    except (KeyError, TypeError, ValueError):
        return Garbled(repr(body)[:200])


def left_behind(line: str) -> StackError:
    """The error in a line of JSON."""
    return rebuilt(_decoded(line.encode()))


class AdminClient:
    """One request per connection."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def get(self, path: str, **query: Any) -> Json:
        """GET below /api/v1."""
        asked = urlencode({key: value for key, value in query.items() if value is not None})
        return self._json("GET", f"{path}?{asked}" if asked else path, None)

    def post(self, path: str, body: Json | None = None) -> Json:
        """POST a JSON body below /api/v1."""
        return self._json("POST", path, body or {})

    def stream(self, path: str, body: Json, on_progress: Callable[[Json], None]) -> Json:
        """POST, then read progress lines until the result. No result line is a failure."""
        connection = self._connection()
        try:
            response = self._send(connection, "POST", path, body)
            if response.status != 200:
                raise rebuilt(_decoded(response.read()))
            while line := response.readline():
                item = _decoded(line)
                if "progress" in item:
                    on_progress(item["progress"])
                    continue
                if "done" in item:
                    return _object(item["done"])
                raise rebuilt(item)
        except (OSError, http.client.HTTPException) as error:
            raise self._silent(error) from error
        finally:
            connection.close()
        raise Garbled("the stream ended before its result")

    def lines(self, path: str, **query: Any) -> Iterator[bytes]:
        """GET a stream, line by line as it comes. Whether it is whole, its last line must say."""
        connection = self._connection()
        try:
            response = self._send(connection, "GET", f"{path}?{urlencode(query)}" if query else path, None)
            if response.status != 200:
                raise rebuilt(_decoded(response.read()))
            while line := response.readline(_LONGEST_LINE):
                yield line
        except (OSError, http.client.HTTPException) as error:
            raise self._silent(error) from error
        finally:
            connection.close()

    def _json(self, method: str, path: str, body: Json | None) -> Json:
        connection = self._connection()
        try:
            response = self._send(connection, method, path, body)
            decoded = _decoded(response.read())
        except (OSError, http.client.HTTPException) as error:
            raise self._silent(error) from error
        finally:
            connection.close()
        if response.status != 200:
            raise rebuilt(decoded)
        return decoded

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._place.ports.admin, timeout=_LONGEST_CALL_S)

    def _send(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: Json | None
    ) -> http.client.HTTPResponse:
        headers = {"Authorization": f"Bearer {self._token()}", "Content-Type": "application/json"}
        content = None if body is None else json.dumps(body).encode()
        connection.request(method, f"/api/v1{path}", body=content, headers=headers)
        return connection.getresponse()

    def _token(self) -> str:
        if self._place.token_file is not None:
            return personal_token(self._place.token_file)
        return shared_token(self._place.secret("admin.token"))

    def _silent(self, error: Exception) -> NotRunning:
        return NotRunning(str(error) or type(error).__name__, port=self._place.ports.admin)


def segment(text: str) -> str:
    """A path segment, quoted."""
    return quote(text, safe="")


def _object(value: Any) -> Json:
    if not isinstance(value, dict):
        raise Garbled(repr(value)[:200])
    return value


def _decoded(content: bytes) -> Json:
    try:
        return _object(json.loads(content))
    except ValueError as error:
        raise Garbled(repr(content[:200])) from error
