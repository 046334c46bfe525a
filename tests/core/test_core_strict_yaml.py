"""The one YAML reader: any bytes give nodes or one problem with its line; every mistake in a mapping is noted."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from stack.core.strict_yaml import Ledger, Limits, NotReadable, Problem, at, compose, line_of

LIMITS = Limits(size=10_000, depth=5, values=100)
BOMB = "a: &a [x, x]\nb: &b [*a, *a]\n"


def told(data: bytes | str) -> str:
    """Why these bytes are refused."""
    with pytest.raises(NotReadable) as caught:
        compose(data if isinstance(data, bytes) else data.encode(), LIMITS)
    return str(caught.value.problem)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ("", "line 1: the file is empty"),
        ("\n# nothing\n", "line 1: the file is empty"),
        (b"a: 1\nb: \xff", "line 2: not UTF-8 text"),
        (b"#" * 10_001, "line 1: larger than 10000 bytes"),
        ("\n" + BOMB, "line 2: anchors (&) and aliases (*) are not allowed"),
        ("a: 1\nb: *a", "line 2: anchors (&) and aliases (*) are not allowed"),
        ("&a a: 1", "line 1: anchors (&) and aliases (*) are not allowed"),
        ("a: 1\nb: !!python/object:os.system x", "line 2: tags (!) are not allowed"),
        ("a: !x [1]", "line 1: tags (!) are not allowed"),
        ("a: 1\n---\nb: 2", "line 2: only one document is allowed"),
        ("\n" + "[" * 6 + "]" * 6, "line 2: nested deeper than 5 levels"),
        ("[" * 5_000, "line 1: nested deeper than 5 levels"),
        ("[1,\n" + "1, " * 99 + "1]", "line 2: more than 100 values"),
        ("a: 1\nb: \x00", "line 2: not YAML: special characters are not allowed"),
        ('a: 1\nb: "\\UFFFFFFFF"', "line 2: not YAML: a number that is out of range"),
        ('a: "\\U00110000"', "line 1: not YAML: a number that is out of range"),
        ("%YAML 1." + "1" * 5_000 + "\n---\na", "line 1: not YAML: a number that is out of range"),
        ('a: "\\ud800"', "line 1: half a surrogate pair is no character"),
        ("a: [", "line 1: not YAML: expected the node content, but found '<stream end>'"),
    ],
)
def test_what_is_refused_outright(data: bytes | str, problem: str) -> None:
    assert told(data) == problem


def test_what_just_fits() -> None:
    for text in ("[" * 5 + "]" * 5, "[" + "1, " * 98 + "1]", "#" * 9_996 + "\na: "):
        assert line_of(compose(text.encode(), LIMITS)) >= 1


def read(text: str, known: tuple[str, ...] | None, required: tuple[str, ...] = ()) -> tuple[dict[str, str], list[str]]:
    """The scalars of a mapping, and what was noted."""
    ledger = Ledger()
    found = ledger.mapping(compose(text.encode(), LIMITS), "top", known, required)
    return {key: node.value for key, node in found.items()}, [str(problem) for problem in ledger.problems]


def test_every_mistake_in_a_mapping() -> None:
    values, problems = read("a: 1\nb: 2\na: 3\nc: 4\nc: 5\n[x]: 6\n<<: {d: 7}\n", ("a", "b", "e"), ("a", "e"))
    assert values == {"a": "1", "b": "2"}
    assert problems == [
        "line 3: top.a: given twice",
        "line 4: top.c: unknown key; known here: a, b, e",
        "line 5: top.c: given twice",
        "line 6: top.a list: keys must be plain text; merge keys (<<) are not supported",
        "line 7: top.<<: keys must be plain text; merge keys (<<) are not supported",
        "line 1: top.e: missing",
    ]


def test_any_key_where_none_is_known() -> None:
    assert read("a: 1\nb: 2\na: 3\n", None) == ({"a": "1", "b": "2"}, ["line 3: top.a: given twice"])
    assert read("[a]", None, ("a",)) == ({}, ["line 1: top: expected a mapping, found a list"])


@pytest.mark.parametrize("text", ["010", "1_0", "1:20", "0x10", "1e1", "'1'", "1.0", "-3", "10", "true", "[1]", "''"])
def test_odd_whole_numbers(text: str) -> None:
    ledger = Ledger()
    assert ledger.whole(compose(text.encode(), LIMITS), "n", -2, 9) is None
    assert ledger.problems[0].problem.startswith("expected a whole number from -2 to 9, found ")


def test_sound_values() -> None:
    ledger = Ledger()
    assert ledger.whole(compose(b"-2", LIMITS), "n", -2, 9) == -2
    assert ledger.text(compose(b"'1.10'", LIMITS), "t", 4) == "1.10"
    assert [item.value for item in ledger.items(compose(b"[a, b]", LIMITS), "l", 2) or ()] == ["a", "b"]
    assert ledger.problems == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("1.10", "expected text, found '1.10'; put it in quotes"),
        ("~", "expected text, found '~'; put it in quotes"),
        ("''", "expected 1 to 4 characters, found 0"),
        ("abcde", "expected 1 to 4 characters, found 5"),
        ("{}", "expected text, found a mapping"),
    ],
)
def test_odd_texts(text: str, problem: str) -> None:
    ledger = Ledger()
    assert ledger.text(compose(text.encode(), LIMITS), "t", 4) is None
    assert ledger.problems == [Problem(line=1, path="t", problem=problem)]


@pytest.mark.parametrize(("text", "found"), [("[]", "0"), ("[1, 2, 3]", "3"), ("a: 1", "a mapping"), ("x", "'x'")])
def test_odd_lists(text: str, found: str) -> None:
    ledger = Ledger()
    assert ledger.items(compose(text.encode(), LIMITS), "l", 2) is None
    assert str(ledger.problems[0]) == f"line 1: l: expected a list of 1 to 2, found {found}"


def test_places() -> None:
    assert at(at(at("", "tests"), 3), "vars") == "tests[3].vars"
    assert len(at("", "x" * 500)) == 60


@settings(deadline=None)
@given(st.binary(max_size=300) | st.text(alphabet="ab:-[]{}&*!|>'\"\\uU0\n ?,#%~<", max_size=120).map(str.encode))
def test_any_bytes_give_nodes_or_a_problem(data: bytes) -> None:
    try:
        root = compose(data, LIMITS)
    except NotReadable as error:
        assert 1 <= error.problem.line <= len(data) + 1
        assert error.problem.problem
    else:
        assert isinstance(root, yaml.Node)


@settings(deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=20), lambda inner: st.lists(inner)))
def test_nodes_are_what_yaml_makes_of_the_text(value: object) -> None:
    text = yaml.safe_dump(value, allow_unicode=True)
    generous = Limits(size=1 << 20, depth=100, values=100_000)
    if not any(mark in text for mark in "&*"):
        assert yaml.serialize(compose(text.encode(), generous)) == yaml.serialize(yaml.compose(text))
