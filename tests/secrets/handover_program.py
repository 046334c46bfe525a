"""A program that takes its secrets over, and shows what can be seen of it from outside. Run by ``test_handover``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from stack.secrets.handover import handed_on, taken_over

SECRET = ("CANARY_KEY", "CANARY_TOKEN")


def main() -> None:
    values = taken_over(SECRET, os.environ)
    seen = {"values": values, "own": Path("/proc/self/environ").read_text(), "argv": sys.argv[1:]}
    child = [sys.executable, "-c", "print(open('/proc/self/environ').read())"]
    seen["inherits"] = subprocess.run(child, capture_output=True, text=True, check=True).stdout
    seen["open"] = [str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.exists()]
    if "--pass-on" in sys.argv:
        environment, descriptors = handed_on(SECRET, os.environ, values)
        done = subprocess.run(
            [sys.executable, __file__],
            env=environment,
            pass_fds=descriptors,
            capture_output=True,
            check=True,
            text=True,
        )
        seen["child"] = json.loads(done.stdout)
    print(json.dumps(seen))


main()
