"""A stand-in for `vllm serve`, for the tests of its launcher: a server with a worker process, which it leaves behind.

`/metrics` says how many requests run: what is in the file `running` beside launch.json. Its own command line and
environment are kept in `seen.json`. SIGTERM ends it at once, but not its worker.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    """Metrics."""

    def do_GET(self) -> None:
        """How many run."""
        running = Path("running").read_text().strip()
        body = f'vllm:num_requests_running{{engine="0"}} {running}\nvllm:num_requests_waiting{{engine="0"}} 0.0\n'
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body.encode())


def main() -> None:
    """The command."""
    port = int(sys.argv[sys.argv.index("--port") + 1])
    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    server = HTTPServer(("127.0.0.1", port), Handler)
    seen = {"argv": sys.argv[1:], "environment": dict(os.environ), "pids": [os.getpid(), worker.pid]}
    Path("seen.partial").write_text(json.dumps(seen))
    Path("seen.partial").rename("seen.json")
    server.serve_forever()


if __name__ == "__main__":
    main()
