"""A release's own door to this host's Ollama server (engine ``ollama``); started by ``launch.py`` once it is proven.

Ollama is one server for many models, listens where its owners want it, and lets anybody who reaches it replace them. So
a replica is this small process: on the replica's own port it lets through completions for the release's model and
nothing else, and only while the server's version and the weights behind the name are proven again every other second.
What was replaced, or another version, ends it with 78, which no supervisor starts again; a server that does not answer
makes it unready until it does. SIGTERM drains: nobody is let in any more, running streams finish within the grace.
Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Dict, Optional

from ollama import NoSuchModel, Server, Unreachable, Wrong, problem_now

REFUSED, BUSY_PORT = 78, 69
LOOK_S, STALE_S = 2.0, 15.0
MAX_BODY = 64 << 20
ANSWER_S = 600.0  # the longest silence of the server within an answer
LET_THROUGH = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")


class Replica:
    """What the threads share: when the server was last proven, how many requests run, and why it is over."""

    def __init__(self, launch: Dict[str, Any]) -> None:
        self.launch, self.server = launch, Server(launch["ollama"])
        self.model: str = launch["served_model"]
        self.asked_to_end = False
        self.wrong = ""
        self.draining = False
        self._proven_at: Optional[float] = None
        self._lock = threading.Lock()
        self._running = 0

    @property
    def ready(self) -> bool:
        """Was the server proven a moment ago?"""
        at = self._proven_at
        return at is not None and not self.wrong and time.monotonic() - at < STALE_S

    @property
    def running(self) -> int:
        """Requests that are being answered."""
        return self._running

    def counted(self, by: int) -> None:
        """One more, or one less."""
        with self._lock:
            self._running += by

    def look(self) -> None:
        """Prove the server once."""
        try:
            self.wrong = problem_now(self.server, self.launch)
            self._proven_at = time.monotonic()
        except (Wrong, NoSuchModel) as error:
            self.wrong = str(error)
        except Unreachable as error:
            print(f"not proven: {error}", flush=True)

    def watch(self) -> None:
        """Until it is wrong."""
        while not self.wrong:
            time.sleep(LOOK_S)
            self.look()


class Door(ThreadingHTTPServer):
    """The listener."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        address = replica.launch["bind_address"]
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        super().__init__((address, replica.launch["port"]), Visitor)

    def server_bind(self) -> None:
        """Without asking for the host's name."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that its client broke off is one line, not a traceback."""
        print(f"connection from {client_address[0]}: {sys.exc_info()[1]!r}", flush=True)


class Visitor(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 600
    server: Door

    def do_GET(self) -> None:
        """Health and the one model."""
        replica = self.server.replica
        if self.path not in ("/health", "/v1/models"):
            self._error(404, "there is no such path")
        elif not replica.ready:
            self._error(503, "Ollama is not proven to serve this release")
        elif self.path == "/health":
            self._json(200, {"status": "ok"})
        else:
            self._json(200, {"object": "list", "data": [{"id": replica.model, "object": "model"}]})

    def do_POST(self) -> None:
        """A completion."""
        body = self._body()
        if body is None:
            return
        replica = self.server.replica
        replica.counted(1)
        try:
            if self.path not in LET_THROUGH:
                self._error(404, "there is no such path")
            elif body.setdefault("model", replica.model) != replica.model:
                self._error(404, f"the model {str(body['model'])[:80]!r} is not served here")
            elif replica.draining or not replica.ready:
                self._error(503, "Ollama is not proven to serve this release, or it is being drained")
            else:
                self._forward(json.dumps(body).encode())
        finally:
            replica.counted(-1)

    def _body(self) -> Optional[Dict[str, Any]]:
        length = self.headers.get("content-length", "")
        if not length.isdigit() or int(length) > MAX_BODY:
            self._error(413 if length.isdigit() else 411, f"a body of known length, at most {MAX_BODY >> 20} MiB")
            return None
        try:
            body = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            self._error(400, "the body is no JSON object")
            return None
        return body

    def _forward(self, body: bytes) -> None:
        connection = http.client.HTTPConnection(self.server.replica.server.address, timeout=ANSWER_S)
        try:
            connection.request("POST", self.path, body, {"content-type": "application/json"})
            reply = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            self._error(502, f"Ollama does not answer: {type(error).__name__}")
            return
        try:
            self._pass_on(reply)
        except (OSError, http.client.HTTPException):
            self.close_connection = True  # without the last chunk: what is cut must look cut
        finally:
            connection.close()

    def _pass_on(self, reply: http.client.HTTPResponse) -> None:
        self.send_response(reply.status)
        self.send_header("content-type", reply.getheader("content-type", "application/json"))
        if reply.length is not None:
            self.send_header("content-length", str(reply.length))
            self.end_headers()
            whole = reply.read()  # raises when it is shorter than announced
            self.wfile.write(whole)
            return
        if not reply.chunked:
            raise http.client.HTTPException("an answer without an end")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        while part := reply.read1(1 << 16):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        self.wfile.write(b"0\r\n\r\n")

    def _json(self, status: int, body: Dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _error(self, status: int, text: str) -> None:
        self.close_connection = self.close_connection or status in (411, 413)
        with suppress(OSError):
            self._json(
                status, {"error": {"message": text, "type": "invalid_request_error" if status < 500 else "server"}}
            )

    def log_message(self, *_: Any) -> None:
        """Prompts are nobody's business, and health is asked for every few seconds."""


def grace(folder: Path, default: float) -> float:
    """How long running streams may take: what the drain asked for, else the launch's own."""
    try:
        return float(json.loads((folder / "drain.json").read_text())["grace_s"])
    except (OSError, ValueError, KeyError, TypeError):
        return default


def drain(folder: Path, replica: Replica, door: Door) -> None:
    """Let nobody in any more; wait until nothing runs, at most for the grace."""
    deadline, resting = time.monotonic() + grace(folder, replica.launch["grace_s"]), 0
    door.shutdown()
    door.server_close()
    while resting < 4 and time.monotonic() < deadline:  # a request may stand between its connection and its count
        resting = 0 if replica.running else resting + 1
        time.sleep(0.05)
    replica.draining = True
    print("drained" if resting == 4 else "left with requests running", flush=True)


def main() -> None:
    """The command."""
    folder = Path(sys.argv[1])
    replica = Replica(json.loads((folder / "launch.json").read_text(encoding="utf-8")))
    signal.signal(signal.SIGTERM, lambda *_: setattr(replica, "asked_to_end", True))
    try:
        door = Door(replica)
    except OSError as error:
        print(f"launch refused: the port can't be used: {error.strerror}", file=sys.stderr, flush=True)
        sys.exit(BUSY_PORT)
    replica.look()
    for work in (replica.watch, door.serve_forever):
        threading.Thread(target=work, daemon=True).start()
    print(f"listening on http://{replica.launch['bind_address']}:{replica.launch['port']}", flush=True)
    while not replica.asked_to_end and not replica.wrong:
        time.sleep(0.1)
    if replica.wrong:
        print(f"launch refused: {replica.wrong}", file=sys.stderr, flush=True)
        time.sleep(1.3)  # a supervisor takes an exit in the first second for a failed start and repeats it
        os._exit(REFUSED)
    drain(folder, replica, door)
    os._exit(0)


if __name__ == "__main__":
    main()
