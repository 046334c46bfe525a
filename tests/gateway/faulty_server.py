"""A small OpenAI-style server with faults, standing in for a replica. Standard library only; a process of its own.

    python tests/gateway/faulty_server.py --port N --model NAME [--fault KIND] [--delay S] [--chunks N] [--text TEXT]
        [--after N]

Answers /health, /v1/models, /v1/chat/completions and /v1/completions (plain and streamed). ``POST /fault`` with a JSON
object {"fault": KIND, "delay": S, "chunks": N, "pause": S, "text": T} changes it while it runs; ``GET /seen`` tells the
requests it got. With ``--after`` the first N completions are healthy. Kinds:

    none            healthy                             never-ready     /health 503, everything else too
    hang            no answer to completions            slow            first byte after --delay
    stall           streams stop for good half way      cut             answers broken off half way
    pause           freezes --delay s between chunks    html            200 with an HTML page
    500 503 502 504 429   that status                   wrong-model     answers under another model's name
    nonsense        200, JSON, no choices               garbage-text    200, well-formed, text without sense
    error-event     stream ends: error event, [DONE]    no-done         stream ends without [DONE]
    close           connection closed without a byte    reset-idle      closes each connection after its answer
    no-usage        never any usage                     not-http        bytes that are no HTTP
    first-error     stream begins with an error event   empty           200, content-length 0
    die             the process ends on a completion
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys


class Replica:
    """The server's settings and what it has seen."""

    def __init__(self, model: str, fault: str, delay: float, chunks: int, text: str, after: int = 0) -> None:
        self.model, self.kind, self.delay, self.chunks, self.text = model, fault, delay, chunks, text
        self.after = after
        self.pause = 0.0
        self.seen = 0
        self.aborted = 0
        self.last: dict = {}
        self.last_head = ""

    @property
    def fault(self) -> str:
        """The kind in force now."""
        return self.kind if not self.after or self.seen > self.after else "none"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self.one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, OSError):
            self.aborted += 1
        finally:
            writer.close()

    async def one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.IncompleteReadError:
            return False
        method, path, _ = head.split("\r\n")[0].split(" ")
        size = next((int(h.split(":")[1]) for h in head.split("\r\n") if h.lower().startswith("content-length:")), 0)
        body = await reader.readexactly(size)
        if path == "/fault":
            return await self.change(writer, json.loads(body))
        if path == "/seen":
            seen = {"seen": self.seen, "aborted": self.aborted, "last": self.last, "head": self.last_head}
            return await reply(writer, 200, seen)
        if self.fault == "never-ready":
            return await reply(writer, 503, {"error": {"message": "Loading model", "code": 503}})
        if path == "/health":
            return await reply(writer, 200, {"status": "ok"})
        if path == "/v1/models":
            return await reply(writer, 200, {"object": "list", "data": [{"id": self.model, "object": "model"}]})
        if path in ("/v1/chat/completions", "/v1/completions") and method == "POST":
            self.seen += 1
            self.last_head = head
            return await self.complete(writer, json.loads(body), "chat" in path)
        return await reply(writer, 404, {"error": {"message": "not found"}})

    async def change(self, writer: asyncio.StreamWriter, wanted: dict) -> bool:
        self.kind = wanted.get("fault", self.kind)
        for name in ("delay", "chunks", "pause", "text"):
            setattr(self, name, wanted.get(name, getattr(self, name)))
        return await reply(writer, 200, {"fault": self.fault})

    async def complete(self, writer: asyncio.StreamWriter, asked: dict, chat: bool) -> bool:
        self.last = asked if len(str(asked)) < 10_000 else {"model": asked.get("model")}
        fault = self.fault
        if fault == "die":
            os._exit(9)
        if fault == "hang":
            await asyncio.sleep(3600)
        if fault == "slow":
            await asyncio.sleep(self.delay)
        if fault == "close":
            return False
        if fault == "not-http":
            writer.write(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
            await writer.drain()
            return False
        if fault.isdigit():
            return await reply(writer, int(fault), {"error": {"message": f"fault {fault}", "code": int(fault)}})
        if fault == "html":
            return await reply(writer, 200, "<html>It works!</html>", kind="text/html")
        if fault == "empty":
            return await reply(writer, 200, "")
        if fault == "nonsense":
            return await reply(writer, 200, {"message": "hello"})
        if not isinstance(asked.get("messages" if chat else "prompt"), list | str):
            return await reply(writer, 400, {"error": {"message": "no prompt", "type": "invalid_request_error"}})
        if asked.get("stream") is True:
            return await self.stream(writer, asked, chat)
        return await self.plain(writer, asked, chat)

    def document(self, chat: bool, kind: str, choice: dict | None) -> dict:
        model = "another-model" if self.fault == "wrong-model" else self.model
        return {"id": "x-1", "object": kind, "created": 1, "model": model, "choices": [choice] if choice else []}

    async def plain(self, writer: asyncio.StreamWriter, asked: dict, chat: bool) -> bool:
        text = "qz zq qz" if self.fault == "garbage-text" else self.text
        said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        kind = "chat.completion" if chat else "text_completion"
        body = self.document(chat, kind, {"index": 0, **said, "finish_reason": "stop"})
        if self.fault != "no-usage":
            body["usage"] = usage(asked, self.chunks)
        if self.fault == "cut":
            whole = json.dumps(body).encode()
            writer.write(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(whole)
            )
            writer.write(whole[: len(whole) // 2])
            await writer.drain()
            return False
        if self.pause:
            await asyncio.sleep(self.pause)
        return await reply(writer, 200, body) and self.fault != "reset-idle"

    async def stream(self, writer: asyncio.StreamWriter, asked: dict, chat: bool) -> bool:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        kind = "chat.completion.chunk" if chat else "text_completion"
        if self.fault == "first-error":
            await event(writer, {"error": {"message": "out of memory", "code": 500}})
        for number in range(self.chunks):
            if number == self.chunks // 2 and not await self.half_way(writer):
                return False
            if self.pause:
                await asyncio.sleep(self.pause)
            word = "qz " if self.fault == "garbage-text" else f"w{number} "
            said = {"delta": {"content": word}} if chat else {"text": word}
            await event(writer, self.document(chat, kind, {"index": 0, **said, "finish_reason": None}))
        said = {"delta": {}} if chat else {"text": ""}
        await event(writer, self.document(chat, kind, {"index": 0, **said, "finish_reason": "stop"}))
        wants = (asked.get("stream_options") or {}).get("include_usage")
        if wants and self.fault != "no-usage":
            await event(writer, {**self.document(chat, kind, None), "usage": usage(asked, self.chunks)})
        if self.fault == "error-event":
            await event(writer, {"error": {"message": "engine died", "code": 500}})
        if self.fault != "no-done":
            await event(writer, None)
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return self.fault != "reset-idle"

    async def half_way(self, writer: asyncio.StreamWriter) -> bool:
        if self.fault == "stall":
            await asyncio.sleep(3600)
        if self.fault == "pause":
            await asyncio.sleep(self.delay)
        return self.fault != "cut"


def usage(asked: dict, words: int) -> dict:
    prompt = len(json.dumps(asked.get("messages") or asked.get("prompt")))
    return {"prompt_tokens": prompt, "completion_tokens": words, "total_tokens": prompt + words}


async def event(writer: asyncio.StreamWriter, value: dict | None) -> None:
    data = b"data: " + (b"[DONE]" if value is None else json.dumps(value).encode()) + b"\n\n"
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))
    await writer.drain()


async def reply(writer: asyncio.StreamWriter, status: int, body: dict | str, kind: str = "application/json") -> bool:
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    await writer.drain()
    return True


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--fault", default="none")
    parser.add_argument("--delay", type=float, default=1.0)
    parser.add_argument("--chunks", type=int, default=8)
    parser.add_argument("--text", default="hello")
    parser.add_argument("--after", type=int, default=0)
    given = parser.parse_args()
    replica = Replica(given.model, given.fault, given.delay, given.chunks, given.text, given.after)
    server = await asyncio.start_server(replica.serve, given.host, given.port, limit=64 << 20, backlog=512)
    print(f"listening on http://{given.host}:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        sys.exit(0)
