"""OpenSSH signatures (PROTOCOL.sshsig, what ``ssh-keygen -Y sign`` makes): checked here, and put into their form.

``verify`` says which key signed; whether that key is anybody's is the decision's question. A signature comes from
outside, so it is read strictly: exact armor, canonical base64, one spelling of every field, nothing left over, the
namespace exactly ours, the algorithm exactly the key's. RSA only with SHA-2; a security key must have been touched.
Making a signature is left to ``signing`` (key files) and ``agent`` (ssh-agent).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass

from stack.config.ssh_keys import PublicKey, UnusableKey, parse_public_key, public_key_from_blob
from stack.config.ssh_wire import Malformed, Reader, string, uint32
from stack.core.errors import Refused
from stack.policy.primitives import BadPrimitive, check

__all__ = ["BadSignature", "PublicKey", "UnusableKey", "armor", "parse_public_key", "seal", "signed_data", "verify"]

MAGIC = b"SSHSIG"
VERSION = 1
HASHES = ("sha256", "sha512")
BEGIN, END = "-----BEGIN SSH SIGNATURE-----", "-----END SSH SIGNATURE-----"
OPENSSH_WIDTH, PROTOCOL_WIDTH = 70, 76
"""Characters in a line of base64: what ssh-keygen writes, and what its protocol document recommends."""
LONGEST = 16 * 1024
LONGEST_NAMESPACE = 255


class BadSignature(Refused):
    """The signature is not accepted: {detail}."""

    hint = "Sign again: stackctl change approve, or ssh-keygen -Y sign -n approval@inference-stack."


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """A signature taken apart; nothing in it is proven yet."""

    public_key: PublicKey
    namespace: str
    hash_name: str
    algorithm: str
    signature: bytes


def verify(armored: str, message: bytes, namespace: str) -> PublicKey:
    """The key that signed ``message`` for ``namespace``; ``BadSignature`` where that is not proven."""
    envelope = opened(armored)
    if envelope.namespace != namespace:
        raise BadSignature(f"it was made for {envelope.namespace[:80]!r}, not for {namespace!r}")
    data = signed_data(message, namespace, envelope.hash_name)
    try:
        check(envelope.public_key, envelope.algorithm, envelope.signature, data)
    except BadPrimitive as wrong:
        raise BadSignature(wrong.detail) from wrong
    return envelope.public_key


def opened(armored: str) -> Envelope:
    """The parts of an armored signature, in exactly the form that the protocol gives them."""
    reader = Reader(dearmor(armored))
    try:
        if reader.take(len(MAGIC)) != MAGIC or reader.uint32() != VERSION:
            raise BadSignature("it is not an SSH signature of version 1")
        key = public_key_from_blob(reader.string())
        namespace, reserved, hash_name = reader.text(), reader.string(), reader.text()
        inner = Reader(reader.string())
        reader.end()
        algorithm = inner.text()
        rest = inner.rest()
    except Malformed as wrong:
        raise BadSignature(f"it is malformed: {wrong.detail}") from wrong
    except UnusableKey as wrong:
        raise BadSignature(f"its key can't be used: {wrong.detail}") from wrong
    if not 0 < len(namespace) <= LONGEST_NAMESPACE:
        raise BadSignature("its namespace is empty or too long")
    if reserved:
        raise BadSignature("its reserved field is not empty")
    if hash_name not in HASHES:
        raise BadSignature(f"its hash {hash_name[:40]!r} is not one of {', '.join(HASHES)}")
    return Envelope(public_key=key, namespace=namespace, hash_name=hash_name, algorithm=algorithm, signature=rest)


def signed_data(message: bytes, namespace: str, hash_name: str) -> bytes:
    """What the key really signs: never the message alone, so no other use of the key yields a signature of ours."""
    digest = hashlib.new(hash_name, message).digest()
    return MAGIC + string(namespace) + string(b"") + string(hash_name) + string(digest)


def seal(blob: bytes, namespace: str, hash_name: str, signature: bytes) -> str:
    """The armored form of ``signature`` (SSH's wire form, with its algorithm) by the key ``blob``."""
    fields = (blob, namespace.encode("ascii"), b"", hash_name.encode("ascii"), signature)
    return armor(MAGIC + uint32(VERSION) + b"".join(string(field) for field in fields))


def armor(data: bytes, width: int = OPENSSH_WIDTH) -> str:
    """``data`` in base64 between the two marks, as ssh-keygen writes it."""
    text = base64.b64encode(data).decode("ascii")
    lines = [text[at : at + width] for at in range(0, len(text), width)]
    return "\n".join([BEGIN, *lines, END]) + "\n"


def dearmor(armored: str) -> bytes:
    """The inverse of ``armor``: accepts only what ``armor`` gives (the last newline may be missing)."""
    if len(armored) > LONGEST:
        raise BadSignature("it is too long")
    text = armored if armored.endswith("\n") else armored + "\n"
    lines = text.split("\n")
    if len(lines) < 4 or lines[0] != BEGIN or lines[-2] != END:
        raise BadSignature(f"it has to begin with {BEGIN} and end with {END}, each on a line that ends in LF")
    try:
        data = base64.b64decode("".join(lines[1:-2]).encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error) as wrong:
        raise BadSignature("its base64 is damaged") from wrong
    if text not in (armor(data, OPENSSH_WIDTH), armor(data, PROTOCOL_WIDTH)):
        raise BadSignature("its base64 is not in the canonical form (lines of 70 characters, no spaces)")
    return data
