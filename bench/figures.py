"""A measured figure, the machine it was measured on, the one table, and the JSON that is kept of it."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

OUT = Path(__file__).resolve().parent / "out"
HEADINGS = ("figure", "measured", "lowest-highest", "target", "", "rounds")


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One line. ``values`` are the rounds' own figures; ``measured`` is their median unless another quantile is named.

    ``target`` is what it must stay below (None: only shown).
    """

    name: str
    unit: str
    values: tuple[float, ...]
    target: float | None = None
    quantile: float = 0.5
    note: str = ""

    @property
    def measured(self) -> float | None:
        """The figure; None when there was nothing to measure."""
        return quantile(self.values, self.quantile) if self.values else None

    @property
    def holds(self) -> bool | None:
        """Whether it is within its target; None without one. Nothing measured is never within."""
        if self.target is None:
            return None
        return self.measured is not None and self.measured <= self.target

    def to_json(self) -> dict[str, Any]:
        """JSON scalars and lists only."""
        return {**asdict(self), "values": list(self.values), "measured": self.measured, "holds": self.holds}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Figure:
        """Inverse of ``to_json``."""
        known = {name: body[name] for name in cls.__dataclass_fields__}
        return cls(**{**known, "values": tuple(body["values"])})


@dataclass(frozen=True, kw_only=True)
class Report:
    """What one bench found: figures, and whatever else is worth keeping (not shown in the table)."""

    bench: str
    figures: tuple[Figure, ...]
    details: Mapping[str, Any] = field(default_factory=dict)
    lines: tuple[str, ...] = ()

    def keep(self, out: Path, machine: Mapping[str, Any]) -> Path:
        """Write ``<out>/<bench>.figures.json``."""
        out.mkdir(parents=True, exist_ok=True)
        path = out / f"{self.bench}.figures.json"
        figures = [figure.to_json() for figure in self.figures]
        body = {"bench": self.bench, "machine": dict(machine), "figures": figures, "details": dict(self.details)}
        path.write_text(json.dumps(body, indent=1) + "\n")
        return path


def quantile(values: Sequence[float], q: float) -> float:
    """Nearest rank, so that it is a value that was measured; the median of an even number is the mean of the middle."""
    if q == 0.5:
        return statistics.median(values)
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-q * len(ordered) // 1) - 1))]


def machine() -> dict[str, Any]:
    """What this machine is doing."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "load_1_5_15_min": [round(x, 2) for x in os.getloadavg()],
    }


def table(figures: Sequence[Figure]) -> str:
    """The one table, aligned."""
    rows = [HEADINGS, *(_row(figure) for figure in figures)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADINGS))]
    text = [
        "  ".join(
            cell.ljust(w) if i in (0, 4) else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in (text[0], "-" * len(text[0]), *text[1:]))


def _row(figure: Figure) -> tuple[str, ...]:
    unit = f" {figure.unit}" if figure.unit else ""
    measured = "not measured" if figure.measured is None else f"{number(figure.measured)}{unit}"
    spread = f"{number(min(figure.values))}-{number(max(figure.values))}" if figure.values else "-"
    target = "-" if figure.target is None else f"{figure.target:g}{unit}"
    verdict = {True: "ok", False: "OVER", None: ""}[figure.holds]
    if figure.measured is None:
        verdict = "NOT MEASURED"
    name = f"{figure.name} ({figure.note})" if figure.note else figure.name
    return (name, measured, spread, target, verdict, str(len(figure.values)))


def number(value: float) -> str:
    """Three figures that count, without exponents."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
