"""Searches a pattern in an answer within a bounded time.

Python's `re` can't be interrupted, and pattern and answer together decide how long it takes. A pattern that
repeats at most once can't explode and runs here; any other runs in a child process that is ended when its time is up.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys

MAX_TEXT = 20_000
SECONDS = 5.0
_CHILD = "import json,re,sys; p,t=json.load(sys.stdin); sys.stdout.write('yes' if re.search(p,t) else 'no')"
_SIMPLE = re.compile(r"[^*+{(]*([*+][^*+{(]*)?\Z")


class TooSlow(Exception):
    """The pattern could not be decided in time; the text says why."""


def search(pattern: str, text: str, seconds: float = SECONDS) -> bool:
    """Does `pattern` occur in `text`? Raises `TooSlow` when that can't be told in time."""
    if len(text) > MAX_TEXT:
        raise TooSlow(f"the answer is longer than the {MAX_TEXT} characters a pattern is searched in")
    if _SIMPLE.match(pattern) and len(text) <= 2_000:
        return re.search(pattern, text) is not None
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _CHILD],
            input=json.dumps([pattern, text]).encode(),
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TooSlow(f"the pattern took longer than {seconds:g} s") from None
    if done.stdout not in (b"yes", b"no"):
        raise TooSlow("the pattern could not be searched")
    return done.stdout == b"yes"
