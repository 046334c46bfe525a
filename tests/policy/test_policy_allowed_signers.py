"""``allowed_signers``: what is accepted means the same to ssh-keygen; the rest is a mistake with its line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stack.config.allowed_signers import APPROVALS, parse_allowed_signers
from stack.config.policy_values import Signer
from stack.config.ssh_wire import string
from stack.policy import statement
from tests.policy.keys import SoftwareToken, public, run, sign

MESSAGE = b"statement\n"
OPTION = f'namespaces="{APPROVALS}"'


@pytest.fixture(scope="module")
def line_key(key_files: dict[str, Path]) -> str:
    return public(key_files["ed25519"]).line


@pytest.fixture(scope="module")
def signature(key_files: dict[str, Path]) -> str:
    return sign(key_files["ed25519"], MESSAGE)


def one(text: str) -> Signer:
    """The only signer of a file without mistakes."""
    signers, mistakes = parse_allowed_signers(text.encode())
    assert mistakes == ()
    ((_, signer),) = signers
    return signer


def mistake(text: str) -> str:
    """The only mistake, on the only line."""
    signers, mistakes = parse_allowed_signers(text.encode())
    assert signers == ()
    (problem,) = mistakes
    assert problem.line == 1
    return problem.problem


def openssh_accepts(folder: Path, text: str, armored: str, person: str, when: datetime | None = None) -> bool:
    (folder / "allowed").write_text(text)
    (folder / "signature").write_text(armored)
    moment = () if when is None else ("-O", f"verify-time={when:%Y%m%d%H%M%S}Z")
    verify = ("ssh-keygen", "-Y", "verify", "-I", person, "-n", APPROVALS, *moment)
    return run(*verify, "-f", folder / "allowed", "-s", folder / "signature", given=MESSAGE).returncode == 0


def test_the_namespace_is_that_of_statements() -> None:
    assert statement.NAMESPACE == APPROVALS


def test_a_file_with_all_its_parts(key_files: dict[str, Path], security_keys: dict[str, SoftwareToken]) -> None:
    keys = [public(key_files["ed25519"]), public(key_files["rsa2048"]), security_keys["sk-ecdsa256"].key]
    text = (
        "# who may approve\n\n"
        f"anna {keys[0].line} anna's laptop\n"
        f'  ben@example.com\t{OPTION},valid-after="20260102Z",valid-before="202703041506Z"  {keys[1].line}\r\n'
        f"\t# later\n"
        f'"eve" VALID-BEFORE="20270304150607Z" {keys[2].line}'
    )
    signers, mistakes = parse_allowed_signers(text.encode())
    assert mistakes == ()
    assert [(line, signer.person) for line, signer in signers] == [(3, "anna"), (4, "ben@example.com"), (6, "eve")]
    assert [(s.key_type, s.blob, s.fingerprint) for _, s in signers] == [
        (key.key_type, key.blob, key.fingerprint) for key in keys
    ]
    assert [signer.comment for _, signer in signers] == ["anna's laptop", "", ""]
    assert [(signer.valid_after, signer.valid_before) for _, signer in signers] == [
        (None, None),
        (datetime(2026, 1, 2, tzinfo=UTC), datetime(2027, 3, 4, 15, 6, tzinfo=UTC)),
        (None, datetime(2027, 3, 4, 15, 6, 7, tzinfo=UTC)),
    ]


def test_a_file_of_comments_names_nobody() -> None:
    assert parse_allowed_signers(b"") == ((), ())
    assert parse_allowed_signers(b"# anna ssh-ed25519 AAAA\n\n \t\r\n#\xff\n") == ((), ())


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        ("*", "pattern"),
        ("ann?", "pattern"),
        ("!anna", "pattern"),
        ('"*"', "pattern"),
        ("anna,ben", "one person"),
        ("anna,!ben", "one person"),
        ('"anna ben"', "no name"),
        ('""', "no name"),
        ("ann\u0430", "no name"),
        ("anna/../ben", "no name"),
        ("a" * 101, "no name"),
        ("anna cert-authority", "cert-authority is not supported"),
        ("anna CERT-AUTHORITY", "cert-authority is not supported"),
        (f"anna {OPTION},cert-authority", "cert-authority is not supported"),
        (f"anna cert-authority,{OPTION}", "cert-authority is not supported"),
        ('anna namespaces="git"', "leaves approval@inference-stack out"),
        ('anna namespaces=""', "leaves"),
        ('anna namespaces="*"', "pattern"),
        (f'anna namespaces="{APPROVALS},!git"', "pattern"),
        (f'anna namespaces="git, {APPROVALS}"', "leaves"),
        (f"anna namespaces={APPROVALS}", "is no option"),
        (f"anna {OPTION},{OPTION}", "twice"),
        (f"anna {OPTION},", "is no option"),
        (f"anna ,{OPTION}", "unknown here"),
        (f"anna {OPTION};", "is no option"),
        (f'anna {OPTION},namespaces="git', "quote is not closed"),
        ('anna namespaces="a\\b"', "is no option"),
        ("anna no-touch-required", "not a key type"),
        ('anna from="10.0.0.1"', "unknown here"),
        (f'anna {OPTION},from="10.0.0.1"', "unknown here"),
        ('anna valid-before="20270101"', "write 20270101Z"),
        ('anna valid-after="202701011200"', "write 202701011200Z"),
        ('anna valid-before="20271301Z"', "does not exist"),
        ('anna valid-before="20270229Z"', "does not exist"),
        ('anna valid-before="2027-01-01Z"', "is no time"),
        ('anna valid-before="2027010112Z"', "is no time"),
        ('anna valid-before="٢٠٢٧٠١٠١Z"', "is no time|is no option"),
        ('anna valid-before="forever"', "is no time"),
        ('anna valid-before=""', "is no time"),
        ('anna valid-after="20270101Z",valid-before="20270101Z"', "not later"),
        ('anna valid-after="20270102Z",valid-before="20270101Z"', "not later"),
        ("anna ssh-rsa", "base64|says"),
        ("anna x\x1b[2J", "control"),
        ("anna x\0", "control"),
        ("\ufeffanna", "control"),
    ],
)
def test_a_mistake_is_told_with_its_line(start: str, reason: str, line_key: str) -> None:
    assert one(f"anna {line_key}")
    said = mistake(f"{start} {line_key}")
    assert any(part in said for part in reason.split("|")), said


@pytest.mark.parametrize(
    "text", ["anna", "anna ", f"anna {OPTION}", f"anna {OPTION} ", "anna ssh-ed25519", "anna ssh-ed25519 AAAA"]
)
def test_a_line_without_its_key_is_a_mistake(text: str) -> None:
    assert mistake(text)


def test_every_mistake_is_told_at_once(line_key: str) -> None:
    text = f"*  {line_key}\n# fine\nanna {line_key}\nben ssh-dss AAAA\n\n\udcff\n".encode("utf-8", "surrogateescape")
    signers, mistakes = parse_allowed_signers(text)
    assert [line for line, _ in signers] == [3]
    assert [problem.line for problem in mistakes] == [1, 4, 6]


def test_files_and_lines_have_limits(line_key: str) -> None:
    assert "too long" in mistake(f"anna {line_key} {'x' * 20_000}")
    assert "longer than" in mistake("#" * 300_000)


def test_a_key_stands_on_one_line(line_key: str, security_keys: dict[str, SoftwareToken]) -> None:
    signers, mistakes = parse_allowed_signers(f"anna {line_key}\nben {line_key} other\n".encode())
    assert [(line, signer.person) for line, signer in signers] == [(1, "anna")]
    assert [(problem.line, "line 1" in problem.problem) for problem in mistakes] == [(2, True)]


def test_a_key_in_another_dress_is_the_same_key(security_keys: dict[str, SoftwareToken]) -> None:
    key = security_keys["sk-ed25519"].key
    other = SoftwareToken(secret=security_keys["sk-ed25519"].secret, application=b"ssh:other").key
    assert other.blob != key.blob
    assert string(other.material) in key.blob
    _, mistakes = parse_allowed_signers(f"anna {key.line}\nben {other.line}\n".encode())
    assert [problem.line for problem in mistakes] == [2]


# The same to ssh-keygen


@pytest.mark.parametrize(
    "options",
    [
        "",
        OPTION,
        f'namespaces="git,{APPROVALS}"',
        f'{OPTION},valid-after="20200101Z",valid-before="29990101Z"',
        'Valid-Before="299901010000Z"',
    ],
)
@pytest.mark.parametrize("name", ["anna", '"anna"'])
def test_what_is_accepted_is_accepted_by_openssh(
    options: str, name: str, line_key: str, signature: str, tmp_path: Path
) -> None:
    text = f"{name} {options} {line_key} a comment\n"
    assert one(text).person == "anna"
    assert openssh_accepts(tmp_path, text, signature, "anna")
    assert not openssh_accepts(tmp_path, text, signature, "ben")


@pytest.mark.parametrize("form", ["20270102Z", "202701020304Z", "20270102030405Z"])
def test_times_mean_the_same(form: str, line_key: str, signature: str, tmp_path: Path) -> None:
    """Both ends are inside: a key counts at ``valid_after`` and still at ``valid_before``."""
    second = timedelta(seconds=1)
    before, after = f'anna valid-before="{form}" {line_key}\n', f'anna valid-after="{form}" {line_key}\n'
    end, start = one(before).valid_before, one(after).valid_after
    assert end is not None
    assert start is not None
    assert openssh_accepts(tmp_path, before, signature, "anna", end)
    assert not openssh_accepts(tmp_path, before, signature, "anna", end + second)
    assert openssh_accepts(tmp_path, after, signature, "anna", start)
    assert not openssh_accepts(tmp_path, after, signature, "anna", start - second)


PIECES = st.sampled_from(
    [
        "anna",
        '"',
        " ",
        ",",
        "=",
        "\t",
        "ben",
        "*",
        "!",
        OPTION,
        "namespaces",
        'valid-before="29990101Z"',
        "#",
        "KEY",
        "x",
    ]
)


@settings(deadline=None, max_examples=300)
@given(pieces=st.lists(PIECES, max_size=7))
def test_whatever_names_a_key_names_it_to_openssh(
    pieces: list[str], line_key: str, signature: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = "".join(pieces).replace("KEY", line_key) + " " + line_key + "\n"
    signers, mistakes = parse_allowed_signers(text.encode())
    assert len(signers) + len(mistakes) == (0 if text.lstrip().startswith("#") else 1)
    for _, signer in signers:
        assert openssh_accepts(tmp_path_factory.getbasetemp(), text, signature, signer.person)


@settings(deadline=None, max_examples=300)
@given(data=st.binary(max_size=300), text=st.text(max_size=200))
def test_rubbish_names_nobody(data: bytes, text: str) -> None:
    for attempt in (data, b"anna " + data, text.encode("utf-8", "surrogatepass"), f"anna {OPTION} {text}".encode()):
        signers, _ = parse_allowed_signers(attempt)
        assert signers == ()
