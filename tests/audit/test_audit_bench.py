"""The bench of the audit log measures what it says: its export is a real one, and both checks read all of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import audit
from bench.stage import BenchFailed


def test_the_export_it_makes_is_the_products(tmp_path: Path) -> None:
    export, kept = audit.written(tmp_path, 2000)
    speed, peak = audit.checked_alone(export, kept, 2000)
    assert speed > 0 and peak > 5
    assert audit.checked_here(export, kept, 2000) > 0


def test_an_export_that_does_not_hold_is_not_measured(tmp_path: Path) -> None:
    export, kept = audit.written(tmp_path, 1000)
    export.write_bytes(export.read_bytes().replace(b'"seq":500,', b'"seq":501,'))
    for check in (audit.checked_alone, audit.checked_here):
        with pytest.raises(BenchFailed):
            check(export, kept, 1000)


def test_both_sides_of_an_append(tmp_path: Path) -> None:
    ours, theirs = audit.append_rounds(tmp_path, 2, 3)
    assert len(ours) == len(theirs) == 2 and min(*ours, *theirs) > 0
