"""Loads a suite from YAML in promptfoo's vocabulary. All mistakes at once, each with its line.

Reads files below the suite's own folder only. What a test may say is in `cases` and `vocabulary`.
"""

from __future__ import annotations

import os
import stat
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stack.core.digest import Digest
from stack.core.errors import InvalidInput
from stack.evals.cases import CaseReader, read_default, read_prompts
from stack.evals.problems import Path as ValuePath
from stack.evals.problems import Problems
from stack.evals.suite import Case, Suite
from stack.evals.yaml_source import LIMITS, read_yaml

_KEYS = frozenset({"description", "prompts", "providers", "defaultTest", "tests"})
_FILE = "file://"


class SuiteUnreadable(InvalidInput):
    """The suite {file} can't be read: {detail}."""

    hint = "Check the path and its permissions; a suite is one regular YAML file."


def load_suite(path: Path) -> Suite:
    """The suite at `path`; raises `SuiteError` with every mistake, or `SuiteUnreadable`."""
    problems = Problems(file=path.name)
    raw = read_yaml(_bytes(path), problems)
    if raw is not None and not isinstance(raw, dict):
        problems.add((), "a suite is a mapping with prompts and tests")
    problems.raise_if_any()
    body: dict[str, Any] = raw or {}
    for key in body.keys() - _KEYS:
        problems.add((key,), f"unknown key; known: {', '.join(sorted(_KEYS))}")
    description = body.get("description", "")
    if not isinstance(description, str):
        problems.add(("description",), "must be text")
    prompts = read_prompts(body.get("prompts"), problems)
    default = read_default(body.get("defaultTest"), problems)
    cases = _cases(body.get("tests"), path, CaseReader(prompts, default), problems)
    providers = _providers(body.get("providers"), problems)
    problems.raise_if_any()
    digest = Digest.of_value([asdict(case) for case in cases])
    return Suite(name=path.stem, description=str(description), cases=tuple(cases), digest=digest, providers=providers)


def _cases(raw: Any, path: Path, reader: CaseReader, problems: Problems) -> list[Case]:
    entries = [raw] if isinstance(raw, str) else raw
    if not isinstance(entries, list) or not entries:
        problems.add(("tests",), "give at least one test: a list, or file://<path>")
        return []
    cases: list[Case] = []
    for index, entry in enumerate(entries):
        here: ValuePath = ("tests", index) if isinstance(raw, list) else ("tests",)
        if isinstance(entry, str):
            cases.extend(_from_file(entry, here, path, reader, problems))
        else:
            cases.extend(reader.read_one(entry, here, problems))
    return cases


def _from_file(reference: str, here: ValuePath, suite: Path, reader: CaseReader, problems: Problems) -> list[Case]:
    target = _inside(reference, suite)
    if target is None:
        problems.add(here, "must be file://<relative path of a .yaml or .yml file below the suite's folder>")
        return []
    inner = Problems(file=target.name)
    try:
        raw = read_yaml(_bytes(target), inner)
    except SuiteUnreadable as error:
        problems.add(here, error.message)
        return []
    if not isinstance(raw, list) and not inner.found:
        inner.add((), "must be a list of tests")
    cases = [case for i, test in enumerate(raw or []) for case in reader.read_one(test, (i,), inner)]
    problems.found.extend(inner.found)
    return cases


def _inside(reference: str, suite: Path) -> Path | None:
    if not reference.startswith(_FILE):
        return None
    name = Path(reference.removeprefix(_FILE))
    if name.is_absolute() or ".." in name.parts or name.suffix not in (".yaml", ".yml"):
        return None
    root = suite.resolve().parent
    target = (root / name).resolve()
    return target if target.is_relative_to(root) else None


def _bytes(path: Path) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise SuiteUnreadable(error.strerror or "no such file", file=str(path)) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise SuiteUnreadable("not a regular file", file=str(path))
    with os.fdopen(descriptor, "rb") as file:
        return file.read(LIMITS.size + 1)


def _providers(raw: Any, problems: Problems) -> tuple[str, ...]:
    """Names only, for the record: the endpoint under test is given to `run_suite`."""
    entries = [] if raw is None else raw if isinstance(raw, list) else [raw]
    names = [entry.get("id") if isinstance(entry, dict) else entry for entry in entries]
    for index, name in enumerate(names):
        if not isinstance(name, str):
            problems.add(("providers", index), "must be a name, or a mapping with an id")
    return tuple(str(name) for name in names)
