"""The key that signs checkpoints, as it lies in the state directory, and its public half for everybody.

The log's name (its origin) is made of the key, so that two logs never share a name. ``stackctl up`` makes the key.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from stack.audit.note import Signer, VerifierKey
from stack.core.errors import Unavailable

KEY_FILE = "checkpoint.key"
PUBLIC_FILE = "checkpoint.pub"
DEFAULT_LOG = "checkpoints.log"
_SEED = re.compile(r"[0-9a-f]{64}\n?\Z", re.ASCII)


class NoCheckpointKey(Unavailable):
    """The key that signs the audit log's checkpoints can't be used: {path}: {detail}"""

    hint = "`stackctl up` makes it where it is missing; it must be a file of this user with mode 0600."


def load_signer(path: Path) -> Signer:
    """From a 0600 file of 64 hex digits: the seed of an Ed25519 key."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(80).decode("ascii", "replace")
    except OSError as error:
        raise NoCheckpointKey(error.strerror or str(error), path=path) from error
    if not stat.S_ISREG(mode) or mode & 0o077:
        raise NoCheckpointKey("others can read it, or it is no file", path=path)
    return signer_from(text, str(path))


def signer_from(text: str, place: str) -> Signer:
    """From the secret's text: 64 hex digits. ``place`` is where it came from, for the error."""
    if not _SEED.match(text):
        raise NoCheckpointKey("it does not hold 64 hex digits", path=place)
    return signer_of(bytes.fromhex(text.strip()))


def signer_of(seed: bytes) -> Signer:
    """The signer of this seed, under the name that its public key gives it."""
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
    return Signer(f"inference-stack/{hashlib.sha256(public).hexdigest()[:16]}", seed)


def publish(path: Path, key: VerifierKey) -> None:
    """Write the verifier key where it can be copied from; whole or not at all."""
    text = f"{key}\n"
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.exists() and path.read_text(encoding="utf-8") == text:
            return
        new.write_text(text, encoding="utf-8")
        new.chmod(0o644)
        new.replace(path)
    except (OSError, UnicodeDecodeError) as error:
        raise NoCheckpointKey(str(error), path=path) from error
