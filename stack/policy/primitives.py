"""One signature by one key over given bytes, checked with ``cryptography``; each key type with its algorithms only.

``sshsig`` takes the envelope apart and says what the bytes are. A security key signs a hash of the bytes together
with its application, its flags and its counter (OpenSSH PROTOCOL.u2f); without the flag that says "somebody touched
it" the signature counts for nothing.
"""

from __future__ import annotations

import hashlib

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from stack.config.ssh_keys import PublicKey
from stack.config.ssh_wire import Malformed, Reader
from stack.core.errors import Refused

CURVES: dict[str, tuple[ec.EllipticCurve, hashes.HashAlgorithm]] = {
    "nistp256": (ec.SECP256R1(), hashes.SHA256()),
    "nistp384": (ec.SECP384R1(), hashes.SHA384()),
    "nistp521": (ec.SECP521R1(), hashes.SHA512()),
}
RSA_ALGORITHMS: dict[str, hashes.HashAlgorithm] = {"rsa-sha2-256": hashes.SHA256(), "rsa-sha2-512": hashes.SHA512()}
USER_PRESENT = 0x01


class BadPrimitive(Refused):
    """{detail}"""


def check(key: PublicKey, algorithm: str, signature: bytes, data: bytes) -> None:
    """Returns if ``signature`` (what follows the algorithm's name in the wire form) is ``key``'s over ``data``."""
    allowed = tuple(RSA_ALGORITHMS) if key.key_type == "ssh-rsa" else (key.key_type,)
    if algorithm not in allowed:
        raise BadPrimitive(f"a key of type {key.key_type} signs with {' or '.join(allowed)}, not {algorithm[:60]!r}")
    fields, reader = Reader(key.blob), Reader(signature)
    fields.text()
    try:
        raw = reader.string()
        signed = _touched(key, reader, data) if key.key_type.startswith("sk-") else data
        reader.end()
        _check_plain(key.key_type.removeprefix("sk-"), algorithm, fields, raw, signed)
    except Malformed as wrong:
        raise BadPrimitive(f"it is malformed: {wrong.detail}") from wrong
    except InvalidSignature as wrong:
        raise BadPrimitive("it does not belong to this text and key") from wrong
    except (ValueError, UnsupportedAlgorithm) as wrong:
        raise BadPrimitive("its key is unsound") from wrong


def _touched(key: PublicKey, reader: Reader, data: bytes) -> bytes:
    """What a security key signed for ``data``: with its application, and the flags and counter behind the signature."""
    flags, counter = reader.byte(), reader.take(4)
    if not flags & USER_PRESENT:
        raise BadPrimitive("nobody touched the security key for it")
    return hashlib.sha256(key.parts[-1]).digest() + bytes([flags]) + counter + hashlib.sha256(data).digest()


def _check_plain(kind: str, algorithm: str, fields: Reader, raw: bytes, signed: bytes) -> None:
    if kind.startswith("ssh-ed25519"):
        ed25519.Ed25519PublicKey.from_public_bytes(fields.string()).verify(raw, signed)
    elif kind.startswith("ecdsa-sha2-"):
        _check_ecdsa(fields, raw, signed)
    else:
        _check_rsa(fields, RSA_ALGORITHMS[algorithm], raw, signed)


def _check_ecdsa(fields: Reader, raw: bytes, signed: bytes) -> None:
    curve, digest = CURVES[fields.text()]
    key = ec.EllipticCurvePublicKey.from_encoded_point(curve, fields.string())
    numbers = Reader(raw)
    r, s = numbers.mpint(), numbers.mpint()
    numbers.end()
    key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(digest))


def _check_rsa(fields: Reader, digest: hashes.HashAlgorithm, raw: bytes, signed: bytes) -> None:
    exponent, modulus = fields.mpint(), fields.mpint()
    if len(raw) != (modulus.bit_length() + 7) // 8:
        raise InvalidSignature
    rsa.RSAPublicNumbers(exponent, modulus).public_key().verify(raw, signed, padding.PKCS1v15(), digest)
