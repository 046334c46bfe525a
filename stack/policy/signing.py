"""An approver's signature made with a private key file, as ``ssh-keygen -Y sign`` makes it.

Reads OpenSSH's key files (and PEM ones, which ``ssh-keygen -m`` writes), asks for the passphrase only where there is
one, and checks the finished signature before giving it out. Keys in an agent are ``agent``'s; a security key (sk-)
holds its secret in hardware, so for those the error names the command that does it.
"""

from __future__ import annotations

import os
import shlex
import stat
from base64 import b64decode
from binascii import Error as BadBase64
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from stack.config.ssh_keys import PublicKey, UnusableKey, parse_public_key
from stack.config.ssh_wire import Malformed, Reader, mpint, string
from stack.core.errors import InvalidInput
from stack.policy.primitives import CURVES
from stack.policy.sshsig import seal, signed_data, verify

HASH = "sha512"
LONGEST_FILE = 64 * 1024
OPENSSH = b"-----BEGIN OPENSSH PRIVATE KEY-----"
OPENSSH_END = b"-----END OPENSSH PRIVATE KEY-----"
OPENSSH_MAGIC = b"openssh-key-v1\0"

SigningKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class CannotSign(InvalidInput):
    """{path} can't sign: {detail}."""

    hint = "Give the private key whose public half stands in policies/allowed_signers, or use ssh-agent."


class WrongPassphrase(CannotSign):
    """{path}: {detail}."""

    hint = "Try again, or add the key to your ssh-agent with ssh-add."


def sign_with_file(path: Path, message: bytes, namespace: str, passphrase: Callable[[], str] | None) -> str:
    """The armored signature of ``message`` by the private key in ``path``; ``passphrase`` is called if it needs one."""
    data = _private_bytes(path)
    key = _loaded(path, data, namespace, passphrase)
    public = _public(path, key)
    armored = seal(public.blob, namespace, HASH, _signature(key, public, signed_data(message, namespace, HASH)))
    verify(armored, message, namespace)
    return armored


def _public(path: Path, key: SigningKey) -> PublicKey:
    encoding, form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    try:
        return parse_public_key(key.public_key().public_bytes(encoding, form).decode("ascii"))
    except UnusableKey as wrong:
        raise CannotSign(wrong.detail, path=path) from wrong
    except ValueError as wrong:
        raise CannotSign("its curve is none of OpenSSH's", path=path) from wrong


def _private_bytes(path: Path) -> bytes:
    """The file's bytes, if it is a plain file of ours alone. What is checked is what is read: one open."""
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise CannotSign("it is not a file", path=path)
            if status.st_mode & 0o077:
                mode = f"{stat.S_IMODE(status.st_mode):04o}"
                advice = f"chmod 600 {shlex.quote(str(path))}, and consider whether somebody has read it."
                raise CannotSign(f"others may read it (mode {mode})", path=path, advice=advice)
            data = file.read(LONGEST_FILE + 1)
    except OSError as wrong:
        raise CannotSign(wrong.strerror or str(wrong), path=path) from wrong
    if len(data) > LONGEST_FILE:
        raise CannotSign("it is too long for a key", path=path)
    return data


def _without_waiting(path: str, flags: int) -> int:
    """Opens a pipe without waiting for its other end."""
    return os.open(path, flags | os.O_NONBLOCK)


def _loaded(path: Path, data: bytes, namespace: str, passphrase: Callable[[], str] | None) -> SigningKey:
    in_openssh_form = data.lstrip().startswith(OPENSSH)
    encrypted = _openssh_encrypted(path, data, namespace) if in_openssh_form else _pem_encrypted(path, data)
    if encrypted and passphrase is None:
        raise WrongPassphrase("it needs a passphrase and there is nobody to ask", path=path)
    secret = passphrase().encode("utf-8", "surrogateescape") if encrypted and passphrase is not None else None
    load = serialization.load_ssh_private_key if in_openssh_form else serialization.load_pem_private_key
    try:
        key = load(data, secret or None)
    except UnsupportedAlgorithm as wrong:
        advice = f"Add it to your ssh-agent (ssh-add {shlex.quote(str(path))}) or run: {_command(path, namespace)}"
        raise CannotSign("its encryption or type can't be read here", path=path, advice=advice) from wrong
    except (ValueError, TypeError) as wrong:
        if encrypted:
            raise WrongPassphrase("the passphrase is wrong (or the file is damaged)", path=path) from wrong
        raise CannotSign("it holds no private key in a form known here", path=path) from wrong
    if not isinstance(key, SigningKey):
        raise CannotSign("its type of key is not accepted for approvals", path=path)
    return key


def _pem_encrypted(path: Path, data: bytes) -> bool:
    try:
        parse_public_key(data.decode("utf-8"))
    except (UnusableKey, UnicodeDecodeError):
        return b"ENCRYPTED" in data
    raise CannotSign("it is the public half of the key", path=path)


def _openssh_encrypted(path: Path, data: bytes, namespace: str) -> bool:
    """Whether the key is encrypted; its public half stands in the clear, so a security key is known by it."""
    body = data.partition(OPENSSH)[2].partition(OPENSSH_END)[0]
    try:
        reader = Reader(b64decode(b"".join(body.split()), validate=True))
        if reader.take(len(OPENSSH_MAGIC)) != OPENSSH_MAGIC:
            raise Malformed("the magic is missing")
        cipher = reader.text()
        for _ in ("key derivation", "its options"):
            reader.string()
        reader.uint32()
        key_type = Reader(reader.string()).text()
    except (BadBase64, Malformed) as wrong:
        raise CannotSign("the file is damaged", path=path) from wrong
    if key_type.startswith("sk-"):
        advice = f"Run: {_command(path, namespace)}  or add it to your ssh-agent: ssh-add {shlex.quote(str(path))}"
        raise CannotSign("it is a security key, whose secret lies in the hardware", path=path, advice=advice)
    return cipher != "none"


def _command(path: Path, namespace: str) -> str:
    return f"ssh-keygen -Y sign -f {shlex.quote(str(path))} -n {shlex.quote(namespace)} STATEMENT"


def _signature(key: SigningKey, public: PublicKey, data: bytes) -> bytes:
    """The signature in SSH's wire form: the algorithm's name and its bytes."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return string(public.key_type) + string(key.sign(data))
    if isinstance(key, rsa.RSAPrivateKey):
        return string("rsa-sha2-512") + string(key.sign(data, padding.PKCS1v15(), hashes.SHA512()))
    _, digest = CURVES[public.key_type.removeprefix("ecdsa-sha2-")]
    r, s = decode_dss_signature(key.sign(data, ec.ECDSA(digest)))
    return string(public.key_type) + string(mpint(r) + mpint(s))
