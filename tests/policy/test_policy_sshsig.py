"""Signatures are OpenSSH's in both directions, and anything that is not exactly one is refused."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from stack.config.ssh_keys import PublicKey, UnusableKey, parse_public_key, public_key_from_blob
from stack.config.ssh_wire import Malformed, Reader, mpint, string, uint32
from stack.policy import statement
from stack.policy.signing import sign_with_file
from stack.policy.sshsig import MAGIC, BadSignature, armor, dearmor, seal, signed_data, verify
from tests.policy.keys import KINDS, NAMESPACE, SoftwareToken, make, openssh_accepts, public, run, sign

MESSAGE = b'{"request":"rq-1"}\n'
GOLDEN = Path(__file__).parent / "golden"
SECURITY_KEYS = ("sk-ed25519", "sk-ecdsa256")


def refused(armored: str, message: bytes = MESSAGE, namespace: str = NAMESPACE) -> str:
    """The reason why ``verify`` refuses; fails if it accepts."""
    with pytest.raises(BadSignature) as error:
        verify(armored, message, namespace)
    return error.value.message


def parts_of(armored: str) -> tuple[bytes, bytes]:
    """The key and the inner signature of a signature."""
    reader = Reader(dearmor(armored)[len(MAGIC) + 4 :])
    key = reader.string()
    for _ in range(3):
        reader.string()
    return key, reader.string()


@pytest.fixture(scope="module")
def ours(key_files: dict[str, Path], security_keys: dict[str, SoftwareToken]) -> dict[str, str]:
    """A signature of MESSAGE by every kind of key."""
    files = {kind: sign_with_file(path, MESSAGE, NAMESPACE, None) for kind, path in key_files.items()}
    return files | {kind: token.sign(MESSAGE) for kind, token in security_keys.items()}


# Both directions against OpenSSH


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hash_name", ["sha256", "sha512"])
def test_a_signature_by_ssh_keygen_is_accepted(key_files: dict[str, Path], kind: str, hash_name: str) -> None:
    key = verify(sign(key_files[kind], MESSAGE, hash_name=hash_name), MESSAGE, NAMESPACE)
    assert key == public(key_files[kind])
    assert key.fingerprint.encode() in run("ssh-keygen", "-l", "-f", key_files[kind]).stdout


@pytest.mark.parametrize("kind", KINDS)
def test_ssh_keygen_accepts_ours(key_files: dict[str, Path], ours: dict[str, str], kind: str, tmp_path: Path) -> None:
    key = public(key_files[kind])
    assert verify(ours[kind], MESSAGE, NAMESPACE) == key
    assert openssh_accepts(tmp_path, key, ours[kind], MESSAGE)
    assert not openssh_accepts(tmp_path, key, ours[kind], MESSAGE + b" ")
    assert not openssh_accepts(tmp_path, key, ours[kind], MESSAGE, "file")


@pytest.mark.parametrize("kind", SECURITY_KEYS)
def test_security_keys(security_keys: dict[str, SoftwareToken], kind: str, tmp_path: Path) -> None:
    token = security_keys[kind]
    assert verify(token.sign(MESSAGE), MESSAGE, NAMESPACE) == token.key
    assert openssh_accepts(tmp_path, token.key, token.sign(MESSAGE), MESSAGE)
    assert verify(token.sign(MESSAGE, flags=5), MESSAGE, NAMESPACE) == token.key


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa256", "ecdsa384", "ecdsa521", "rsa2048", *SECURITY_KEYS])
def test_signatures_made_once_hold_for_ever(kind: str) -> None:
    key = parse_public_key((GOLDEN / f"{kind}.pub").read_text())
    armored, message = (GOLDEN / f"{kind}.sig").read_text(), (GOLDEN / "message.txt").read_bytes()
    assert verify(armored, message, NAMESPACE) == key
    assert armor(dearmor(armored)) == armored
    refused(armored, message + b"\n")


def test_the_namespace_is_that_of_statements() -> None:
    assert statement.NAMESPACE == NAMESPACE


# What is refused


@pytest.mark.parametrize("namespace", ["file", "git", "approval@inference-stac", "Approval@inference-stack"])
def test_another_namespace_is_refused(key_files: dict[str, Path], namespace: str) -> None:
    armored = sign(key_files["ed25519"], MESSAGE, namespace)
    assert verify(armored, MESSAGE, namespace)
    assert namespace in refused(armored)


@pytest.mark.parametrize("kind", [*KINDS, *SECURITY_KEYS])
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_one_byte_changed_is_refused(ours: dict[str, str], kind: str, data: st.DataObject) -> None:
    armored, blob = ours[kind], dearmor(ours[kind])
    delta = data.draw(st.integers(1, 255))
    where = data.draw(st.sampled_from(["message", "blob", "armor"]))
    raw = bytearray({"message": MESSAGE, "blob": blob, "armor": armored.encode()}[where])
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= delta
    if where == "message":
        refused(armored, bytes(raw))
    else:
        refused(armor(bytes(raw)) if where == "blob" else raw.decode("latin-1"))


def test_every_byte_of_a_signature_counts(ours: dict[str, str]) -> None:
    blob = dearmor(ours["ed25519"])
    for at in range(len(blob)):
        for bit in range(8):
            changed = bytearray(blob)
            changed[at] ^= 1 << bit
            refused(armor(bytes(changed)))
        refused(armor(blob[:at]))


@settings(deadline=None, max_examples=300)
@given(armored=st.text(max_size=200), data=st.binary(max_size=300))
def test_rubbish_is_refused_with_a_reason(armored: str, data: bytes) -> None:
    refused(armored)
    refused(armor(data))
    refused(armor(MAGIC + uint32(1) + data))


@pytest.mark.parametrize(
    "changed",
    [
        lambda text: "\n" + text,
        lambda text: text + "\n",
        lambda text: " " + text,
        lambda text: text + text,
        lambda text: text + "x",
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("SSH", "SSH2"),
        lambda text: armor(dearmor(text), 64),
        lambda text: armor(dearmor(text), 1000),
        lambda text: text.replace("A", "\u0410", 1),
        lambda text: text.replace("-----BEGIN", "Version: 1\n-----BEGIN"),
        lambda text: text + "=" * 20_000,
        lambda text: "",
    ],
)
def test_the_armor_is_exact(ours: dict[str, str], changed) -> None:  # type: ignore[no-untyped-def]
    refused(changed(ours["ed25519"]))


def test_what_is_too_long_is_not_even_read(ours: dict[str, str]) -> None:
    assert "too long" in refused(ours["ed25519"] + "\n" * 20_000)
    assert "begin with" in refused(ours["ed25519"].replace("BEGIN", "BEGUN"))


def test_forms_of_armor_that_are_allowed(ours: dict[str, str]) -> None:
    text = ours["ed25519"]
    assert verify(text.removesuffix("\n"), MESSAGE, NAMESPACE) == verify(armor(dearmor(text), 76), MESSAGE, NAMESPACE)


def test_base64_has_one_spelling() -> None:
    text = armor(b"abcd")
    assert dearmor(text) == b"abcd"
    for other in ("YWJjZB==", "YWJjZA=", "YWJjZA", "YWJjZA===", "YWJj ZA=="):
        with pytest.raises(BadSignature):
            dearmor(text.replace("YWJjZA==", other))


def test_every_field_of_the_envelope_is_checked(ours: dict[str, str]) -> None:
    key, inner = parts_of(ours["ed25519"])
    space = NAMESPACE.encode()
    fields = {"key": key, "namespace": space, "reserved": b"", "hash": b"sha512", "signature": inner}

    def sealed(start: bytes = MAGIC + uint32(1), end: bytes = b"", **changed: bytes) -> str:
        return armor(start + b"".join(map(string, (fields | changed).values())) + end)

    assert sealed() == ours["ed25519"]
    assert "version 1" in refused(sealed(start=MAGIC + uint32(2)))
    assert "version 1" in refused(sealed(start=b"SSHSIH" + uint32(1)))
    assert "too many" in refused(sealed(end=b"\0"))
    assert "too many" in refused(sealed(signature=inner + b"\0"))
    assert "reserved" in refused(sealed(reserved=b"x"))
    assert "empty" in refused(sealed(namespace=b""), namespace="")
    assert "ASCII" in refused(sealed(namespace=space + b"\0"))
    for name in (b"sha1", b"md5", b"SHA512", b"sha384", b""):
        assert "hash" in refused(sealed(hash=name))
    refused(sealed(hash=b"sha256"))
    for algorithm in ("ssh-rsa", "rsa-sha2-512", "sk-ssh-ed25519@openssh.com", "ssh-ed25519-cert-v01@openssh.com", ""):
        raw = Reader(inner)
        raw.string()
        assert "signs with ssh-ed25519" in refused(sealed(signature=string(algorithm) + raw.rest()))


def test_a_key_can_not_stand_in_for_another(ours: dict[str, str], key_files: dict[str, Path]) -> None:
    _, inner = parts_of(ours["ed25519"])
    for kind in KINDS:
        if kind != "ed25519":
            refused(seal(public(key_files[kind]).blob, NAMESPACE, "sha512", inner))


@pytest.mark.parametrize(("algorithm", "digest"), [("ssh-rsa", hashes.SHA1()), ("rsa-sha2-224", hashes.SHA224())])
def test_rsa_signs_with_sha2_only(algorithm: str, digest: hashes.HashAlgorithm) -> None:
    secret = rsa.generate_private_key(65537, 2048)
    numbers = secret.public_key().public_numbers()
    blob = string("ssh-rsa") + mpint(numbers.e) + mpint(numbers.n)
    data = signed_data(MESSAGE, NAMESPACE, "sha512")

    def sealed(name: str, kind: hashes.HashAlgorithm) -> str:
        raw = secret.sign(data, padding.PKCS1v15(), kind)
        return seal(blob, NAMESPACE, "sha512", string(name) + string(raw))

    assert verify(sealed("rsa-sha2-256", hashes.SHA256()), MESSAGE, NAMESPACE)
    assert "rsa-sha2-256 or rsa-sha2-512" in refused(sealed(algorithm, digest))
    refused(sealed("rsa-sha2-512", hashes.SHA256()))
    refused(sealed("rsa-sha2-256", hashes.SHA1()))


def test_an_rsa_signature_has_the_length_of_its_modulus(ours: dict[str, str]) -> None:
    key, inner = parts_of(ours["rsa2048"])
    reader = Reader(inner)
    name, raw = reader.string(), reader.string()
    for other in (b"\0" + raw, raw[1:], raw + b"\0", b""):
        refused(seal(key, NAMESPACE, "sha512", string(name) + string(other)))


def test_an_ecdsa_signature_is_two_numbers(ours: dict[str, str]) -> None:
    key, inner = parts_of(ours["ecdsa256"])
    reader = Reader(inner)
    name, raw = reader.string(), reader.string()
    assert seal(key, NAMESPACE, "sha512", string(name) + string(raw)) == ours["ecdsa256"]
    for other in (raw + b"\0", raw[:-1], mpint(0) + mpint(0), mpint(1) + mpint(0), b""):
        refused(seal(key, NAMESPACE, "sha512", string(name) + string(other)))


def test_short_rsa_keys_are_refused(tmp_path: Path) -> None:
    path = make(tmp_path / "short", "-t", "rsa", "-b", "1024")
    assert "1024" in refused(sign(path, MESSAGE))
    with pytest.raises(UnusableKey, match="2048"):
        public(path)


def test_certificates_are_refused(key_files: dict[str, Path], ours: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "user.pub").write_text(public(key_files["ed25519"]).line + "\n")
    done = run("ssh-keygen", "-q", "-s", key_files["rsa2048"], "-I", "anna", "-n", "anna", tmp_path / "user.pub")
    assert done.returncode == 0, done.stderr
    line = (tmp_path / "user-cert.pub").read_text()
    with pytest.raises(UnusableKey, match="certificate"):
        parse_public_key(line)
    certificate = base64.b64decode(line.split()[1])
    _, inner = parts_of(ours["ed25519"])
    assert "certificate" in refused(seal(certificate, NAMESPACE, "sha512", inner))


@pytest.mark.parametrize("kind", SECURITY_KEYS)
def test_a_security_key_must_be_touched(security_keys: dict[str, SoftwareToken], kind: str) -> None:
    token = security_keys[kind]
    for flags in (0, 2, 4, 254):
        assert "touched" in refused(token.sign(MESSAGE, flags=flags))
    data = signed_data(MESSAGE, NAMESPACE, "sha512")
    inner = token.raw_sign(data)
    refused(seal(token.key.blob, NAMESPACE, "sha512", inner[:-5]))
    refused(seal(token.key.blob, NAMESPACE, "sha512", inner[:-1] + b"\x08"))
    refused(seal(token.key.blob, NAMESPACE, "sha512", token.raw_sign(data, application=b"ssh:other")))


# Keys


def test_a_key_is_read_from_its_line(key_files: dict[str, Path]) -> None:
    text = key_files["ed25519"].with_name("ed25519.pub").read_text()
    key = parse_public_key(text)
    assert (key.key_type, key.comment) == ("ssh-ed25519", "ed25519@test")
    assert text == f"{key.line} {key.comment}\n"
    assert parse_public_key(key.line) == key == parse_public_key(key.line.replace(" ", "\t") + " what it is for")


ED = base64.b64encode(string("ssh-ed25519") + string(bytes([9]) * 32)).decode()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("", "its type"),
        ("ssh-ed25519", "its type"),
        (ED, "its type"),
        (f"ssh-rsa {ED}", "base64 says"),
        (f"ssh-dss {ED}", "DSA"),
        (f"ssh-ed25519-cert-v01@openssh.com {ED}", "certificate"),
        (f"no-pty ssh-ed25519 {ED}", "not a key type"),
        (f"ssh-ed25519 {ED}\nssh-ed25519 {ED}", "one line"),
        (f"ssh-ed25519 {ED} a\x1b[31m", "control"),
        (f"ssh-ed25519 {ED}\0", "control"),
        (f"ssh-ed25519 {ED[:-1]}", "base64"),
        (f"ssh-ed25519 {ED}====", "base64"),
        (f"ssh-ed25519 {ED} " + "x" * 20_000, "too long"),
    ],
)
def test_lines_that_are_no_key(line: str, reason: str) -> None:
    assert parse_public_key(f"ssh-ed25519 {ED}")
    with pytest.raises(UnusableKey, match=reason):
        parse_public_key(line)


PRIME = 2**255 - 19
ORDER_EIGHT = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826


@pytest.mark.parametrize("y", [0, 1, PRIME - 1, ORDER_EIGHT, PRIME - ORDER_EIGHT, PRIME, PRIME + 1])
@pytest.mark.parametrize("sign_bit", [0, 1])
def test_keys_that_sign_for_everybody_are_refused(y: int, sign_bit: int) -> None:
    raw = (y | sign_bit << 255).to_bytes(32, "little")
    with pytest.raises(UnusableKey, match=r"order|canonical"):
        public_key_from_blob(string("ssh-ed25519") + string(raw))


def test_the_point_of_order_eight_is_one() -> None:
    d = -121665 * pow(121666, -1, PRIME) % PRIME
    x2 = (ORDER_EIGHT**2 - 1) * pow(d * ORDER_EIGHT**2 + 1, -1, PRIME) % PRIME
    doubled_y = (ORDER_EIGHT**2 + x2) * pow(1 - d * x2 * ORDER_EIGHT**2, -1, PRIME) % PRIME
    assert doubled_y == 0, "twice the point has order 4, whose y is 0"


BLOBS = {
    "exponent one": string("ssh-rsa") + mpint(1) + mpint(2**2047 + 1),
    "even exponent": string("ssh-rsa") + mpint(65536) + mpint(2**2047 + 1),
    "huge exponent": string("ssh-rsa") + mpint(2**64 + 1) + mpint(2**2047 + 1),
    "even modulus": string("ssh-rsa") + mpint(65537) + mpint(2**2047),
    "huge modulus": string("ssh-rsa") + mpint(65537) + mpint(2**16384 + 1),
    "long mpint": string("ssh-rsa") + string(b"\0\1\0\1") + mpint(2**2047 + 1),
    "negative modulus": string("ssh-rsa") + mpint(65537) + string(b"\xff" * 256),
    "other curve": string("ecdsa-sha2-nistp256") + string("nistp384") + string(b"\4" + b"1" * 96),
    "compressed point": string("ecdsa-sha2-nistp256") + string("nistp256") + string(b"\2" + b"1" * 32),
    "hybrid point": string("ecdsa-sha2-nistp256") + string("nistp256") + string(b"\6" + b"1" * 64),
    "long application": string("sk-ssh-ed25519@openssh.com") + string(b"9" * 32) + string("ssh:" + "x" * 17_000),
    "short point": string("ecdsa-sha2-nistp256") + string("nistp256") + string(b"\4" + b"1" * 63),
    "trailing byte": string("ssh-ed25519") + string(b"9" * 32) + b"\0",
    "short key": string("ssh-ed25519") + string(b"9" * 31),
    "web key": string("sk-ssh-ed25519@openssh.com") + string(b"9" * 32) + string("example.com"),
    "nothing": b"",
}


@pytest.mark.parametrize("blob", BLOBS.values(), ids=BLOBS.keys())
def test_unsound_keys_are_refused(blob: bytes) -> None:
    with pytest.raises(UnusableKey):
        public_key_from_blob(blob)


def test_a_point_off_its_curve_signs_nothing(ours: dict[str, str]) -> None:
    off = string("ecdsa-sha2-nistp256") + string("nistp256") + string(b"\4" + b"1" * 64)
    _, inner = parts_of(ours["ecdsa256"])
    assert "unsound" in refused(seal(off, NAMESPACE, "sha512", inner))


@given(data=st.binary(max_size=400), text=st.text(max_size=200), kind=st.sampled_from(["ssh-rsa", "ssh-ed25519"]))
def test_key_parsers_raise_their_error_only(data: bytes, text: str, kind: str) -> None:
    for attempt in (data, string(kind) + data):
        try:
            key = public_key_from_blob(attempt)
        except UnusableKey:
            continue
        assert key.blob == attempt
    for line in (text, f"{kind} {text}"):
        with pytest.raises(UnusableKey):
            parse_public_key(line)


def test_two_dresses_of_one_key_are_told(security_keys: dict[str, SoftwareToken]) -> None:
    dressed = security_keys["sk-ed25519"].key
    plain = public_key_from_blob(string("ssh-ed25519") + string(dressed.material))
    assert isinstance(plain, PublicKey)
    assert plain != dressed
    assert plain.material == dressed.material


# The wire form

FIELDS = st.one_of(st.binary(max_size=40), st.integers(0, 2**600), st.text("abc@-", max_size=20))


@given(fields=st.lists(FIELDS, max_size=8))
def test_what_is_written_is_read_back(fields: list[bytes | int | str]) -> None:
    written = b"".join(mpint(f) if isinstance(f, int) else string(f) for f in fields)
    reader = Reader(written)
    for one in fields:
        read = reader.mpint() if isinstance(one, int) else reader.text() if isinstance(one, str) else reader.string()
        assert read == one
    assert reader.empty
    reader.end()


@given(data=st.binary(max_size=80), how=st.sampled_from(["string", "text", "mpint", "uint32", "byte"]))
def test_what_is_read_has_one_spelling(data: bytes, how: str) -> None:
    reader = Reader(data)
    try:
        value = getattr(reader, how)()
        reader.end()
    except Malformed:
        return
    write = {"string": string, "text": string, "mpint": mpint, "uint32": uint32, "byte": lambda one: bytes([one])}
    assert write[how](value) == data


@pytest.mark.parametrize(
    "raw", [b"\0", b"\0\0", b"\0\1", b"\x80", b"\xff\xff", b"\0\x7f"], ids=lambda raw: str(raw.hex())
)
def test_numbers_have_one_spelling(raw: bytes) -> None:
    with pytest.raises(Malformed):
        Reader(string(raw)).mpint()
