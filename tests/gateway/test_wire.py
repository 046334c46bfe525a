"""HTTP/1.1 on the wire: framing that smuggles, limits, pipelining, slow clients."""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Callable
from contextlib import closing

import pytest

from .conftest import KEY, FaultyReplica, Gateway, sha, until

Start = Callable[..., FaultyReplica]
BODY = json.dumps({"model": "tiny", "messages": []}).encode()
AUTH = f"authorization: Bearer {KEY}\r\n".encode()
TOP = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n" + AUTH


@pytest.fixture
def one(gateway: Gateway, replica: Start) -> FaultyReplica:
    found = replica()
    limits = {"max_body": 200_000, "max_head": 8192, "head_timeout_s": 0.5, "body_timeout_s": 0.5,
              "idle_timeout_s": 0.5}  # fmt: skip
    gateway.put([found.target("r1")], limits=limits)
    return found


def count(got: bytes) -> int:
    """How many answers there are."""
    return len(re.findall(rb"HTTP/1\.1 \d", got))


def length(number: int | str) -> bytes:
    return f"content-length: {number}\r\n".encode()


SMUGGLED = b"GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n"
SHAPES = {
    "content-length and chunked": TOP + length(5) + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "chunked and content-length": TOP + b"transfer-encoding: chunked\r\n" + length(5) + b"\r\n0\r\n\r\n" + SMUGGLED,
    "two lengths": TOP + length(4) + length(40) + b"\r\nabcd" + SMUGGLED,
    "two equal lengths": TOP + length(4) + length(4) + b"\r\nabcd" + SMUGGLED,
    "a list of lengths": TOP + length("4, 40") + b"\r\nabcd" + SMUGGLED,
    "a signed length": TOP + length("+4") + b"\r\nabcd" + SMUGGLED,
    "a negative length": TOP + length(-4) + b"\r\nabcd" + SMUGGLED,
    "a length in hex": TOP + length("0x4") + b"\r\nabcd" + SMUGGLED,
    "an endless length": TOP + length("9" * 40) + b"\r\nabcd",
    "an unknown coding": TOP + b"transfer-encoding: gzip\r\n\r\n" + SMUGGLED,
    "two codings": TOP + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "chunked twice": TOP + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "chunked, identity": TOP + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "a coding with a space before the colon": TOP + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "a coding folded": TOP + b"transfer-encoding:\r\n x\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "a coding of HTTP/1.0": b"POST /v1/completions HTTP/1.0\r\n"
    + AUTH
    + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "a chunk size that is none": TOP + b"transfer-encoding: chunked\r\n\r\n-1\r\nab\r\n0\r\n\r\n" + SMUGGLED,
    "a chunk longer than it says": TOP + b"transfer-encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n" + SMUGGLED,
    "no host": b"POST /v1/chat/completions HTTP/1.1\r\n" + AUTH + length(0) + b"\r\n" + SMUGGLED,
    "two hosts": TOP + b"host: y\r\n" + length(0) + b"\r\n" + SMUGGLED,
    "a NUL in a value": TOP + b"x: a\0b\r\n" + length(0) + b"\r\n" + SMUGGLED,
    "a bare CR in a value": TOP + b"x: a\rtransfer-encoding: chunked\r\n" + length(0) + b"\r\n" + SMUGGLED,
    "two authorizations": TOP + b"authorization: Bearer other\r\n" + length(0) + b"\r\n" + SMUGGLED,
    "no HTTP at all": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 40,
}


@pytest.mark.parametrize("shape", SHAPES)
def test_ambiguous_framing_is_refused_and_nothing_after_it_is_believed(
    gateway: Gateway, one: FaultyReplica, shape: str
) -> None:
    got = gateway.raw(SHAPES[shape])
    assert got.startswith(b"HTTP/1.1 400 ") and count(got) == 1, got
    assert b"connection: close" in got and b'"code":' in got
    assert one.seen()["seen"] == 0


LARGE = {
    "too many fields": (431, TOP + b"x: y\r\n" * 200 + b"\r\n"),
    "one large field": (431, TOP + b"x: " + b"y" * 20_000 + b"\r\n\r\n"),
    "an endless field": (431, TOP + b"x: " + b"y" * 20_000),
    "an endless path": (431, b"GET /" + b"x" * 20_000),
    "a declared body": (413, TOP + length(300_000) + b"\r\nabc"),
    "a chunked body": (413, TOP + b"transfer-encoding: chunked\r\n\r\n" + (b"8000\r\n" + b"x" * 0x8000 + b"\r\n") * 9),
    "a large body without a key": (401, b"POST /v1/completions HTTP/1.1\r\nhost: x\r\n" + length(100_000) + b"\r\nabc"),
    "a slow head": (408, TOP),
    "a slow body": (408, TOP + length(10) + b"\r\nabc"),
}


@pytest.mark.parametrize("shape", LARGE)
def test_limits(gateway: Gateway, one: FaultyReplica, shape: str) -> None:
    status, data = LARGE[shape]
    got = gateway.raw(data)
    assert got.startswith(b"HTTP/1.1 %d " % status) and b"connection: close" in got, got
    assert one.seen()["seen"] == 0


