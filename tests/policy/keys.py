"""Keys for the tests of signatures: real ones from ``ssh-keygen``, and security keys made up in software.

A software security key does what a FIDO token and OpenSSH do together (PROTOCOL.u2f), so the form can be tested
without hardware; plain ``ssh-keygen -Y verify`` accepts what it signs.
"""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from stack.config.ssh_keys import PublicKey, parse_public_key, public_key_from_blob
from stack.config.ssh_wire import mpint, string, uint32
from stack.policy.sshsig import seal, signed_data

NAMESPACE = "approval@inference-stack"
KINDS = {
    "ed25519": ("-t", "ed25519"),
    "ecdsa256": ("-t", "ecdsa", "-b", "256"),
    "ecdsa384": ("-t", "ecdsa", "-b", "384"),
    "ecdsa521": ("-t", "ecdsa", "-b", "521"),
    "rsa2048": ("-t", "rsa", "-b", "2048"),
    "rsa3072": ("-t", "rsa", "-b", "3072"),
}
"""Every kind of key that OpenSSH makes without hardware and that may sign approvals."""


def run(*argv: str | Path, given: bytes = b"", env: dict[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    """Runs an OpenSSH tool; the caller looks at its exit code."""
    return subprocess.run([str(word) for word in argv], input=given, capture_output=True, timeout=60, env=env)


def make(path: Path, *options: str, passphrase: str = "") -> Path:
    """A private key file from ``ssh-keygen`` (its public half lies beside it)."""
    done = run("ssh-keygen", "-q", *options, "-N", passphrase, "-C", f"{path.name}@test", "-f", path)
    assert done.returncode == 0, done.stderr
    return path


def public(path: Path) -> PublicKey:
    """The public half that ``ssh-keygen`` wrote."""
    return parse_public_key(path.with_name(path.name + ".pub").read_text())


def sign(path: Path, message: bytes, namespace: str = NAMESPACE, hash_name: str = "sha512") -> str:
    """The signature by ``ssh-keygen -Y sign``."""
    done = run("ssh-keygen", "-Y", "sign", "-f", path, "-n", namespace, "-O", f"hashalg={hash_name}", given=message)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def openssh_accepts(folder: Path, key: PublicKey, armored: str, message: bytes, namespace: str = NAMESPACE) -> bool:
    """Whether ``ssh-keygen -Y verify`` takes the signature as that of ``anna``, whose key this is."""
    (folder / "allowed").write_text(f'anna namespaces="{namespace}" {key.line}\n')
    (folder / "signature").write_text(armored)
    verify = ("ssh-keygen", "-Y", "verify", "-I", "anna", "-n", namespace)
    return run(*verify, "-f", folder / "allowed", "-s", folder / "signature", given=message).returncode == 0


@dataclass(frozen=True, kw_only=True)
class SoftwareToken:
    """A security key without the hardware."""

    secret: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey
    application: bytes = b"ssh:"

    @property
    def key(self) -> PublicKey:
        """Its public key."""
        half = self.secret.public_key()
        if isinstance(half, ed25519.Ed25519PublicKey):
            fields = [b"sk-ssh-ed25519@openssh.com", half.public_bytes(Encoding.Raw, PublicFormat.Raw)]
        else:
            point = half.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
            fields = [b"sk-ecdsa-sha2-nistp256@openssh.com", b"nistp256", point]
        return public_key_from_blob(b"".join(map(string, [*fields, self.application])))

    def raw_sign(self, data: bytes, *, flags: int = 1, counter: int = 7, application: bytes | None = None) -> bytes:
        """The inner signature of ``data``, as an agent gives it."""
        tail = bytes([flags]) + uint32(counter)
        name = self.application if application is None else application
        asked = hashlib.sha256(name).digest() + tail + hashlib.sha256(data).digest()
        if isinstance(self.secret, ed25519.Ed25519PrivateKey):
            raw = self.secret.sign(asked)
        else:
            r, s = decode_dss_signature(self.secret.sign(asked, ec.ECDSA(hashes.SHA256())))
            raw = mpint(r) + mpint(s)
        return string(self.key.key_type) + string(raw) + tail

    def sign(self, message: bytes, *, namespace: str = NAMESPACE, flags: int = 1) -> str:
        """The armored signature of ``message``."""
        inner = self.raw_sign(signed_data(message, namespace, "sha512"), flags=flags)
        return seal(self.key.blob, namespace, "sha512", inner)


def tokens() -> dict[str, SoftwareToken]:
    """One of each type of security key."""
    return {
        "sk-ed25519": SoftwareToken(secret=ed25519.Ed25519PrivateKey.generate()),
        "sk-ecdsa256": SoftwareToken(secret=ec.generate_private_key(ec.SECP256R1()), application=b"ssh:approvals"),
    }
