"""Bodies too large to parse between two turns of the event loop are parsed by a child process.

A thread would not do: the JSON parser holds the interpreter's lock. The child starts with the first such body,
reads length-prefixed bodies from stdin, and ends when its stdin does, so also when the gateway is killed.
"""

from __future__ import annotations

import asyncio
import struct
import sys
from typing import BinaryIO

from stack.gateway.answers import Problem
from stack.gateway.request import BadRequest, Completion, read_completion

BIG = 1_000_000
_LENGTH = struct.Struct("!Q")
_REPLY = struct.Struct("!BBHQ")  # stream, added_usage, length of the model name (or of the problem), length of the rest
_FAILED = 255
_UNREADABLE = Problem(500, "parser_failed", "The request's body could not be parsed.")


class BigBodies:
    """The child and the queue in front of it."""

    def __init__(self) -> None:
        self._child: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()

    async def read(self, body: bytes) -> Completion:
        """``read_completion`` elsewhere; raises ``BadRequest`` likewise."""
        async with self._turn:
            whole = False
            try:
                reply = await self._ask(body)
                whole = True
            except (OSError, asyncio.IncompleteReadError) as error:
                raise BadRequest(_UNREADABLE) from error
            finally:
                if not whole:
                    self.close()
        return reply

    def close(self) -> None:
        """End the child; the next body gets a fresh one."""
        child, self._child = self._child, None
        if child is not None and child.returncode is None:
            child.kill()

    async def _ask(self, body: bytes) -> Completion:
        child = self._child
        if child is None or child.returncode is not None:
            child = self._child = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "stack.gateway.bigbody",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
        if child.stdin is None or child.stdout is None:
            raise OSError("the child has no pipes")
        child.stdin.write(_LENGTH.pack(len(body)))
        child.stdin.write(body)
        await child.stdin.drain()
        stream, added, short, long = _REPLY.unpack(await child.stdout.readexactly(_REPLY.size))
        name = (await child.stdout.readexactly(short)).decode()
        rest = await child.stdout.readexactly(long)
        if stream == _FAILED:
            status, _, code = name.partition(" ")
            raise BadRequest(Problem(int(status), code, rest.decode()))
        return Completion(model=name, stream=bool(stream), added_usage=bool(added), rest=rest)


def answer(body: bytes) -> bytes:
    """The reply to one body. Pure."""
    try:
        done = read_completion(body)
    except BadRequest as error:
        problem = error.problem
        name, rest = f"{problem.status} {problem.code}".encode(), problem.message.encode()
        return _REPLY.pack(_FAILED, 0, len(name), len(rest)) + name + rest
    name = done.model.encode()[:65_000]
    return _REPLY.pack(done.stream, done.added_usage, len(name), len(done.rest)) + name + done.rest


def work(source: BinaryIO, sink: BinaryIO) -> None:
    """The child: answer bodies until there are no more."""
    while len(prefix := source.read(_LENGTH.size)) == _LENGTH.size:
        sink.write(answer(source.read(_LENGTH.unpack(prefix)[0])))
        sink.flush()


if __name__ == "__main__":
    work(sys.stdin.buffer, sys.stdout.buffer)
