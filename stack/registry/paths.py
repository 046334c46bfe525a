"""Which relative paths and file names an artifact may contain. Pure: touches no file system (see ``tree``)."""

from __future__ import annotations

import re

LONGEST_PATH = 1024
LONGEST_PART = 255
_DRIVE = re.compile(r"[A-Za-z]:")

_PICKLES = {
    ".bin": "PyTorch .bin weights are pickles",
    ".pt": "PyTorch .pt weights are pickles",
    ".pth": "PyTorch .pth weights are pickles",
    ".ckpt": "checkpoint files are pickles",
    ".pkl": "it is a pickle",
    ".pickle": "it is a pickle",
    ".joblib": "joblib files are pickles",
}
_CODE = (".py", ".pyc", ".so", ".sh", ".dll", ".dylib")


def path_problem(path: str) -> str | None:
    """Why ``path`` can't name a file below a root, or None: the first rule that it breaks.

    1. 1-1024 printable ASCII characters.  2. No backslash, drive letter or leading slash.
    3. Parts of 1-255 characters, none of them empty, ``.`` or ``..``.
    """
    if not path or len(path) > LONGEST_PATH:
        return f"a path has 1 to {LONGEST_PATH} characters"
    if not (path.isascii() and path.isprintable()):
        return "only printable ASCII characters are allowed (no control characters, no NUL)"
    if "\\" in path:
        return "backslashes are not allowed: separate with /"
    if path.startswith("/") or _DRIVE.match(path):
        return "absolute paths are not allowed"
    parts = path.split("/")
    if ".." in parts:
        return "'..' would leave the artifact's root"
    if any(part in ("", ".") or len(part) > LONGEST_PART for part in parts):
        return f"empty, '.' and over-long ({LONGEST_PART}) parts are not allowed"
    return None


def content_problem(path: str) -> str | None:
    """Why a file of this name is never admitted: pickles and code run when they are loaded."""
    name = path.rsplit("/", 1)[-1].lower()
    for suffix, reason in _PICKLES.items():
        if name.endswith(suffix):
            return f"{reason}; loading one runs the code inside"
    if name.endswith(_CODE):
        return "it is program code, which an artifact must not carry"
    return None


def magic_problem(head: bytes) -> str | None:
    """Why content that begins like this is never admitted, whatever its name: pickles and zip archives."""
    if len(head) >= 2 and head[0] == 0x80 and 2 <= head[1] <= 5:
        return f"its content is a pickle (protocol {head[1]})"
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08"):
        return "its content is a zip archive, as PyTorch writes around a pickle (data.pkl)"
    return None
