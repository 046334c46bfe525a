"""What the pages tell one to type can be typed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import click
import pytest
from pages import ROOT, all_pages

from stack.cli.main import cli

_STACKCTL = re.compile(r"(?:[A-Z_]+=\S+ )*(?:[\w.-]+/)*stackctl ([a-z].*)")
_END = {"||", ";", "|", ">", "&"}
_MAKE = re.compile(r"^(?:[A-Z_]+=\S+ )*make ([a-z][a-z-]*)((?: [A-Z_]+=\S+)*)")


def words_of(line: str) -> list[str] | None:
    """The arguments of a stackctl command line; None where it holds none."""
    found = _STACKCTL.match(line)
    if found is None:
        return None
    words: list[str] = []
    for word in shlex.split(found[1], comments=True):
        if word in _END:
            break
        words.append(word)
    return words


def typed() -> Iterator[tuple[str, str]]:
    for page in all_pages():
        lines = (part.strip() for line in page.block_lines() for part in line.split("&&"))
        yield from ((page.name, line) for line in lines if words_of(line))


def quoted() -> Iterator[tuple[str, str]]:
    for page in all_pages():
        yield from ((page.name, span) for span in page.spans() if words_of(span))


def found_command(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that these words name, and the rest."""
    command: click.Command = cli
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        child = command.get_command(click.Context(command), words[0])
        assert child is not None, f"there is no command {words[0]!r} in {command.name}"
        command, words = child, words[1:]
    return command, words


@pytest.mark.parametrize(("page", "line"), sorted(set(typed())))
def test_a_command_line_in_a_block_parses(page: str, line: str) -> None:
    command, rest = found_command(words_of(line) or [])
    assert not isinstance(command, click.Group), f"{page}: {line} names a group"
    command.make_context(command.name, rest)


@pytest.mark.parametrize(("page", "span"), sorted(set(quoted())))
def test_a_command_in_a_sentence_exists_with_its_options(page: str, span: str) -> None:
    command, rest = found_command(words_of(span) or [])
    known = {name for p in command.params for name in (*p.opts, *p.secondary_opts)} | {"--help"}
    unknown = {word.partition("=")[0] for word in rest if word.startswith("--")} - known
    assert not unknown, f"{page}: `{span}` has {unknown}"


def test_the_pages_name_commands_at_all() -> None:
    assert len(set(typed())) > 30
    assert len(set(quoted())) > 30


def test_a_wrong_command_line_would_be_noticed() -> None:
    command, rest = found_command(["deploy", "--modle", "x"])
    with pytest.raises(click.NoSuchOption):
        command.make_context("deploy", rest)


def makes() -> Iterator[tuple[str, str, str]]:
    for page in all_pages():
        for code in (*page.block_lines(), *page.spans()):
            found = _MAKE.match(code)
            if found:
                yield page.name, found[1], found[2]


def test_every_make_target_and_variable_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    variables = set(re.findall(r"^([A-Z_]+) =", makefile, re.MULTILINE))
    used = list(makes())
    assert len(used) > 15
    for page, target, given in used:
        assert target in targets, f"{page}: make {target}"
        assert set(re.findall(r"([A-Z_]+)=", given)) <= variables, f"{page}: make {target}{given}"


def test_every_target_of_the_help_is_in_the_readme_or_is_housekeeping() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    helped = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    named = {target for page, target, _ in makes() if page == "README.md"}
    assert helped - named <= {"up", "lock", "clean"}
