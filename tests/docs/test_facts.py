"""Tables and lists in the pages say what the code says."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pages import ROOT, code_in, generator, page

from stack.cli.main import EXIT_CODES
from stack.config.settings import Document
from stack.config.stack_yaml import load_stack
from stack.core.digest import Digest
from stack.core.names import HostName, ReplicaId, RolloutId, ServiceName
from stack.evals.comparison import QualityThresholds
from stack.evals.stats import clopper_pearson, mcnemar_exact, paired_difference
from stack.evals.vocabulary import ALIASES, KINDS, REFUSED
from stack.fleet.variables import PLAYBOOKS
from stack.gateway import answers, request
from stack.gateway.answers import Problem
from stack.gateway.metrics import Books, prometheus
from stack.gateway.table import Limits
from stack.rollout.holding import Glance, worth_a_look
from stack.rollout.state import RolloutState
from stack.rollout.status import replica_json, rollout_json
from stack.rollout.verdict import level_of
from stack.store.rows import ReplicaRow, RolloutRow

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RELEASE = Digest.of(b"release")


def test_generated_pages_are_current() -> None:
    assert generator().stale() == [], "run .venv/bin/python docs/generate.py"


def test_exit_codes_are_the_same_everywhere() -> None:
    codes = {str(code): meaning for code, meaning in generator().exit_codes().items()}
    assert list(codes) == [str(n) for n in range(8)]
    assert {row[0]: row[1] for row in page("README.md").rows("## When something is wrong")} == codes
    assert sorted(re.findall(r"(?:^|  )(\d)  ", EXIT_CODES, re.MULTILINE)) == list(codes)


# -- stack.yaml


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """The values of nested settings by path."""
    found: dict[str, Any] = {}
    for name, inner in vars(value).items():
        found |= flat(inner, f"{prefix}{name}.") if hasattr(inner, "__dataclass_fields__") else {prefix + name: inner}
    return found


def test_the_page_of_settings_has_every_field_with_the_default_that_is_loaded(tmp_path: Path) -> None:
    for name in ("m.yaml", "evals/s-smoke.yaml", "evals/s-eval.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x: 1\n")
    (tmp_path / "stack.yaml").write_text(
        "schema: 1\nservices: [{name: s, model: m.yaml}]\n"
        "secrets: [{name: client.key, from: vault, path: p, key: k}]\n"
        "vault: {address: 'https://vault.example', token_file: t}\n"
        "audit: {checkpoints: {sinks: [{name: a, http: 'https://sink.example'}]}}\n"
    )
    loaded = load_stack(tmp_path / "stack.yaml")
    values = flat(loaded.services[ServiceName("s")], "services[].") | flat(loaded.gateway, "gateway.")
    values |= flat(loaded.hosts[HostName("local")], "hosts[].")
    values |= flat(loaded.audit, "audit.") | flat(loaded.vault, "vault.")
    values |= flat(loaded.audit.checkpoints.sinks[0], "audit.checkpoints.sinks[].")
    values |= flat(loaded.secrets[0], "secrets[].")
    values["secrets[].from"] = values.pop("secrets[].origin")
    del values["audit.checkpoints.sinks"]
    values["services[].suites.eval"] = values.pop("services[].suites.evaluation")
    rows = {row[0].strip("`"): row[2].strip("`") for row in page("docs/stack-yaml.md").rows("# stack.yaml")}
    assert set(rows) == set(values) | {path for path in rows if path in Document.__dataclass_fields__}
    assert {"schema", "environment", "policies"} <= set(rows)
    for path, shown in rows.items():
        if path in values and shown not in ("required", "none"):
            value = values[path]
            told = f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else value
            assert shown == (f"{told:g}" if isinstance(told, float) else str(told)), path


def test_the_example_stack_file_uses_fields_of_the_page() -> None:
    names = {
        row[0].strip("`").rpartition(".")[2].strip("[]") for row in page("docs/stack-yaml.md").rows("# stack.yaml")
    }
    lines = (ROOT / "stack.yaml").read_text(encoding="utf-8").splitlines()
    words = {w for line in lines for w in re.findall(r"([a-z_0-9]+):", line.split("#")[0])}
    sections = {
        "hosts",
        "services",
        "runtime",
        "launch",
        "suites",
        "rollout",
        "hold",
        "thresholds",
        "timeouts",
        "gateway",
    }
    assert words - sections <= names


# -- errors


def categories(kind: type[Any]) -> bool:
    return kind.__module__ == "stack.core.errors"


def test_every_error_has_a_message_of_its_own() -> None:
    for kind in generator().error_classes():
        assert vars(kind).get("__doc__"), f"{kind.__name__} has no docstring"


# Their message says what would be right. A new error joins this list only if its message does.
SELF_EXPLAINING = {
    "BadHome", "BadName", "BadPort", "CantRead", "HttpProblem", "NoSuchService", "NotADigest", "NotARuntime",
    "NotCanonical", "NotPaused", "NotRenderable", "UnknownDatabase",
}  # fmt: skip
# Only a broken invariant raises these; no operator's input does.
INVARIANTS = {"AuditGap", "OldTable", "NotStorable", "RolloutClosed", "UnknownService", "UnknownRelease"}
# Always caught where they are raised, and told as part of another error.
PARTS = {"BadPrimitive", "Malformed"}


def raised_with_advice() -> set[str]:
    """Classes that get their advice where they are raised."""
    source = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "stack").rglob("*.py"))
    return {m[1] for m in re.finditer(r"\b([A-Z]\w+)\([^()]*(?:\([^()]*\)[^()]*)*\badvice=", source)}


def test_every_error_an_operator_meets_says_what_to_do() -> None:
    advised = raised_with_advice()
    silent = [
        kind.__name__
        for kind in generator().error_classes()
        if not categories(kind)
        and kind.exit_code in (2, 3, 4, 5)
        and not kind.hint
        and kind.__name__ not in advised | INVARIANTS | SELF_EXPLAINING | PARTS
    ]
    assert silent == []


# -- status --json


def replica() -> ReplicaRow:
    return ReplicaRow(
        id=ReplicaId("r"),
        service=ServiceName("s"),
        host=HostName("local"),
        port=1,
        release=RELEASE,
        slice="stable",
        state="ready",
        observed_digest=None,
        updated_at=NOW,
    )


def rollout() -> RolloutRow:
    state = RolloutState(
        id=RolloutId("ro-1"),
        service=ServiceName("s"),
        kind="deploy",
        plan=RELEASE,
        release=RELEASE,
        stable=None,
        lkg=None,
        ladder=(100,),
    )
    return RolloutRow(
        id=state.id,
        service=state.service,
        kind="deploy",
        phase="planned",
        state=state.to_json(),
        version=1,
        lease_epoch=0,
        created_at=NOW,
        updated_at=NOW,
        closed=False,
    )


def test_the_readme_names_the_fields_of_status() -> None:
    rows = {row[0]: code_in(row[1]) for row in page("README.md").rows("## `stackctl status --json`")}
    assert rows["`rollouts[]`"] == set(rollout_json(rollout(), None))
    assert rows["`services[].replicas[]`"] == set(replica_json(replica(), {}))


# -- verdict and evals


def needed(errors: int, limit: float, look: int) -> int:
    """Requests after which this many errors show a rate below the limit at this look."""
    level = 2 * level_of(look, 0.95) - 1
    return next(n for n in range(errors + 1, 10_000) if clopper_pearson(errors, n, level)[1] < limit)


def trickling(limit: float) -> int:
    """The same, one request after the other, each look taken as soon as it is worth one."""
    look, last = 0, Glance()
    for n in range(1, 10_000):
        glance = Glance(requests=n)
        if worth_a_look(last, glance):
            look, last = look + 1, glance
            if clopper_pearson(0, n, 2 * level_of(look, 0.95) - 1)[1] < limit:
                return n
    raise AssertionError("never shown")


@pytest.mark.parametrize("row", page("docs/verdict.md").rows("## How many requests"), ids=lambda row: row[0])
def test_the_numbers_of_requests_are_those_of_the_verdict(row: list[str]) -> None:
    limit = float(row[0])
    assert [int(cell) for cell in row[1:]] == [*(needed(0, limit, look) for look in (1, 2, 5, 10)), trickling(limit)]


def test_one_error_costs_what_the_page_says() -> None:
    assert f"{needed(1, 0.05, 1)} are needed" in page("docs/verdict.md").text


def test_the_decision_tree_is_the_one_in_the_code() -> None:
    import stack.rollout.verdict as code

    tree = re.compile(r"^ +(\d[a-e]?) ", re.MULTILINE)
    assert tree.findall(page("docs/verdict.md").text) == tree.findall(code.__doc__ or "")


@pytest.mark.parametrize("row", page("docs/evals.md").rows("With the defaults"), ids=lambda row: row[0])
def test_net_losses_decide_as_the_page_says(row: list[str]) -> None:
    pairs, passes, worse = map(int, row)
    defaults = QualityThresholds()

    def fine(lost: int) -> bool:
        difference, low, _ = paired_difference(lost, 0, pairs)
        close = difference >= -defaults.max_drop / 2 and low >= -defaults.max_hidden_drop
        return low >= -defaults.max_drop or close

    assert next(n for n in range(pairs) if not fine(n)) - 1 == passes
    assert next(n for n in range(pairs) if mcnemar_exact(n, 0) < defaults.alpha) == worse


def test_the_page_of_evals_has_every_assertion_type() -> None:
    named = code_in(page("docs/evals.md").text)
    assert set(KINDS) | set(ALIASES) | set(REFUSED) <= named
    shown = {k: f"{getattr(QualityThresholds(), k) * 100:g} %" for k in ("max_task_drop", "max_hidden_drop")}
    assert all(figure in page("docs/evals.md").text for figure in shown.values())
    assert f"fewer than {QualityThresholds().min_pairs} pairs" in page("docs/evals.md").text


# -- gateway and hosts


def test_the_page_of_the_gateway_has_every_error_code_limit_and_metric() -> None:
    text = page("docs/gateway.md").text
    named = code_in(text)
    problems = [v for module in (answers, request) for v in vars(module).values() if isinstance(v, Problem)]
    problems.append(answers.unknown_model("m"))
    assert {p.code for p in problems} <= named
    statuses = {
        code: row[0] for row in page("docs/gateway.md").rows("## Errors of its own") for code in code_in(row[1])
    }
    assert all(str(p.status) in statuses[p.code] for p in problems)
    limits = {row[0].strip("`"): row[1] for row in page("docs/gateway.md").rows("## Limits")}
    assert set(limits) == set(vars(Limits()))
    assert all(limits[name].startswith(f"{value:g}" if isinstance(value, float) else str(value))
               for name, value in vars(Limits()).items())  # fmt: skip
    books = Books("boot")
    books.open("r", "s", "stable")
    metrics = set(re.findall(r"# TYPE (\S+)", prometheus(books, {}, 1).decode()))
    assert metrics <= named


@pytest.mark.parametrize("playbook", sorted(PLAYBOOKS))
def test_the_page_of_hosts_has_every_variable_of_every_playbook(playbook: str) -> None:
    rows = {row[0].strip("`"): row[2] for row in page("docs/hosts.md").rows("# Hosts and playbooks")}
    said = rows[f"playbooks/{playbook}"]
    required, optional = PLAYBOOKS[playbook]
    if said not in ("none", "as deploy"):
        assert set(required) <= code_in(said) <= set(required) | set(optional)
    elif said == "as deploy":
        assert required == PLAYBOOKS["deploy.yml"][0]
    else:
        assert not required
