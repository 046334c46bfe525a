"""Become ``python -m llama_cpp.server`` (distribution ``llama-cpp-python``); started by ``launch.py``.

It answers one request at a time, so ``parallel`` does not multiply the context. Left to itself it breaks a stream off
when the next request comes; here the next one waits. Its own SIGTERM handling lets running requests finish; whoever
stops the replica bounds that.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any


def command(launch: dict[str, Any], python: str) -> list[str]:
    """The server's command line."""
    model = str(sorted(Path(launch["artifact_dir"]).rglob("*.gguf"))[0])
    options = {
        "model": model,
        "model_alias": launch["served_model"],
        "host": launch["bind_address"],
        "port": launch["port"],
        "n_ctx": launch["context"],
        "n_threads": launch["threads"],
        "n_threads_batch": launch["threads"],
        "interrupt_requests": "false",
    }
    return [python, "-u", "-m", "llama_cpp.server", *(part for k, v in options.items() for part in (f"--{k}", str(v)))]


def main() -> None:
    """The command."""
    launch = json.loads((Path(sys.argv[1]) / "launch.json").read_text(encoding="utf-8"))
    argv = command(launch, sys.executable)
    os.execv(argv[0], argv)


if __name__ == "__main__":
    main()
