"""Reads a YAML document into plain JSON values plus the line of each.

Hostile documents end in a noted problem: duplicate keys, tags, merge keys, non-finite numbers, alias bombs, deep
nesting. What the values mean is for `cases`.
"""

from __future__ import annotations

import math
from typing import Any

import yaml

from stack.evals.problems import Path, Problems

MAX_BYTES = 8 << 20
MAX_VALUES = 400_000
MAX_DEPTH = 40
_PLAIN = {f"tag:yaml.org,2002:{name}": name for name in ("str", "int", "float", "bool", "null", "timestamp", "value")}


def read_yaml(data: bytes, problems: Problems) -> Any:
    """The document's value (`None` when it can't be read); mistakes and lines go to `problems`."""
    if len(data) > MAX_BYTES:
        problems.add((), f"larger than {MAX_BYTES >> 20} MiB")
        return None
    try:
        node = yaml.compose(data.decode("utf-8"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError:
        problems.add((), "not UTF-8 text")
    except yaml.MarkedYAMLError as error:
        problems.lines[()] = error.problem_mark.line + 1 if error.problem_mark else 1
        problems.add((), f"not YAML: {error.problem}")
    except yaml.YAMLError as error:
        problems.add((), f"not YAML: {error}")
    except RecursionError:
        problems.add((), "nested too deeply")
    else:
        return _Reader(problems).value(node, ()) if node is not None else None
    return None


class _Reader:
    """Turns composed nodes into values; counts them, so that aliases can't explode."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._left = MAX_VALUES

    def value(self, node: yaml.Node, path: Path) -> Any:
        self._problems.lines[path] = node.start_mark.line + 1
        self._left -= 1
        if self._left <= 0 or len(path) > MAX_DEPTH:
            if self._left >= 0:
                self._problems.add(path, "too many or too deeply nested values")
                self._left = -1
            return None
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(child, (*path, index)) for index, child in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is None or key_node.tag == "tag:yaml.org,2002:merge":
                self._problems.lines[(*path, "?")] = key_node.start_mark.line + 1
                self._problems.add((*path, "?"), "keys must be plain text; merge keys (<<) are not supported")
                continue
            if key in result:
                self._problems.lines[(*path, key)] = key_node.start_mark.line + 1
                self._problems.add((*path, key), "given twice")
                continue
            result[key] = self.value(value_node, (*path, key))
        return result

    def _scalar(self, node: yaml.Node, path: Path) -> Any:
        text = str(node.value)
        kind = _PLAIN.get(node.tag)
        if kind is None:
            self._problems.add(path, f"the tag {node.tag[:60]} is not supported")
            return None
        if kind in ("str", "timestamp", "value"):
            return text
        try:
            value = yaml.safe_load(text) if kind != "null" else None
        except (yaml.YAMLError, ValueError):
            return text
        if isinstance(value, float) and not math.isfinite(value):
            self._problems.add(path, "not a finite number")
            return None
        return value
