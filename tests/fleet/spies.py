"""What a host's Python is really given: its environment and its arguments, written down."""

from __future__ import annotations

import sys
from pathlib import Path

HUSH = "hush-7c1f-canary/+=&"


def spying_python(folder: Path) -> tuple[Path, Path]:
    """A Python that writes down its environment and arguments."""
    told, script = folder / "told", folder / "python3"
    script.write_text(
        f'#!/bin/sh\ncat /proc/$$/environ /proc/$$/cmdline >> {told}\nexec {sys.executable} "$@"\n', encoding="utf-8"
    )
    script.chmod(0o755)
    return script, told
