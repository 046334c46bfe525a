"""Suites from YAML: what loads, and that every mistake is named with its line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stack.core.errors import InvalidInput
from stack.evals import Suite, SuiteError, load_suite
from stack.evals.load import SuiteUnreadable

SuiteOf = Callable[[str], Suite]

WHOLE = """\
description: everything at once
prompts:
  - "{{ question }}"
  - - role: system
      content: You answer in {{language.name}}.
    - {role: user, content: "{{question}}"}
providers: [openai:gpt-4o, {id: local}]
defaultTest:
  options: {temperature: 0.5, max_tokens: 20}
  vars: {language: {name: English}}
  assert:
    - {type: latency, threshold: 5000}
tests:
  - description: sum
    metadata: {task: maths}
    vars: {question: "1 + 1?", answer: "2"}
    options: {max_tokens: 5, seed: 7}
    threshold: 0.5
    assert:
      - {type: equals, value: "{{answer}}", weight: 2}
      - {type: not-icontains, value: sorry}
      - {type: is-json, value: {type: integer, minimum: 2}}
  - vars: {question: [a, b]}
    assert: [{type: contains-any, value: "x, y"}]
"""


def test_a_whole_suite(suite_of: SuiteOf) -> None:
    suite = suite_of(WHOLE)
    assert [case.id for case in suite] == ["sum", "sum#2", *[f"test-003{tail}" for tail in ("", "#2", "#3", "#4")]]
    first, second = suite.cases[:2]
    assert first.messages == ({"role": "user", "content": "1 + 1?"},)
    assert second.messages[0] == {"role": "system", "content": "You answer in English."}
    assert (first.task, first.threshold) == ("maths", 0.5)
    assert (first.options.temperature, first.options.max_tokens, first.options.seed) == (0.5, 5, 7)
    assert [check.name for check in first.asserts] == ["latency", "equals", "not-icontains", "is-json"]
    assert (first.asserts[1].value, first.asserts[1].weight) == ("2", 2.0)
    assert suite.cases[-1].asserts[-1].value == ["x", "y"]
    assert suite.providers == ("openai:gpt-4o", "local")


def test_the_digest_is_of_what_decides(suite_of: SuiteOf) -> None:
    digest = suite_of(WHOLE).digest
    assert suite_of(WHOLE.replace("everything at once", "other words")).digest == digest
    assert suite_of("# a comment\n" + WHOLE).digest == digest
    assert suite_of(WHOLE.replace("1 + 1?", "1 + 2?")).digest != digest
    assert suite_of(WHOLE.replace("5000", "6000")).digest != digest


MISTAKES = """\
prompts: ["{{q}}"]
surprise: 1
tests:
  - vars: {q: hi}
    assert:
      - {type: equals, value: hi}
      - type: llm-rubric
        value: is it nice?
      - type: looks-fine
      - {type: contains}
  - vars: {q: hi}
    treshold: 1
    assert: [{type: equals, value: hi}]
  - vars: {other: hi}
    assert: [{type: equals, value: hi}]
  - vars: {q: hi}
  - vars: {q: hi}
    options: {temperature: 3, top_k: 1}
    assert: [{type: regex, value: "(["}]
