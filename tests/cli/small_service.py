"""A process as ``up`` starts it, with faults: serves /health, dies, or never answers."""

from __future__ import annotations

import http.server
import json
import signal
import sys
import time


class Health(http.server.BaseHTTPRequestHandler):
    """200 for everything."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")


def main(behaviour: str, port: int) -> None:
    print(f"behaviour {behaviour}", flush=True)
    if behaviour == "dies":
        sys.exit("no: the disk is on fire")
    if behaviour == "explains":
        error = {"code": "Wrong", "message": "three mistakes", "hint": "mend it", "exit_code": 2, "facts": {}}
        print(json.dumps({"error": error}), flush=True)
        sys.exit(2)
    if behaviour == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if behaviour == "silent":
        time.sleep(600)
    http.server.HTTPServer(("127.0.0.1", port), Health).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
