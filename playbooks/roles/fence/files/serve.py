#!/usr/bin/env python3
"""Give the files of one artifact of this host to another host, for as long as the controller holds the line.

    serve.py ROOT HEX ADDRESS     # standard input: a message with {"certificate", "key", "token"}; output: {"port"}

It listens on ADDRESS only, speaks TLS with the key that it was just given, answers nobody without the token, and reads
nothing but ranges of the files below ``artifacts/HEX``. The key is held in memory. It ends when standard input does,
and after ``LIMIT_S`` in any case. Who takes the bytes checks them. Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import hmac
import json
import os
import re
import select
import ssl
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Dict
from urllib.parse import unquote

from receive import Incoming

LIMIT_S, PATIENCE_S, LARGEST = 120.0, 30.0, 64 << 20


class Server(ThreadingHTTPServer):
    """One artifact, one token."""

    daemon_threads = True

    def __init__(self, folder: Path, address: str, given: Dict[str, str]) -> None:
        self.token = given["token"]
        self.files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if plain_file(p)}
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        memory = os.memfd_create("key")
        os.write(memory, (given["key"] + given["certificate"]).encode())
        self.context.load_cert_chain(f"/proc/self/fd/{memory}")
        os.close(memory)
        super().__init__((address, 0), Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In the request's own thread: a peer that does not shake hands holds up nobody else."""
        request.settimeout(PATIENCE_S)
        try:
            with self.context.wrap_socket(request, server_side=True) as secure:
                super().finish_request(secure, client_address)
        except OSError:
            return


class Handler(BaseHTTPRequestHandler):
    """Ranges of files, to who has the token."""

    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """One range."""
        given = self.headers.get("Authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {self.server.token}".encode()):
            return self.refuse(403)
        path = self.server.files.get(unquote(self.path).lstrip("/"))
        span = re.fullmatch(r"bytes=(\d{1,15})-(\d{1,15})", self.headers.get("Range", ""))
        if path is None or span is None:
            return self.refuse(404)
        first, last = int(span.group(1)), int(span.group(2))
        if not first <= last < min(first + LARGEST, path.stat().st_size):
            return self.refuse(416)
        with open(path, "rb") as file:
            file.seek(first)
            content = file.read(last - first + 1)
        self.send_response(206)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        return None

    def refuse(self, status: int) -> None:
        """No, and no more on this connection."""
        self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *words: Any) -> None:
        """Nothing: a request holds the token."""


def plain_file(path: Path) -> bool:
    """Neither a link nor anything special."""
    return path.is_file() and not path.is_symlink()


def main() -> int:
    """The command."""
    root, name, address = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    if not re.fullmatch(r"[0-9a-f]{64}", name):
        return 64
    incoming = Incoming(sys.stdin.fileno())
    with Server(root / "artifacts" / name, address, incoming.message()) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(json.dumps({"port": server.server_address[1], "files": len(server.files)}), flush=True)
        select.select([sys.stdin], [], [], LIMIT_S)
    return 0


if __name__ == "__main__":
    sys.exit(main())
