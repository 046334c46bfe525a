"""From the plain values of a suite's YAML to cases: strict, every mistake noted with its line.

Reading files is for `load`, YAML for `yaml_source`; this module is pure.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, TypeGuard

from stack.core.strict_json import NotJson, parse_json
from stack.evals.problems import Path, Problems
from stack.evals.suite import Assertion, Case, Options
from stack.evals.template import BadTemplate, fill_all
from stack.evals.vocabulary import KINDS, split_type, type_problem

MAX_CASES = 20_000
ROLES = ("system", "developer", "user", "assistant", "tool")
_TEST_KEYS = frozenset({"description", "metadata", "vars", "assert", "options", "threshold"})
_ASSERT_KEYS = frozenset({"type", "value", "threshold", "weight", "metric"})
_OPTION_KEYS = frozenset({"temperature", "max_tokens", "seed", "tools", "tool_choice"})

Prompt = list[dict[str, Any]]


def read_prompts(raw: Any, problems: Problems) -> list[Prompt]:
    """The prompts as chat messages, holes not yet filled."""
    if isinstance(raw, str):
        raw = [raw]
    if not isinstance(raw, list) or not raw:
        problems.add(("prompts",), "give at least one prompt: a text, or a list of chat messages")
        return []
    if all(isinstance(item, dict) and "role" in item for item in raw):
        return [_messages(raw, ("prompts",), problems)]
    return [_prompt(item, ("prompts", index), problems) for index, item in enumerate(raw)]


def _prompt(raw: Any, path: Path, problems: Problems) -> Prompt:
    if isinstance(raw, dict) and "raw" in raw:
        for key in raw.keys() - {"raw", "id", "label"}:
            problems.add((*path, key), "unknown key")
        raw = raw["raw"]
    if isinstance(raw, str) and raw.lstrip().startswith("["):
        try:
            parsed = parse_json(raw)
        except NotJson:
            parsed = None
        if isinstance(parsed, list):
            raw = parsed
    if isinstance(raw, list):
        return _messages(raw, path, problems)
    if not isinstance(raw, str) or not raw.strip():
        problems.add(path, "a prompt is a text that is not empty, or a list of chat messages")
        return []
    if raw.startswith("file://"):
        problems.add(path, "prompts in other files are not supported: write the prompt here")
    return [{"role": "user", "content": raw}]


def _messages(raw: list[Any], path: Path, problems: Problems) -> Prompt:
    for index, message in enumerate(raw):
        here = (*path, index)
        if not isinstance(message, dict):
            problems.add(here, "a chat message is a mapping with role and content")
        elif message.get("role") not in ROLES:
            problems.add((*here, "role"), f"role must be one of {', '.join(ROLES)}")
        elif not isinstance(message.get("content"), str) and not message.get("tool_calls"):
            problems.add((*here, "content"), "content must be text")
    return [message for message in raw if isinstance(message, dict)]


def read_default(raw: Any, problems: Problems) -> dict[str, Any]:
    """`defaultTest`, checked for its shape; its values are merged into each test."""
    path: Path = ("defaultTest",)
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        problems.add(path, "must be a mapping")
        return {}
    for key in raw.keys() - (_TEST_KEYS - {"description"}):
        problems.add((*path, key), "unknown key")
    _options(raw.get("options"), path, problems)
    checked = list(_asserts(raw.get("assert"), path, problems))
    return {**{key: value for key, value in raw.items() if key in _TEST_KEYS}, "assert": checked}


class CaseReader:
    """Builds the cases of one suite, keeping their ids unique in file order."""

    def __init__(self, prompts: list[Prompt], default: dict[str, Any]) -> None:
        self._prompts = prompts
        self._default = default
        self._seen: dict[str, int] = {}
        self._count = 0

    def read_one(self, test: Any, path: Path, problems: Problems) -> Iterator[Case]:
        """The cases of one test: one for each prompt and each choice of variables."""
        if isinstance(test, dict):
            yield from self._test(test, path, problems)
        else:
            problems.add(path, "a test is a mapping")

    def _test(self, test: dict[str, Any], path: Path, problems: Problems) -> Iterator[Case]:
        for key in test.keys() - _TEST_KEYS:
            problems.add((*path, key), "unknown key")
        merged = {key: self._merged(test, key, path, problems) for key in ("vars", "options", "metadata")}
        known = len(problems.found)
        asserts = [*self._default.get("assert", []), *_asserts(test.get("assert"), path, problems)]
        options = _options(merged["options"], path, problems)
        threshold = _share(test.get("threshold", self._default.get("threshold")), (*path, "threshold"), problems)
        name = test.get("description", f"test-{self._count + 1:03}")
        if not isinstance(name, str) or not name:
            problems.add((*path, "description"), "must be text")
        if not asserts and len(problems.found) == known:
            problems.add(path, "asserts nothing, so it could not fail: add an assert")
        if len(problems.found) > known or options is None:
            return
        for prompt, variables in itertools.product(self._prompts, _expansions(merged["vars"])):
            try:
                yield self._case(str(name), prompt, variables, asserts, options, threshold, merged["metadata"])
            except BadTemplate as error:
                problems.add((*path, "vars") if "vars" in test else path, str(error))
                return
            except _Unusable as error:
                problems.add((*path, "assert"), str(error))
                return

    def _case(
        self,
        name: str,
        prompt: Prompt,
        variables: dict[str, Any],
        asserts: list[Any],
        options: Options,
        threshold: float | None,
        metadata: dict[str, Any],
    ) -> Case:
        checks = tuple(_assertion(fill_all(raw, variables)) for raw in asserts)
        if not any(check.weight > 0 for check in checks):
            raise _Unusable("every weight is 0, so it could not fail")
        return Case(
            id=self._id(name),
            task=str(metadata.get("task", "all")),
            messages=tuple(fill_all(prompt, variables)),
            asserts=checks,
            options=options,
            threshold=threshold,
            metadata=metadata,
        )

    def _id(self, name: str) -> str:
        self._count += 1
        if self._count > MAX_CASES:
            raise _Unusable(f"the suite has more than {MAX_CASES} tests")
        self._seen[name] = self._seen.get(name, 0) + 1
        return name if self._seen[name] == 1 else f"{name}#{self._seen[name]}"

    def _merged(self, test: dict[str, Any], key: str, path: Path, problems: Problems) -> dict[str, Any]:
        own, default = test.get(key) or {}, self._default.get(key) or {}
        if not isinstance(own, dict) or not isinstance(default, dict):
            problems.add((*path, key) if not isinstance(own, dict) else ("defaultTest", key), "must be a mapping")
            return {}
        return {**default, **own}


class _Unusable(ValueError):
    """The case can't be judged; the text says why."""


