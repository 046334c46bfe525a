"""Texts that hosts and engines had a part in are shown without what a terminal would obey."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stack.cli.command import answer
from stack.cli.lazy import report
from stack.cli.printable import printable
from stack.cli.screen import PlainScreen
from stack.core.clock import ManualClock
from stack.core.errors import Refused

NASTY = "h3: \x1b[2J\x1b]0;owned\x07\x9b31m\r\u202e done"


@settings(deadline=None)
@given(st.text())
def test_nothing_is_left_that_moves_or_hides(text: str) -> None:
    shown = printable(text)
    assert all(c.isprintable() or c == "\n" for c in shown)
    assert len(shown) == len(text)
    assert printable(shown) == shown


def test_every_way_to_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    PlainScreen(lines.append, ManualClock()).event(NASTY)
    answer({}, NASTY, as_json=False)
    answer({"a": NASTY}, "", as_json=True)
    report(Refused(NASTY, errors=[{"problem": NASTY}]), as_json=False)
    captured = capsys.readouterr()
    for text in (*lines, captured.out, captured.err):
        assert "owned" in text
        assert all(c.isprintable() or c == "\n" for c in text), ascii(text)
