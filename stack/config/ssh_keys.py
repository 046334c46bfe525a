"""Public keys as OpenSSH writes them: which of them may sign an approval, their wire form and their fingerprint. Pure.

Only form is checked here (types, sizes, one spelling each); whether a point lies on its curve and whether a signature
holds is ``stack.policy.sshsig``'s. Certificates, DSA, short RSA keys and Ed25519 points of small order (for which
anybody can make signatures) are refused with their reason.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from stack.config.ssh_wire import Malformed, Reader
from stack.core.errors import InvalidInput

LONGEST_LINE = 16 * 1024
SMALLEST_RSA, LARGEST_RSA = 2048, 16384
POINT_BYTES = {"nistp256": 65, "nistp384": 97, "nistp521": 133}
"""An uncompressed point of each curve: 4, x, y."""


class UnusableKey(InvalidInput):
    """This public key can't be used for approvals: {detail}."""

    hint = (
        "Use an ssh-ed25519, ecdsa-sha2-nistp256/384/521, ssh-rsa (2048 bits or more) or sk- key, written as in"
        " ~/.ssh/id_ed25519.pub."
    )


@dataclass(frozen=True, kw_only=True)
class PublicKey:
    """A key that may sign. ``blob``, its wire form, is its identity."""

    key_type: str
    blob: bytes
    comment: str = field(default="", compare=False)

    @property
    def fingerprint(self) -> str:
        """``SHA256:`` and the unpadded base64 of the blob's SHA-256."""
        return "SHA256:" + base64.b64encode(hashlib.sha256(self.blob).digest()).decode("ascii").rstrip("=")

    @property
    def material(self) -> bytes:
        """The point or the modulus: what tells two keys apart, however they are dressed up."""
        return self.parts[2 if "ecdsa-" in self.key_type or self.key_type == "ssh-rsa" else 1]

    @property
    def parts(self) -> tuple[bytes, ...]:
        """The fields of the blob, the type first."""
        reader, parts = Reader(self.blob), []
        while not reader.empty:
            parts.append(reader.string())
        return tuple(parts)

    @property
    def line(self) -> str:
        """The key as a ``.pub`` file has it, without the comment."""
        return f"{self.key_type} {base64.b64encode(self.blob).decode('ascii')}"


def parse_public_key(text: str) -> PublicKey:
    """The key of one line ``ssh-ed25519 AAAA... comment``, as in a ``.pub`` file."""
    line = text.removesuffix("\n")
    if len(line) > LONGEST_LINE:
        raise UnusableKey("the line is too long")
    if not line.replace("\t", " ").isprintable():
        raise UnusableKey("it has to be one line without control characters")
    fields = line.split(None, 2)
    if len(fields) < 2:
        raise UnusableKey("a key is written as its type, its base64 and a comment")
    _check_type(fields[0])
    key = public_key_from_blob(_decoded(fields[1]))
    if key.key_type != fields[0]:
        raise UnusableKey(f"the line says {fields[0]} and its base64 says {key.key_type}")
    return PublicKey(key_type=key.key_type, blob=key.blob, comment=fields[2].strip() if len(fields) > 2 else "")


def public_key_from_blob(blob: bytes) -> PublicKey:
    """The key of this wire form, if it is one that may sign and has exactly this one spelling."""
    if len(blob) > LONGEST_LINE:
        raise UnusableKey("it is too long")
    reader = Reader(blob)
    try:
        key_type = reader.text()
        _check_type(key_type)
        _FORMS[key_type](reader)
        reader.end()
    except Malformed as wrong:
        raise UnusableKey(f"its data is malformed: {wrong.detail}") from wrong
    return PublicKey(key_type=key_type, blob=blob)


def _check_type(key_type: str) -> None:
    if key_type in _FORMS:
        return
    shown = repr(key_type)[:80]
    if "-cert-" in key_type:
        raise UnusableKey(f"{shown} is a certificate; list the key itself")
    if key_type in {"ssh-dss", "ssh-dsa"}:
        raise UnusableKey("DSA keys are too weak")
    raise UnusableKey(f"{shown} is not a key type known here")


def _decoded(text: str) -> bytes:
    try:
        blob = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as wrong:
        raise UnusableKey("its base64 is damaged") from wrong
    if base64.b64encode(blob).decode("ascii") != text:
        raise UnusableKey("its base64 is not in the canonical form")
    return blob


_PRIME = 2**255 - 19
_ORDER_EIGHT = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDER = frozenset({0, 1, _PRIME - 1, _ORDER_EIGHT, _PRIME - _ORDER_EIGHT})
"""The y coordinates of Ed25519's points of order 1, 2, 4 and 8."""


def _ed25519(reader: Reader) -> None:
    raw = reader.string()
    if len(raw) != 32:
        raise UnusableKey(f"an Ed25519 key has 32 bytes, this one {len(raw)}")
    y = int.from_bytes(raw, "little") & (2**255 - 1)
    if y >= _PRIME:
        raise UnusableKey("its point is not in the canonical form")
    if y in _SMALL_ORDER:
        raise UnusableKey("its point has a small order: anybody could make its signatures")


def _ecdsa(curve: str) -> Callable[[Reader], None]:
    def read(reader: Reader) -> None:
        if (named := reader.text()) != curve:
            raise UnusableKey(f"its type is for the curve {curve}, its data for {named[:40]!r}")
        point = reader.string()
        if len(point) != POINT_BYTES[curve] or point[0] != 4:
            raise UnusableKey(f"its point is not an uncompressed one of {curve}")

    return read


def _rsa(reader: Reader) -> None:
    exponent, modulus = reader.mpint(), reader.mpint()
    bits = modulus.bit_length()
    if not SMALLEST_RSA <= bits <= LARGEST_RSA:
        raise UnusableKey(f"an RSA key needs {SMALLEST_RSA} to {LARGEST_RSA} bits, this one has {bits}")
    if not 3 <= exponent < 2**64 or exponent % 2 == 0 or modulus % 2 == 0:
        raise UnusableKey("its RSA numbers are unsound")


def _security_key(plain: Callable[[Reader], None]) -> Callable[[Reader], None]:
    def read(reader: Reader) -> None:
        plain(reader)
        if not reader.text().startswith("ssh:"):
            raise UnusableKey("a security key's application has to begin with 'ssh:'")

    return read


_FORMS: dict[str, Callable[[Reader], None]] = {
    "ssh-ed25519": _ed25519,
    "ecdsa-sha2-nistp256": _ecdsa("nistp256"),
    "ecdsa-sha2-nistp384": _ecdsa("nistp384"),
    "ecdsa-sha2-nistp521": _ecdsa("nistp521"),
    "ssh-rsa": _rsa,
    "sk-ssh-ed25519@openssh.com": _security_key(_ed25519),
    "sk-ecdsa-sha2-nistp256@openssh.com": _security_key(_ecdsa("nistp256")),
}
KEY_TYPES = tuple(_FORMS)
