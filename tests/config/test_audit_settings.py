"""Where checkpoints go: what may stand in ``audit:`` of the stack file, and what may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from stack.config.settings import AuditSettings
from stack.config.stack_yaml import ConfigurationError, parse

LEAST = "services:\n  - {name: tiny, model: tiny.yaml}\n"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A stack file's place, with the files that it names."""
    (tmp_path / "evals").mkdir()
    for name in ("tiny.yaml", "evals/tiny-smoke.yaml", "evals/tiny-eval.yaml"):
        (tmp_path / name).write_text("")
    return tmp_path / "stack.yaml"


def sinks(text: str) -> bytes:
    """A stack file with these sinks."""
    return f"{LEAST}audit: {{checkpoints: {{every_s: 5, every_records: 7, sinks: [{text}]}}}}\n".encode()


def test_nothing_said(here: Path) -> None:
    assert parse(LEAST.encode(), here).audit == AuditSettings()
    assert AuditSettings().checkpoints.sinks == ()


def test_the_three_ways(here: Path) -> None:
    text = (
        '{name: nas, file: /mnt/nas/log}, {name: mail, command: [/usr/bin/mail, "-s", "x"]},'
        '{name: far, http: "https://a.example/log", timeout_s: 3}, {name: near, http: "http://127.0.0.1:9/log"}'
    )
    read = parse(sinks(text), here).audit.checkpoints
    assert (read.every_s, read.every_records) == (5, 7)
    assert [str(s.file) for s in read.sinks[:1]] == ["/mnt/nas/log"]
    assert read.sinks[1].command == ("/usr/bin/mail", "-s", "x")
    assert [s.http for s in read.sinks[2:]] == ["https://a.example/log", "http://127.0.0.1:9/log"]
    assert [s.timeout_s for s in read.sinks] == [10.0, 10.0, 3.0, 10.0]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{name: a}", "exactly one of file, command, http"),
        ('{name: a, file: /x, http: "https://a.example"}', "exactly one of file, command, http"),
        ("{name: a, file: relative/log}", "absolute path"),
        ('{name: a, http: "http://a.example/log"}', "https:// URL"),
        ('{name: a, http: "ftp://127.0.0.1/log"}', "https:// URL"),
        ('{name: a, http: "https://me:secret@a.example/log"}', "without a user name"),
        ('{name: a, http: "https://[::1/log"}', "sinks[0].http"),
        ("{name: a, command: []}", "list of 1 to 32"),
        ("{name: a, file: /x}, {name: a, file: /y}", "already"),
        ("{file: /x}", "name"),
    ],
)
def test_what_is_refused(here: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as told:
        parse(sinks(text), here)
    assert problem in told.value.message