def _asserts(raw: Any, path: Path, problems: Problems) -> Iterator[dict[str, Any]]:
    if raw is None:
        return
    if not isinstance(raw, list):
        problems.add((*path, "assert"), "must be a list")
        return
    for index, entry in enumerate(raw):
        here = (*path, "assert", index)
        found = list(_assert_problems(entry))
        for key, problem in found:
            problems.add((*here, key) if key else here, problem)
        if not found:
            yield entry


def _assert_problems(entry: Any) -> Iterable[tuple[str, str]]:
    if not isinstance(entry, dict) or not isinstance(entry.get("type"), str):
        yield "", "an assertion is a mapping with a type"
        return
    for key in entry.keys() - _ASSERT_KEYS:
        yield key, "unknown key"
    problem = type_problem(entry["type"])
    if problem:
        yield "type", problem
        return
    kind = KINDS[split_type(entry["type"])[0]]
    if not (isinstance(entry.get("value"), str) and "{{" in entry["value"]):
        yield from (("value", text) for text in kind.check(entry.get("value")))
    threshold, weight = entry.get("threshold"), entry.get("weight", 1)
    if kind.threshold and not (_number(threshold) and threshold > 0):
        yield "threshold", "needs a threshold above 0 (milliseconds)"
    if not kind.threshold and threshold is not None:
        yield "threshold", "this type takes no threshold"
    if not (_number(weight) and weight >= 0):
        yield "weight", "must be a number, 0 or more"


def _assertion(entry: dict[str, Any]) -> Assertion:
    name, negated = split_type(entry["type"])
    value = entry.get("value")
    problem = next(iter(KINDS[name].check(value)), None)
    if problem:
        raise _Unusable(f"{entry['type']}, once filled in: {problem}")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if KINDS[name].check is KINDS["contains-all"].check and isinstance(value, str):
        value = [word.strip() for word in value.split(",")]
    threshold = entry.get("threshold")
    return Assertion(
        type=name,
        negated=negated,
        value=value,
        threshold=None if threshold is None else float(threshold),
        weight=float(entry.get("weight", 1)),
    )


def _options(raw: Any, path: Path, problems: Problems) -> Options | None:
    if raw is None:
        return Options()
    here = (*path, "options")
    if not isinstance(raw, dict):
        problems.add(here, "must be a mapping")
        return None
    found = [(key, "unknown key") for key in raw.keys() - _OPTION_KEYS]
    temperature, tokens, seed = raw.get("temperature", 0), raw.get("max_tokens", 256), raw.get("seed")
    if not (_number(temperature) and 0 <= temperature <= 2):
        found.append(("temperature", "must be a number from 0 to 2"))
    if not _integer(tokens) or not 1 <= tokens <= 1_000_000:
        found.append(("max_tokens", "must be a whole number above 0"))
    if seed is not None and not (_integer(seed) and 0 <= seed < 2**31):
        found.append(("seed", "must be a whole number below 2**31"))
    if not isinstance(raw.get("tools", []), list):
        found.append(("tools", "must be a list of OpenAI tool definitions"))
    for key, problem in found:
        problems.add((*here, key), problem)
    return None if found else Options(**{**raw, "temperature": float(temperature)})


def _share(value: Any, path: Path, problems: Problems) -> float | None:
    if value is None:
        return None
    if not _number(value) or not 0 < value <= 1:
        problems.add(path, "must be above 0 and at most 1 (at 0 every answer would pass)")
        return None
    return float(value)


def _expansions(variables: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A list as a variable's value means one test for each item, as in promptfoo."""
    axes = [value if isinstance(value, list) else [value] for value in variables.values()]
    for chosen in itertools.product(*axes):
        yield dict(zip(variables, chosen, strict=True))


def _number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _integer(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
