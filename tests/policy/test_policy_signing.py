"""Signing with a key file: refuses what ssh would refuse, and says what to do instead."""

from __future__ import annotations

import os
from pathlib import Path

import cryptography.hazmat.primitives.serialization.ssh as openssh_form
import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from stack.config.ssh_wire import string, uint32
from stack.core.errors import InvalidInput
from stack.policy import signing
from stack.policy.signing import CannotSign, WrongPassphrase, sign_with_file
from stack.policy.sshsig import BadSignature, armor, verify
from tests.policy.keys import NAMESPACE, SoftwareToken, make, public, run

MESSAGE = b"statement\n"
PASSPHRASE = "correct horse"
ENCRYPTED = {
    "openssh": ("-t", "ed25519", "-a", "4"),
    "pem": ("-t", "rsa", "-b", "2048", "-m", "PEM"),
    "pkcs8": ("-t", "ecdsa", "-b", "256", "-m", "PKCS8"),
}


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("encrypted")
    return {form: make(folder / form, *options, passphrase=PASSPHRASE) for form, options in ENCRYPTED.items()}


def nobody() -> str:
    raise AssertionError("the passphrase was asked for")


def failure(path: Path, passphrase: str | None = None) -> CannotSign:
    ask = None if passphrase is None else lambda: passphrase
    with pytest.raises(CannotSign) as error:
        sign_with_file(path, MESSAGE, NAMESPACE, ask)
    return error.value


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("form", ENCRYPTED)
def test_an_encrypted_key_needs_its_passphrase(encrypted: dict[str, Path], form: str) -> None:
    path = encrypted[form]
    armored = sign_with_file(path, MESSAGE, NAMESPACE, lambda: PASSPHRASE)
    assert verify(armored, MESSAGE, NAMESPACE) == public(path)
    for wrong in ("", "wrong", PASSPHRASE + " ", "\udc80"):
        assert isinstance(failure(path, wrong), WrongPassphrase)
    assert "nobody to ask" in failure(path).message


def test_a_plain_key_asks_for_none(key_files: dict[str, Path]) -> None:
    for path in key_files.values():
        assert verify(sign_with_file(path, MESSAGE, NAMESPACE, nobody), MESSAGE, NAMESPACE) == public(path)


def test_encryption_that_can_not_be_read_leads_to_the_agent(
    encrypted: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> bytes:
        raise openssh_form.UnsupportedAlgorithm("Need bcrypt module")

    monkeypatch.setattr(openssh_form, "_bcrypt_kdf", missing)
    error = failure(encrypted["openssh"], PASSPHRASE)
    assert "ssh-add" in error.advice
    assert f"ssh-keygen -Y sign -f {encrypted['openssh']} -n {NAMESPACE} " in error.advice


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o610, 0o777])
def test_a_key_that_others_may_read_is_refused(key_files: dict[str, Path], tmp_path: Path, mode: int) -> None:
    path = written(tmp_path / "key", key_files["ed25519"].read_bytes())
    path.chmod(mode)
    error = failure(path)
    assert "others may read it" in error.message
    assert "chmod 600" in error.advice
    path.chmod(0o400)
    assert sign_with_file(path, MESSAGE, NAMESPACE, None)


def test_a_security_key_is_told_what_to_run(security_keys: dict[str, SoftwareToken], tmp_path: Path) -> None:
    for number, token in enumerate(security_keys.values()):
        head = b"openssh-key-v1\0" + string("none") + string("none") + string("") + uint32(1)
        body = armor(head + string(token.key.blob) + string(b"x" * 64)).replace("SSH SIGNATURE", "OPENSSH PRIVATE KEY")
        error = failure(written(tmp_path / f"my key {number}", body.encode()))
        assert "security key" in error.message
        assert f"ssh-keygen -Y sign -f '{tmp_path}/my key {number}' -n {NAMESPACE} " in error.advice
        assert "ssh-agent" in error.advice


def test_files_that_are_no_key(key_files: dict[str, Path], tmp_path: Path) -> None:
    assert "No such file" in failure(tmp_path / "missing").message
    assert "directory" in failure(tmp_path).message
    assert "no private key" in failure(written(tmp_path / "text", b"hello\n")).message
    assert "no private key" in failure(written(tmp_path / "empty", b"")).message
    assert "too long" in failure(written(tmp_path / "long", b"x" * 100_000)).message
    half = key_files["ed25519"].with_name("ed25519.pub").read_bytes()
    assert "public half" in failure(written(tmp_path / "half", half)).message
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert "not a file" in failure(tmp_path / "pipe").message


def test_kinds_of_keys_that_may_not_sign(tmp_path: Path) -> None:
    assert "2048" in failure(make(tmp_path / "short", "-t", "rsa", "-b", "1024")).message
    for number, key in enumerate((dsa.generate_private_key(1024), ec.generate_private_key(ec.SECP256K1()))):
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        assert failure(written(tmp_path / f"other{number}", pem)).message


@settings(deadline=None, max_examples=100)
@given(at=st.integers(0, 10_000), with_=st.binary(max_size=8))
def test_a_damaged_file_gives_an_error_or_the_same_key(key_files: dict[str, Path], at: int, with_: bytes) -> None:
    data = bytearray(key_files["ed25519"].read_bytes())
    at %= len(data)
    data[at : at + len(with_)] = with_
    path = written(key_files["ed25519"].with_name("damaged"), bytes(data))
    try:
        armored = sign_with_file(path, MESSAGE, NAMESPACE, None)
    except InvalidInput:
        return
    assert verify(armored, MESSAGE, NAMESPACE)


def test_a_signature_that_came_out_wrong_is_not_given_out(
    key_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signing, "_signature", lambda key, public, data: string("ssh-ed25519") + string(bytes(64)))
    with pytest.raises(BadSignature):
        sign_with_file(key_files["ed25519"], MESSAGE, NAMESPACE, None)


def test_ssh_keygen_refuses_the_same_mode(key_files: dict[str, Path], tmp_path: Path) -> None:
    """The rule is OpenSSH's own."""
    path = written(tmp_path / "key", key_files["ed25519"].read_bytes())
    path.chmod(0o640)
    done = run("ssh-keygen", "-Y", "sign", "-f", path, "-n", NAMESPACE, given=MESSAGE)
    assert done.returncode != 0
    assert b"UNPROTECTED" in done.stderr
