"""Reads a YAML document into plain JSON values plus the line of each.

What is no acceptable YAML is refused by `core.strict_yaml`; what the values mean is for `cases`.
"""

from __future__ import annotations

import math
from typing import Any

import yaml

from stack.core.strict_yaml import Ledger, Limits, NotReadable, compose, line_of
from stack.evals.problems import Path, Problems, dotted

LIMITS = Limits(size=8 << 20, depth=40, values=400_000)
_NUMBERS = ("tag:yaml.org,2002:bool", "tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_NOTHING = "tag:yaml.org,2002:null"


def read_yaml(data: bytes, problems: Problems) -> Any:
    """The document's value (`None` when it can't be read); mistakes and lines go to `problems`."""
    ledger = Ledger()
    try:
        return _value(compose(data, LIMITS), (), problems.lines, ledger)
    except NotReadable as unreadable:
        ledger.problems.append(unreadable.problem)
        return None
    finally:
        problems.take(ledger.problems)


def _value(node: yaml.Node, path: Path, lines: dict[Path, int], ledger: Ledger) -> Any:
    lines[path] = line_of(node)
    if isinstance(node, yaml.MappingNode):
        entries = ledger.mapping(node, dotted(path), known=None)
        return {key: _value(child, (*path, key), lines, ledger) for key, child in entries.items()}
    if isinstance(node, yaml.SequenceNode):
        return [_value(child, (*path, index), lines, ledger) for index, child in enumerate(node.value)]
    return _scalar(node, path, ledger)


def _scalar(node: yaml.Node, path: Path, ledger: Ledger) -> Any:
    if node.tag == _NOTHING:
        return None
    if node.tag not in _NUMBERS:
        return str(node.value)
    try:
        value = yaml.constructor.SafeConstructor().construct_document(node)
    except ValueError:
        return str(node.value)
    if isinstance(value, float) and not math.isfinite(value):
        ledger.note(node, dotted(path), "not a finite number")
        return None
    return value
