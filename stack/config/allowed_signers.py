"""``policies/allowed_signers``: whose keys count, in the form of ssh-keygen(1), ALLOWED SIGNERS. Pure.

    anna namespaces="approval@inference-stack",valid-before="20270101Z" ssh-ed25519 AAAA... laptop

A part of OpenSSH's form, so that ``ssh-keygen -Y verify -f`` reads the same file and reads nothing else into it: one
exact name on a line (no patterns, no lists), no certificate authorities, times in UTC, each key on one line only.
Whatever is outside that part is a mistake with its line, never a line that is passed over. Whether a name is
somebody's in ``people.yaml`` is left to ``policies``; ``valid_before`` is the last moment at which a key counts.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from stack.config.policy_values import Signer
from stack.config.ssh_keys import LONGEST_LINE, PublicKey, UnusableKey, parse_public_key
from stack.core.errors import InvalidInput
from stack.core.strict_yaml import Problem

APPROVALS = "approval@inference-stack"
"""The namespace of an approval's signature (``stack.policy.statement.NAMESPACE``)."""
LONGEST_FILE = 256 * 1024
OPTIONS = ("namespaces", "valid-after", "valid-before")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}\Z", re.ASCII)
_OPTION = re.compile(r'([A-Za-z-]+)="([^"\\]*)"(,(?=.)|\Z)', re.ASCII)
_TIME = re.compile(r"(\d{4})(\d\d)(\d\d)(?:(\d\d)(\d\d)(\d\d)?)?(Z?)\Z", re.ASCII)


class _Mistake(InvalidInput):
    """{detail}"""


def parse_allowed_signers(
    data: bytes, namespace: str = APPROVALS
) -> tuple[tuple[tuple[int, Signer], ...], tuple[Problem, ...]]:
    """The signers with their lines (from 1), and every mistake with its line. With a mistake, trust none of it."""
    if len(data) > LONGEST_FILE:
        return (), (Problem(line=1, path="", problem=f"the file is longer than {LONGEST_FILE} bytes"),)
    signers: list[tuple[int, Signer]] = []
    mistakes: list[Problem] = []
    seen: dict[bytes, int] = {}
    for number, raw in enumerate(data.split(b"\n"), start=1):
        try:
            found = _line(raw, namespace)
            if found is None:
                continue
            signer, key = found
            if (first := seen.setdefault(key.material, number)) != number:
                raise _Mistake(f"this key stands on line {first} already; a key belongs to one person, on one line")
        except (_Mistake, UnusableKey) as wrong:
            mistakes.append(Problem(line=number, path="", problem=wrong.message))
        else:
            signers.append((number, signer))
    return tuple(signers), tuple(mistakes)


def _line(raw: bytes, namespace: str) -> tuple[Signer, PublicKey] | None:
    """What one line says; None for an empty one or a comment."""
    stripped = raw.strip(b" \t\r")
    if not stripped or stripped.startswith(b"#"):
        return None
    if len(stripped) > LONGEST_LINE:
        raise _Mistake("the line is too long")
    try:
        text = stripped.decode("utf-8").replace("\t", " ")
    except UnicodeDecodeError as wrong:
        raise _Mistake("the line is not UTF-8") from wrong
    if not text.isprintable():
        raise _Mistake("the line holds control characters")
    name, _, rest = text.partition(" ")
    person = _person(name)
    options, key_text = _split_options(rest.lstrip(" "))
    limits = _options(options, namespace)
    key = parse_public_key(key_text)
    signer = Signer(
        person=person,
        key_type=key.key_type,
        blob=key.blob,
        fingerprint=key.fingerprint,
        comment=key.comment,
        valid_after=limits.get("valid-after"),
        valid_before=limits.get("valid-before"),
    )
    return signer, key


def _person(name: str) -> str:
    bare = name[1:-1] if len(name) > 2 and name[0] == name[-1] == '"' else name
    if "," in bare:
        raise _Mistake("a line is for one person: write a line for each name instead of a list")
    if any(sign in bare for sign in "*?!"):
        raise _Mistake(f"{bare[:60]!r} is a pattern; write the person's exact name")
    if not _NAME.match(bare):
        raise _Mistake(f"{bare[:60]!r} is no name: use letters, digits, '.', '_', '@', '+' and '-'")
    return bare


def _split_options(rest: str) -> tuple[str, str]:
    """The options (which may hold spaces within quotes) and what follows; no options where a key type stands first."""
    word = re.match(r"[A-Za-z-]+(?=[=, ]|\Z)", rest)
    known = word is not None and word[0].lower() in (*OPTIONS, "cert-authority")
    if not known:
        first = rest.split(" ", 1)[0]
        if "=" in first or "," in first:
            raise _Mistake(f"{first[:60]!r} holds an option unknown here; known are {', '.join(OPTIONS)}")
        return "", rest
    quoted = False
    for at, sign in enumerate(rest):
        quoted ^= sign == '"'
        if sign == " " and not quoted:
            return rest[:at], rest[at:].lstrip(" ")
    raise _Mistake("a quote is not closed" if quoted else "the key is missing behind the options")


def _options(text: str, namespace: str) -> dict[str, datetime]:
    """The times that the options set; the namespaces are checked and then of no further interest."""
    values: dict[str, str] = {}
    at = 0
    while at < len(text):
        if re.match(r"cert-authority(,|\Z)", text[at:], re.IGNORECASE):
            raise _Mistake("cert-authority is not supported: list each person's own key")
        option = _OPTION.match(text, at)
        if option is None:
            raise _Mistake(
                f'{text[at : at + 60]!r} is no option: write name="value", with commas and no spaces between'
            )
        keyword = option[1].lower()
        if keyword not in OPTIONS:
            raise _Mistake(f"the option {keyword[:40]!r} is unknown here; known are {', '.join(OPTIONS)}")
        if keyword in values:
            raise _Mistake(f"the option {keyword} is given twice")
        values[keyword] = option[2]
        at = option.end()
    if "namespaces" in values:
        _check_namespaces(values.pop("namespaces"), namespace)
    times = {keyword: _time(keyword, value) for keyword, value in values.items()}
    if len(times) == 2 and times["valid-before"] <= times["valid-after"]:
        raise _Mistake("valid-before is not later than valid-after")
    return times


def _check_namespaces(value: str, namespace: str) -> None:
    listed = value.split(",")
    if any(sign in value for sign in "*?!"):
        raise _Mistake(f'namespaces holds a pattern; write namespaces="{namespace}"')
    if namespace not in listed:
        raise _Mistake(f'namespaces leaves {namespace} out; write namespaces="{namespace}"')


def _time(keyword: str, text: str) -> datetime:
    """``YYYYMMDDZ``, ``YYYYMMDDHHMMZ`` or ``YYYYMMDDHHMMSSZ``: UTC, whatever machine reads the file."""
    form = _TIME.match(text)
    if form is None:
        raise _Mistake(f"{keyword} {text[:40]!r} is no time: write YYYYMMDDZ, YYYYMMDDHHMMZ or YYYYMMDDHHMMSSZ")
    if not form[7]:
        raise _Mistake(f"{keyword} {text!r} would be local time: write {text}Z, in UTC")
    try:
        year, month, day, hour, minute, second = (int(part or 0) for part in form.groups()[:6])
        return datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError as wrong:
        raise _Mistake(f"{keyword} {text!r} does not exist: {wrong}") from wrong
