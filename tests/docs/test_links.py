"""Links lead somewhere, paths exist, runbooks have their four parts."""

from __future__ import annotations

import re
import xml.dom.minidom
from configparser import ConfigParser
from pathlib import Path

import pytest
from pages import ROOT, Page, all_pages, code_in, generator, page

RUNBOOKS = sorted((ROOT / "docs" / "runbooks").glob("*.md"))
PARTS = ("## How you notice", "## What is true meanwhile", "## What to do", "## How you see that it is over")


@pytest.mark.parametrize("shown", all_pages(), ids=lambda p: p.name)
def test_internal_links_resolve(shown: Page) -> None:
    for link in shown.links():
        target = link.partition("#")[0]
        if target and not target.startswith(("http://", "https://", "mailto:")):
            assert (shown.path.parent / target).resolve().exists(), f"{shown.name} links {link}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached = {ROOT / "README.md"}
    while True:
        links = {
            (p.parent / link.partition("#")[0]).resolve()
            for p in reached
            if p.suffix == ".md"
            for link in Page(p).links()
        }
        more = {p for p in links if p.is_file() and ROOT in p.parents} - reached
        if not more:
            break
        reached |= more
    assert set(ROOT.glob("docs/**/*.md")) <= reached


def test_every_place_where_a_change_goes_exists() -> None:
    rows = page("README.md").rows("## Where which change goes")
    named = {path for row in rows for path in code_in(row[0])}
    assert {path for path in named if not (ROOT / path).exists()} == set()
    rooms = {f"stack/{p.name}/" for p in (ROOT / "stack").iterdir() if (p / "__init__.py").is_file()}
    assert {path for path in named if path.startswith("stack/")} == rooms


def test_the_readme_says_the_same_direction_as_the_import_contract() -> None:
    contracts = ConfigParser()
    contracts.read(ROOT / ".importlinter")
    lines = contracts["importlinter:contract:layers"]["layers"].strip().splitlines()
    rooms = {p.name for p in (ROOT / "stack").iterdir() if (p / "__init__.py").is_file()}
    layers = [set(re.findall(r"[a-z]+", line)) & rooms for line in lines]
    said = re.search(r"Groups, from the top: (.*?)\.", page("README.md").text)
    assert said is not None
    assert [set(re.findall(r"[a-z]+", group)) for group in said[1].split(";")] == [layer for layer in layers if layer]


@pytest.mark.parametrize("path", RUNBOOKS, ids=lambda p: p.stem)
def test_a_runbook_says_what_you_see_what_serves_what_to_do_and_when_it_is_over(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    places = [text.find(part) for part in PARTS]
    assert -1 not in places and places == sorted(places)
    assert f"docs/runbooks/{path.name}" in page("README.md").text


def test_paths_named_in_code_exist() -> None:
    """Paths of this repository in inline code: they begin with one of its folders."""
    tops = ("stack/", "playbooks/", "models/", "docs/", "tests/", "bench/", "requirements/")
    for shown in all_pages():
        for span in shown.spans():
            plain = re.fullmatch(r"[A-Za-z0-9_./-]+", span)
            if plain and span.startswith(tops):
                assert (ROOT / span).exists(), f"{shown.name} names {span}"


def test_error_codes_in_the_pages_exist() -> None:
    known = {kind.__name__ for kind in generator().error_classes()}
    for shown in all_pages():
        for span in shown.spans():
            if re.fullmatch(r"(?:[A-Z][a-z]+){2,}", span):
                assert span in known, f"{shown.name} names the error {span}"


def test_the_picture_is_sound_and_can_be_read_in_the_dark() -> None:
    path = ROOT / "docs" / "flow.svg"
    root = xml.dom.minidom.parse(str(path)).documentElement
    assert root is not None and root.tagName == "svg"
    assert root.getElementsByTagName("title") and root.getElementsByTagName("desc")
    assert "prefers-color-scheme: dark" in path.read_text(encoding="utf-8")


def test_the_readme_stays_short() -> None:
    assert len(page("README.md").text.splitlines()) <= 180
