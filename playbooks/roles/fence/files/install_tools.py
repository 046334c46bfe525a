#!/usr/bin/env python3
"""Write our tools into ROOT/bin: JSON {name: text} on standard input. Each file changes atomically, or not at all.

It is run from the controller's copy (``python3 -c``), before anything of ours is on the host, so it stands alone:
standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def main() -> int:
    """The command."""
    root = Path(sys.argv[1])
    for folder in ("bin", "artifacts", "runtimes", "replicas", "fence"):
        (root / folder).mkdir(mode=0o755, parents=True, exist_ok=True)
    for name, text in json.load(sys.stdin).items():
        target = root / "bin" / Path(name).name
        partial = target.with_name(f".{target.name}.{os.getpid()}")
        partial.write_text(text, encoding="utf-8")
        partial.chmod(0o755)
        partial.replace(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
