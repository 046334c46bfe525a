"""Registers in a process of its own that is killed, or runs out of disk, on purpose. Prints one line of JSON.

    child.py <manifest> <format> <store> [--kill-at CALL | --file-limit BYTES | --tmpfs BYTES [--filler]]

Calls are Python and C calls of all threads since registration began, so CALL reaches between any two system calls.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from stack.core.errors import StackError
from stack.registry import ContentStore, Progress, list_models, load_manifest, register


class Killer:
    """Counts calls; kills this process at the chosen one."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.calls = 0

    def __call__(self, frame: Any, event: str, argument: Any) -> None:
        if event in ("call", "c_call"):
            self.calls += 1
            if self.calls == self.at:
                os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Parse the arguments, set the trap, register."""
    parser = argparse.ArgumentParser()
    parser.add_argument("manifest", type=Path)
    parser.add_argument("format")
    parser.add_argument("store", type=Path)
    parser.add_argument("--kill-at", type=int, default=-1)
    parser.add_argument("--file-limit", type=int)
    parser.add_argument("--tmpfs", type=int)
    parser.add_argument("--filler", action="store_true")
    options = parser.parse_args()
    if options.tmpfs:
        command = ["mount", "-t", "tmpfs", "-o", f"size={options.tmpfs}", "tmpfs", str(options.store)]
        if subprocess.run(command, capture_output=True).returncode:
            print(json.dumps({"mounted": False}))
            return
    if options.file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (options.file_limit, options.file_limit))
    run(options)


def run(options: argparse.Namespace) -> None:
    """Register under the trap and tell what is there afterwards."""
    store = ContentStore(options.store)
    manifest = load_manifest(options.manifest)

    def fill(step: Progress) -> None:
        place = options.store / "filler"
        if options.filler and not place.exists():
            try:
                with place.open("wb") as file:
                    while True:
                        file.write(bytes(4096))
                        file.flush()
            except OSError:
                return

    killer = Killer(options.kill_at)
    threading.setprofile(killer)
    sys.setprofile(killer)
    error = None
    try:
        register(manifest, options.format, store, fill)
    except StackError as caught:
        error = caught.to_json()["error"]
    finally:
        sys.setprofile(None)
    left = [str(p) for p in options.store.rglob("*") if p.is_file() and p.name not in ("lock", "trees.lock", "filler")]
    print(json.dumps({"calls": killer.calls, "error": error, "left": left, "models": len(list_models(store))}))


if __name__ == "__main__":
    main()