def test_an_idle_connection_is_closed_without_a_word(gateway: Gateway, one: FaultyReplica) -> None:
    assert gateway.raw(b"") == b""
    got = gateway.raw(TOP + length(len(BODY)) + b"\r\n" + BODY)
    assert got.startswith(b"HTTP/1.1 200") and count(got) == 1


@pytest.mark.parametrize("piece", [1, 7, 100_000])
def test_pipelined_requests_are_answered_in_order(gateway: Gateway, one: FaultyReplica, piece: int) -> None:
    streamed = json.dumps({"model": "tiny", "messages": [], "stream": True}).encode()
    requests = [
        TOP + length(len(BODY)) + b"\r\n" + BODY,
        b"GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n",
        TOP + length(len(streamed)) + b"\r\n" + streamed,
        TOP + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
        b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
    ]
    data = b"".join(requests)
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as wire:
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(data), piece):
            wire.sendall(data[start : start + piece])
        got = b""
        while part := wire.recv(65536):
            got += part
    marks = [got.find(m) for m in (b'"hello"', b"unknown_path", b"data: [DONE]", b'"table_version"')]
    assert marks == sorted(marks) and -1 not in marks
    assert got.count(b"HTTP/1.1 200") == 4 and got.count(b"HTTP/1.1 404") == 1
    assert one.seen()["seen"] == 3


def test_hundreds_pipelined_at_once(gateway: Gateway, one: FaultyReplica) -> None:
    many = (TOP + length(len(BODY)) + b"\r\n" + BODY) * 300
    assert gateway.raw(many).count(b"HTTP/1.1 200 OK") == 300


def test_what_comes_before_a_bad_request_is_answered(gateway: Gateway, one: FaultyReplica) -> None:
    got = gateway.raw(TOP + length(len(BODY)) + b"\r\n" + BODY + b"NONSENSE\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 200") and b"HTTP/1.1 400" in got and count(got) == 2


def test_nothing_after_connection_close_is_served(gateway: Gateway, one: FaultyReplica) -> None:
    first = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    got = gateway.raw(first + TOP + length(len(BODY)) + b"\r\n" + BODY)
    assert got.count(b"HTTP/1.1 200") == 1 and one.seen()["seen"] == 0


def test_http_1_0_gets_no_chunks(gateway: Gateway, one: FaultyReplica) -> None:
    body = json.dumps({"model": "tiny", "messages": [], "stream": True}).encode()
    got = gateway.raw(b"POST /v1/chat/completions HTTP/1.0\r\n" + AUTH + length(len(body)) + b"\r\n" + body)
    head, _, rest = got.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head and b"connection: close" in head
    assert rest.startswith(b"data: ") and rest.endswith(b"data: [DONE]\n\n")


def test_expect_100_continue(gateway: Gateway, one: FaultyReplica) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as wire:
        wire.sendall(TOP + b"expect: 100-continue\r\n" + length(len(BODY)) + b"\r\n")
        assert wire.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        wire.sendall(BODY)
        assert wire.recv(65536).startswith(b"HTTP/1.1 200 OK")


def test_a_key_is_judged_anew_on_the_same_connection(gateway: Gateway, replica: Start) -> None:
    only = replica()
    limits = {"idle_timeout_s": 60}
    other = {"id": "other", "sha256": sha("sk-other"), "models": None, "may_pin": False}

    def say(key: str) -> int:
        wire.request("POST", "/v1/chat/completions", BODY, {"authorization": f"Bearer {key}"})
        got = wire.getresponse()
        got.read()
        return got.status

    wire = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
    with closing(wire):
        gateway.put([only.target("r1")], limits=limits)
        assert [say(KEY), say(KEY), say("sk-other"), say(KEY)] == [200, 200, 401, 200]
        before = wire.sock
        gateway.put([only.target("r1")], limits=limits, keys=[other])
        assert [say(KEY), say("sk-other"), say(KEY)] == [401, 200, 401]
        assert before is not None and wire.sock is before


def test_an_upgrade_is_not_followed(gateway: Gateway, one: FaultyReplica) -> None:
    top = TOP + b"upgrade: h2c\r\nconnection: upgrade\r\n"
    got = gateway.raw(top + length(len(BODY)) + b"\r\n" + BODY + SMUGGLED)
    assert got.startswith(b"HTTP/1.1 400") and count(got) == 1 and b"upgrade_not_supported" in got


def test_only_harmless_headers_reach_the_replica(gateway: Gateway, one: FaultyReplica) -> None:
    got = gateway.chat(stream=False)
    assert got.status == 200
    gateway.ask("POST", "/v1/chat/completions?x=y", BODY, cookie="a=b", x_request_id="id-1", x_forwarded_for="1.2.3.4")
    head = until(lambda: one.seen()["head"]).lower()
    assert "x-request-id: id-1" in head and "cookie" not in head and "x-forwarded" not in head
    assert head.startswith("post /v1/chat/completions http/1.1")
