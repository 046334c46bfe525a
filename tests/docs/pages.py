"""The pages as the tests see them: text, code blocks, inline code, links, tables."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
_FENCED = re.compile(r"```.*?```", re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Page:
    """One Markdown file; ``name`` is its path in the repository."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    def block_lines(self) -> Iterator[str]:
        """Lines of indented code blocks, continued lines joined."""
        lines = (line.strip() for line in self.text.splitlines() if line.startswith(("    ", "\t")))
        yield from "\n".join(lines).replace("\\\n", " ").splitlines()

    def spans(self) -> Iterator[str]:
        """Inline code outside of code blocks."""
        text = "\n".join(line for line in self.text.splitlines() if not line.startswith("    "))
        yield from _SPAN.findall(_FENCED.sub("", text))

    def links(self) -> Iterator[str]:
        yield from _LINK.findall(self.text)

    def rows(self, heading: str) -> list[list[str]]:
        """The first table below a heading (a line that starts so), without its head."""
        lines = self.text.splitlines()
        start = next(i for i, line in enumerate(lines) if line.startswith(heading))
        found: list[list[str]] = []
        for line in lines[start + 1 :]:
            if line.startswith("|"):
                found.append([cell.strip() for cell in line.strip("|").split(" | ")])
            elif found:
                break
        return [[cell.strip(" |") for cell in row] for row in found[2:]]


def page(name: str) -> Page:
    return Page(ROOT / name)


def all_pages() -> list[Page]:
    """Every page this folder answers for."""
    found = [*ROOT.glob("docs/**/*.md"), *ROOT.glob("stack/*/design.md"), ROOT / "playbooks" / "README.md"]
    return [Page(ROOT / "README.md"), Page(ROOT / "CHANGELOG.md"), *(Page(path) for path in sorted(found))]


def code_in(text: str) -> set[str]:
    """The inline code of a piece of text."""
    return set(_SPAN.findall(text))


def generator() -> ModuleType:
    """docs/generate.py as a module."""
    known = sys.modules.get("docs_generate")
    if known is not None:
        return known
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["docs_generate"] = module
    spec.loader.exec_module(module)
    return module
