"""A stand-in for an OpenAI-compatible engine with faults to switch on. Real HTTP, no model; for fault tests only."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HTML = b"<html><body>It works!</body></html>"


@dataclass
class StandIn:
    """How the stand-in behaves; change the fields while it runs."""

    model: str = "stand-in"
    answers: dict[str, str] = field(default_factory=dict)
    answer: str = "Hello! How can I help?"
    # faults
    health_status: int = 200
    health_html: bool = False
    health_body: bytes = b'{"status":"ok"}'
    loading: int = 0  # answers of /health that are 503 before it is ready
    listed: list[str] | None = None
    list_body: bytes | None = None
    status: int = 200
    body: bytes | None = None
    hang: bool = False
    drip: bool = False  # a byte now and then, never an end
    answered_as: str | None = None
    finish: str | None = "stop"
    longest_prompt: int = 1 << 20
    stream_end: str = "whole"  # or "cut", "error", "unfinished"
    streamed_answer: str | None = None
    tool_calls: list[dict[str, Any]] | None = None
    fail_every: int = 0
    steps_each_read: int = 0  # what /metrics says, per read
    steps: int = 0
    drops: str = ""  # "reused": connections that served before; "all"
    headers: dict[str, str] = field(default_factory=dict)
    # what happened
    requests: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    seen_headers: list[dict[str, str]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    port: int = 0

    @property
    def base(self) -> str:
        """Its URL, without `/v1`."""
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def serving(standin: StandIn) -> Iterator[StandIn]:
    """`standin` on a free port; everything that hangs ends with it."""

    class Handler(_Handler):
        state = standin

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    standin.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield standin
    finally:
        standin.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    state: StandIn
    served = False

    def do_GET(self) -> None:
        s = self.state
        s.paths.append(self.path)
        if self.path == "/health":
            if s.loading > 0:
                s.loading -= 1
                return self._send(503, b'{"error":{"message":"Loading model"}}')
            return self._send(s.health_status, HTML if s.health_html else s.health_body)
        if self.path == "/v1/models":
            names = [s.model] if s.listed is None else s.listed
            rows = {"object": "list", "data": [{"id": name} for name in names]}
            return self._send(200, s.list_body if s.list_body is not None else json.dumps(rows).encode())
        if self.path == "/metrics":
            s.steps += s.steps_each_read
            vllm = b'vllm:iteration_tokens_total_count{engine="0"} %d.0\n' % s.steps
            return self._send(200, b"# TYPE x counter\nllamacpp:n_decode_total %d\n" % s.steps + vllm)
        return self._send(404, b"{}")

    def do_POST(self) -> None:
        s = self.state
        s.paths.append(self.path)
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        s.requests.append(request)
        s.seen_headers.append({k.lower(): v for k, v in self.headers.items()})
        before, self.served = self.served, True
        if s.drops == "all" or (s.drops == "reused" and before):
            self.close_connection = True
            return None
        if s.hang:
            s.released.wait()
            return None
        if s.fail_every and len(s.requests) % s.fail_every == 0:
            return self._send(503, b'{"error":"busy"}')
        if s.drip:
            return self._drip()
        prompt = request["messages"][-1]["content"]
        if len(prompt) > s.longest_prompt:
            return self._send(400, b'{"error":{"type":"exceed_context_size_error"}}')
        if s.status != 200 or s.body is not None:
            return self._send(s.status, s.body or b'{"error":"fault"}')
        return self._stream(prompt) if request.get("stream") else self._whole(prompt)

    def _whole(self, prompt: str) -> None:
        s = self.state
        message: dict[str, Any] = {"role": "assistant", "content": s.answers.get(prompt, s.answer)}
        if s.tool_calls is not None:
            message = {"role": "assistant", "content": None, "tool_calls": s.tool_calls}
        reply = {
            "model": s.answered_as or s.model,
            "choices": [{"index": 0, "message": message, "finish_reason": s.finish}],
            "usage": {"prompt_tokens": len(prompt), "completion_tokens": 5},
        }
        self._send(200, json.dumps(reply).encode())

    def _stream(self, prompt: str) -> None:
        s = self.state
        text = s.streamed_answer if s.streamed_answer is not None else s.answers.get(prompt, s.answer)
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        half = len(text) // 2
        for piece in (text[:half], text[half:]):
            self._event({"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]})
        if s.stream_end == "error":
            self._event({"error": {"message": "aborted"}})
        elif s.stream_end == "whole":
            self._event({"choices": [{"index": 0, "delta": {}, "finish_reason": s.finish}]})
            self._event({"choices": [], "usage": {"prompt_tokens": len(prompt), "completion_tokens": 5}})
        if s.stream_end != "cut":
            self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def _event(self, body: dict[str, Any]) -> None:
        body = {"model": self.state.answered_as or self.state.model, **body}
        self.wfile.write(b"data: " + json.dumps(body).encode() + b"\n\n")
        self.wfile.flush()

    def _drip(self) -> None:
        self.send_response(200)
        self.send_header("connection", "close")
        self.end_headers()
        try:
            while not self.state.released.wait(0.02):
                self.wfile.write(b" ")
                self.wfile.flush()
        except OSError:
            pass
        self.close_connection = True

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        for name, value in self.state.headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass
