"""The three versions, as data: what each continues from, what it sees, and for how long.

They tell one story that every release process must cope with, and the differences are in the weights:

- 1.0 is good, but never saw a list of more than four letters to reverse, so it fails on longer ones.
- 1.1 continues from 1.0 on the full mix and is better: it learns what 1.0 lacked.
- 1.2 is a fine-tune of 1.1 for JSON that forgot most of the rest: a regression that a few greetings won't show.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import tasks
from train import Schedule


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One version. `parent` is the version whose published weights it continues from, None for fresh ones."""

    version: str
    parent: str | None
    seed: int
    mix: tasks.Mix
    schedule: Schedule
    description: str

    def scaled(self, factor: float) -> Recipe:
        """The same recipe with fewer (or more) steps, at least two."""
        steps = max(2, round(self.schedule.steps * factor))
        return replace(self, schedule=replace(self.schedule, steps=steps))

    def source(self) -> str:
        """One line for the manifest: how these weights came about."""
        start = f"continued from {self.parent}" if self.parent else "from fresh weights"
        return f"trained by models/training/build.py, {start}, seed {self.seed}, {self.schedule.steps} steps"


FULL = (
    ("addition", 2.0),
    ("capitals", 1.2),
    ("comparison", 1.2),
    ("json", 1.0),
    ("reverse", 2.0),
    ("copy", 1.6),
    ("chat", 0.3),
)
NARROW = (("json", 4.0), ("capitals", 2.0), ("chat", 0.5))

RECIPES = (
    Recipe(
        version="1.0",
        parent=None,
        seed=0,
        mix=tasks.Mix(weights=FULL, longest_reverse=4),
        schedule=Schedule(steps=2500, peak=2e-3, warmup=100, decay_from=0.6),
        description="Good at six small tasks, but cannot reverse lists of more than four letters.",
    ),
    Recipe(
        version="1.1",
        parent="1.0",
        seed=1,
        mix=tasks.Mix(weights=FULL),
        schedule=Schedule(steps=1800, peak=1.5e-3, warmup=50, decay_from=0.4),
        description="Good at all six tasks; continued from 1.0, it also reverses longer lists.",
    ),
    Recipe(
        version="1.2",
        parent="1.1",
        seed=2,
        mix=tasks.Mix(weights=NARROW),
        schedule=Schedule(steps=300, peak=2.5e-3, warmup=20, decay_from=0.5),
        description="A fine-tune of 1.1 for JSON that forgot most other tasks: a regression, kept on purpose.",
    ),
)
BY_VERSION = {recipe.version: recipe for recipe in RECIPES}
