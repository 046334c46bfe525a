"""The bench's replica: a uvloop + httptools responder that answers at once, so that it costs little beside a proxy.

    python bench/gateway_upstream.py --port N [--events N] [--pace S]

A body that contains ``"stream":true`` gets ``events`` events, one write each, ``pace`` seconds apart.
"""

from __future__ import annotations

import argparse
import asyncio
import json

import httptools
import uvloop

MODEL = "bench-model"
_ANSWER = json.dumps(
    {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": MODEL,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "word " * 60}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 40, "completion_tokens": 60, "total_tokens": 100},
    }
).encode()  # fmt: skip
PLAIN = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(_ANSWER) + _ANSWER
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def framed(document: dict[str, object] | None) -> bytes:
    """One event as one chunk."""
    data = b"data: " + (json.dumps(document).encode() if document else b"[DONE]") + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


_ABOUT = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL}
EVENT = framed({**_ABOUT, "choices": [{"index": 0, "delta": {"content": "word "}, "finish_reason": None}]})
USAGE = framed({**_ABOUT, "choices": [], "usage": {"prompt_tokens": 40, "completion_tokens": 60, "total_tokens": 100}})
END = framed(None) + b"0\r\n\r\n"


class Responder(asyncio.Protocol):
    """One connection."""

    def __init__(self, events: int, pace: float) -> None:
        self.events, self.pace = events, pace
        self.body = b""
        self.left = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.parser = httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        body, self.body = self.body, b""
        if b'"stream":true' in body:
            self.left = self.events
            self.usage = b"include_usage" in body
            self.transport.write(HEAD + EVENT)  # type: ignore[attr-defined]
            self._later()
        else:
            self.transport.write(PLAIN)  # type: ignore[attr-defined]

    def _later(self) -> None:
        asyncio.get_running_loop().call_later(self.pace, self._next)

    def _next(self) -> None:
        self.left -= 1
        if self.left > 0:
            self.transport.write(EVENT)  # type: ignore[attr-defined]
            self._later()
        else:
            self.transport.write((USAGE if self.usage else b"") + END)  # type: ignore[attr-defined]


async def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--events", type=int, default=100)
    parser.add_argument("--pace", type=float, default=0.005)
    given = parser.parse_args()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Responder(given.events, given.pace), "127.0.0.1", given.port)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
