#!/usr/bin/env python3
"""What the lock files of runtimes say, for whoever installs from them. Standard library only, Python 3.9 or newer."""

from __future__ import annotations

import os
import re
from typing import Dict

CORES = str(os.cpu_count() or 1)
# Distributions built from source, with the environment of their build: portable code, all cores, no vision models.
SOURCE_BUILDS = {
    "llama-cpp-python": {
        "CMAKE_ARGS": "-DGGML_NATIVE=OFF -DGGML_OPENMP=OFF -DLLAVA_BUILD=OFF "
        "-DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF",
        "CMAKE_BUILD_PARALLEL_LEVEL": CORES,
    }
}


def lock_blocks(text: str) -> Dict[str, str]:
    """Distribution -> its lines of the lock (the requirement and its hashes)."""
    blocks: Dict[str, str] = {}
    name = ""
    for line in text.splitlines(keepends=True):
        start = re.match(r"([a-z0-9][a-z0-9._-]*)==", line)
        name = start.group(1) if start else name
        if name and not line.startswith("#"):
            blocks[name] = blocks.get(name, "") + line
    return blocks