"""


def test_every_mistake_at_once_with_its_line(suite_of: SuiteOf) -> None:
    with pytest.raises(SuiteError) as caught:
        suite_of(MISTAKES)
    errors = caught.value.facts["errors"]
    found = {(e["line"], e["path"]): e["problem"] for e in errors}
    assert {line for line, _ in found} == {2, 7, 9, 10, 12, 14, 16, 18, 19}
    assert found[2, "surprise"].startswith("unknown key")
    assert "no model judges another" in found[7, "tests[0].assert[1].type"]
    assert "unknown assertion type 'looks-fine'" in found[9, "tests[0].assert[2].type"]
    assert found[12, "tests[1].treshold"] == "unknown key"
    assert found[14, "tests[2].vars"] == "no variable 'q'"
    assert "could not fail" in found[16, "tests[3]"]
    assert caught.value.exit_code == 2
    assert "line 19" in caught.value.message


def one(check: str, more: str = "") -> str:
    return f'prompts: ["{{{{q}}}}"]\ntests:\n- vars: {{q: hi}}\n  assert: [{check}]\n{more}'


REFUSED = {
    "cost": one("{type: cost, threshold: 1}"),
    "javascript": one("{type: javascript, value: 'true'}"),
    "not-latency": one("{type: not-latency, threshold: 1}"),
    "latency without threshold": one("{type: latency}"),
    "latency of nothing": one("{type: latency, threshold: .nan}"),
    "boolean": one("{type: equals, value: yes}"),
    "null": one("{type: equals}"),
    "half a schema": one("{type: is-json, value: {patternProperties: {}}}"),
    "wrong schema": one("{type: is-json, value: {type: integr}}"),
    "finish": one("{type: finish-reason, value: done}"),
    "stop tool": one("{type: is-valid-openai-tools-call, value: 1}"),
    "long pattern": one("{type: regex, value: '" + "a" * 501 + "'}"),
    "no weight at all": one("{type: equals, value: a, weight: 0}"),
    "negative weight": one("{type: equals, value: a, weight: -1}"),
    "zero threshold": one("{type: equals, value: a}", "  threshold: 0\n"),
    "threshold for text": one("{type: equals, value: a, threshold: 0.1}"),
    "filter": one("{type: equals, value: '{{q | upper}}'}"),
    "statement": one("{type: equals, value: '{% if q %}'}"),
    "attribute": one("{type: equals, value: '{{q.__class__}}'}"),
    "pattern from a variable": one("{type: regex, value: '{{p}}'}").replace("{q: hi}", "{q: hi, p: '('}"),
    "default that is unknown": one("{type: equals, value: a}", "defaultTest: {assert: [{type: odd}]}\n"),
    "default that is no list": one("{type: equals, value: a}", "defaultTest: {assert: 5}\n"),
    "default that is text": one("{type: equals, value: a}", "defaultTest: text\n"),
    "default with odd options": one("{type: equals, value: a}", "defaultTest: {options: [1], threshold: x}\n"),
    "too many": one("{type: equals, value: a}").replace(
        "{q: hi}", "{" + ", ".join(f"v{i}: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]" for i in range(5)) + ", q: hi}"
    ),
    "no tests": 'prompts: ["a"]\n',
    "empty tests": 'prompts: ["a"]\ntests: []\n',
    "no prompts": "tests: [{assert: [{type: equals, value: a}]}]\n",
    "blank prompt": "prompts: [' ']\ntests: [{assert: [{type: equals, value: a}]}]\n",
    "odd role": one("{type: equals, value: a}").replace('["{{q}}"]', "[{role: robot, content: a}]"),
    "prompt elsewhere": one("{type: equals, value: a}").replace('"{{q}}"', "file:///etc/passwd"),
    "a list": "- 1\n",
    "text": "hello\n",
    "nothing": "",
    "not yaml": "prompts: [a\ntests: }",
    "tag": "prompts: !!python/object/apply:os.system [id]\n",
    "twice": 'prompts: ["a"]\nprompts: ["b"]\n',
    "merge": "x: &a {b: 1}\n<<: *a\n",
    "deep": "prompts: " + "[" * 3000 + "]" * 3000,
    "bomb": "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{c}: &{c} [{','.join(['*' + p] * 10)}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)),
    "anchor": "prompts: &a ['x']\ntests: *a\n",
    "beyond Unicode": 'prompts: ["\\UFFFFFFFF"]\n',
    "outside": 'prompts: ["a"]\ntests: file://../x.yaml\n',
    "absolute": 'prompts: ["a"]\ntests: file:///etc/passwd.yaml\n',
    "other scheme": 'prompts: ["a"]\ntests: https://example.org/t.yaml\n',
    "absent": 'prompts: ["a"]\ntests: file://absent.yaml\n',
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(suite_of: SuiteOf, name: str) -> None:
    with pytest.raises(SuiteError) as caught:
        suite_of(REFUSED[name])
    assert all(error["line"] >= 1 and error["problem"] for error in caught.value.facts["errors"])
    json.dumps(caught.value.to_json())


def test_tests_from_another_file(suite_of: SuiteOf, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a.yaml").write_text("- vars: {q: x}\n  assert: [{type: equals, value: y}]\n")
    assert len(suite_of('prompts: ["{{q}}"]\ntests: file://more/a.yaml\n')) == 1
    mixed = 'prompts: ["{{q}}"]\ntests:\n- file://more/a.yaml\n- {vars: {q: z}, assert: [{type: equals, value: z}]}\n'
    assert len(suite_of(mixed)) == 2
    (tmp_path / "more" / "a.yaml").write_text("- vars: {q: x}\n  assert:\n  - type: equal\n")
    with pytest.raises(SuiteError) as caught:
        suite_of('prompts: ["{{q}}"]\ntests: file://more/a.yaml\n')
    assert [(e["file"], e["line"]) for e in caught.value.facts["errors"]] == [("a.yaml", 3)]


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    inside = tmp_path / "suites"
    inside.mkdir()
    (tmp_path / "out.yaml").write_text("- vars: {q: x}\n  assert: [{type: equals, value: y}]\n")
    (inside / "link.yaml").symlink_to(tmp_path / "out.yaml")
    (inside / "suite.yaml").write_text('prompts: ["{{q}}"]\ntests: file://link.yaml\n')
    with pytest.raises(SuiteError, match="below the suite's folder"):
        load_suite(inside / "suite.yaml")


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    for path in (tmp_path, tmp_path / "absent.yaml", tmp_path / "pipe.yaml"):
        with pytest.raises(SuiteUnreadable):
            load_suite(path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SuiteError, match="UTF-8"):
        load_suite(tmp_path / "binary.yaml")


def test_a_variables_content_is_never_a_template(suite_of: SuiteOf) -> None:
    suite = suite_of(one("{type: equals, value: '{{q}}'}").replace("{q: hi}", "{q: '{{secret}} {% x %}', secret: s}"))
    assert suite.cases[0].messages[0]["content"] == "{{secret}} {% x %}"
    assert suite.cases[0].asserts[0].value == "{{secret}} {% x %}"


@pytest.mark.parametrize("name", ["tiny-smoke", "tiny-eval"])
def test_the_shipped_suites_load(name: str) -> None:
    suite = load_suite(Path(__file__).parents[2] / "models" / "evals" / f"{name}.yaml")
    assert len(suite) > 0
    assert all(case.options.temperature == 0 for case in suite)


_LEAF = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("{{q}}")
_KEY = st.sampled_from(
    ["type", "value", "assert", "vars", "options", "threshold", "weight", "description", "metadata", "role", "content"]
) | st.text(max_size=3)
_TREE = st.recursive(_LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEY, inner, max_size=4))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "prompts": st.just(["a"]),
            "tests": st.just([{"assert": [{"type": "equals", "value": "a"}]}]),
            "defaultTest": _TREE,
        }
    )
    | st.dictionaries(st.sampled_from(["prompts", "tests", "defaultTest", "providers", "x"]), _TREE)
    | st.fixed_dictionaries({"prompts": st.just(["{{q}}"]), "tests": st.lists(_TREE, max_size=3)})
)
def test_any_document_loads_or_is_refused(tmp_path: Path, body: Any) -> None:
    (tmp_path / "any.yaml").write_text(yaml.safe_dump(body, allow_unicode=True), errors="replace")
    try:
        suite = load_suite(tmp_path / "any.yaml")
    except InvalidInput as error:
        assert error.exit_code == 2
    else:
        assert all(case.asserts for case in suite)
