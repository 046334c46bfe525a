"""Writes the prompt suites of `models/evals/` in promptfoo's YAML vocabulary, byte for byte the same every time.

`tiny-eval.yaml` holds held-out prompts of every graded task. `tiny-smoke.yaml` holds a few that every version
answers, the regressed one too: smoke shows that the right model serves, the evaluation shows how good it is.

    python models/training/suites.py [--out DIR]
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tasks
import yaml

PER_TASK = 35
MAX_TOKENS = 64
EVALS = Path(__file__).resolve().parent.parent / "evals"
SMOKE_GREETINGS = ("Hello", "Who are you?")
SMOKE_TASKS = ("capitals", "json")
SMOKE_PER_TASK = 3


def _assertions(item: tasks.Item) -> list[dict[str, str]]:
    equals = {"type": "equals", "value": item.answer}
    return [{"type": "is-json"}, equals] if item.task == "json" else [equals]


def _tests(items: Iterable[tasks.Item]) -> list[dict[str, Any]]:
    counts: Counter[str] = Counter()
    tests: list[dict[str, Any]] = []
    for item in items:
        counts[item.task] += 1
        tests.append(
            {
                "description": f"{item.task}-{counts[item.task]:03}",
                "metadata": {"task": item.task},
                "vars": {"prompt": item.prompt},
                "assert": _assertions(item),
            }
        )
    return tests


def render(description: str, items: Sequence[tasks.Item]) -> str:
    """One suite as YAML. Values are quoted, so that `"42"` and `"yes"` stay text."""
    suite = {
        "description": description,
        "prompts": ["{{prompt}}"],
        "defaultTest": {"options": {"temperature": 0, "max_tokens": MAX_TOKENS}},
        "tests": _tests(items),
    }
    text: str = yaml.dump(suite, Dumper=_Quoting, sort_keys=False, width=1000, allow_unicode=True)
    return text


class _Quoting(yaml.SafeDumper):
    """Quotes whatever YAML 1.1 or 1.2 might read as something else than text."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    plain = value.replace("-", "").replace("_", "").replace(" ", "").isalnum() and not value[0].isdigit()
    ambiguous = value.lower() in {"yes", "no", "y", "n", "on", "off", "true", "false", "null"}
    style = None if plain and not ambiguous else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Quoting.add_representer(str, _text)


def evaluation(per_task: int = PER_TASK) -> list[tasks.Item]:
    """The held-out prompts of each graded task."""
    return tasks.held_out_set(per_task)


def smoke() -> list[tasks.Item]:
    """Two greetings, three capitals and three JSON answers."""
    rng = random.Random(5)
    greetings = [tasks.Item(task=tasks.CHAT, key="", prompt=p, answer=tasks.GREETINGS[p]) for p in SMOKE_GREETINGS]
    return greetings + [tasks.draw_train(rng, task) for task in SMOKE_TASKS for _ in range(SMOKE_PER_TASK)]


def suites() -> dict[str, str]:
    """File names and contents."""
    return {
        "tiny-smoke.yaml": render("Tiny model, smoke: known answers that show the right model serves.", smoke()),
        "tiny-eval.yaml": render(
            f"Tiny model, evaluation: {PER_TASK} held-out prompts for each of {len(tasks.GRADED)} tasks.",
            evaluation(),
        ),
    }


def write(folder: Path) -> None:
    """Write both suites into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in suites().items():
        (folder / name).write_text(content, encoding="utf-8")
        print(f"wrote {folder / name}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the tiny model's prompt suites.")
    parser.add_argument("--out", type=Path, default=EVALS)
    write(parser.parse_args().out)
