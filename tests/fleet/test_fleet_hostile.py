"""Hosts that were taken over: whatever comes back over a real SSH connection, it is never run on the controller, never
shown raw, never believed as an observation, and never a crash."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest_hosts import Reached
from hypothesis import given, settings
from hypothesis import strategies as st

from stack.fleet import HostEvent, OperationResult
from stack.fleet.events import Account, read
from stack.fleet.said import NotAnObservation, observation, plain

Reach = Callable[[str], Reached]
NASTY = "\x1b[2J\x1b]0;owned\x07\x9b31m\r\x08\u202e\u200b\x00"

SCRIPT = """#!/bin/sh
here=$(dirname "$0")
case "$1" in -c) said=look;; "") said=module; cat > /dev/null;; *) said=tool;; esac
echo "$said" >> "$here/asked"
cat "$here/$said"
cat "$here/stderr" >&2
exit $(cat "$here/rc")
"""
OBSERVED: dict[str, Any] = {
    "replicas": [], "epoch": 0, "operation": {}, "service_manager": "supervisord", "supervised": False, "tools": {},
    "missing": [], "target": {"python": "3.11", "machine": "x86_64", "libc": "glibc 2.36"}, "placed": False,
}  # fmt: skip


class Canary:
    """Programs here that would leave a file behind, were they run."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.touched = folder, folder / "RAN-ON-THE-CONTROLLER"
        folder.mkdir()
        self.program = folder / "python3"
        self.program.write_text(f"#!/bin/sh\ntouch {self.touched}\n")
        self.program.chmod(0o755)

    @property
    def templates(self) -> list[str]:
        pipe = f"lookup('ansible.builtin.pipe', 'touch {self.touched}')"
        return [
            f"{{{{ {pipe} }}}}",
            f"{{% set x = {pipe} %}}{{{{ x }}}}",
            f"{{{{ query('pipe', '{self.program}') }}}}",
            f"!unsafe {{{{ {pipe} }}}}",
            f'{{"__ansible_unsafe": "{{{{ {pipe} }}}}"}}',
            "{{ " + f"cycler.__init__.__globals__.os.system('touch {self.touched}')" + " }}",
            f"$(touch {self.touched}); `touch {self.touched}`; '; touch {self.touched}; '",
        ]

    def everywhere(self, value: Any, number: int = 0) -> Any:
        """The value with templates in all its texts, keys as well."""
        if isinstance(value, Mapping):
            return {k: self.everywhere(v, n) for n, (k, v) in enumerate(value.items())} | {self.templates[0]: "x"}
        if isinstance(value, list):
            return [self.everywhere(item, n) for n, item in enumerate(value)] + self.templates
        return self.templates[number % len(self.templates)] if isinstance(value, str) else value


@pytest.fixture
def canary(tmp_path: Path) -> Canary:
    return Canary(tmp_path / "canary")


@pytest.fixture
def taken(reach: Reach) -> Iterator[Callable[..., Reached]]:
    """``taken(look=..., module=..., tool=..., stderr=..., rc=...)``: a host whose Python says just that."""
    host = reach("h3")
    base = host.file("/opt/hostile")
    made: list[int] = []

    def make(**said: bytes | str | Any) -> Reached:
        made.append(1)
        folder = base / str(len(made))
        folder.mkdir(parents=True)
        for name in ("look", "module", "tool", "stderr", "rc", "asked"):
            told = said.get(name, {"rc": "0"}.get(name, ""))
            text = told if isinstance(told, bytes | str) else json.dumps(told)
            (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        (folder / "python3").write_text(SCRIPT)
        (folder / "python3").chmod(0o755)
        return replace(host, host=replace(host.host, python=f"/opt/hostile/{len(made)}/python3", root="/opt/taken"))

    yield make
    shutil.rmtree(base, ignore_errors=True)


def asked(host: Reached) -> list[str]:
    return (host.file(host.host.python).parent / "asked").read_text().split()


def shown(result: OperationResult, events: list[HostEvent]) -> str:
    """All that could reach a person or the database as text."""
    return "\n".join([result.message, result.failed_task, *result.would, *(e.text + e.task for e in events)])


def assert_harmless(result: OperationResult, events: list[HostEvent], canary: Canary) -> None:
    text = shown(result, events)
    assert all(c.isprintable() or c == "\n" for c in text), ascii(text)
    assert len(text) < 25_000
    assert not canary.touched.exists()


@pytest.mark.hosts
@pytest.mark.timeout(300)
def test_what_a_host_says_is_looked_at_and_never_run(taken: Callable[..., Reached], canary: Canary) -> None:
    """Answers to the one question that every playbook begins with."""
    whole = json.dumps({**OBSERVED, "note": NASTY * 50})
    answers: list[tuple[str, dict[str, Any]]] = [
        ("failed", {"look": canary.everywhere(OBSERVED)}),
        ("failed", {"look": {**OBSERVED, "replicas": [canary.everywhere({"id": "r", "state": "running"})]}}),
        ("failed", {"look": "\n".join(canary.templates)}),
        ("failed", {"look": NASTY + "\n".join(canary.templates), "stderr": NASTY * 200, "rc": "1"}),
        ("failed", {"look": b"\xff\xfe{\x80\x81" + bytes(range(256)), "rc": "3"}),
        ("failed", {"look": b'{"replicas": ["\xff\xfe"], "epoch": 1}'}),
        ("failed", {"look": [OBSERVED]}),
        ("failed", {"look": '"replicas"'}),
        ("failed", {"look": {**OBSERVED, "replicas": {"id": "r1"}}}),
        ("failed", {"look": {**OBSERVED, "replicas": [{"pid": 1}]}}),
        ("failed", {"look": {**OBSERVED, "epoch": "{{ 7*7 }}"}}),
        ("failed", {"look": "[" * 200_000}),
        ("failed", {"look": b"A" * (8 << 20)}),
        ("failed", {"look": NASTY, "stderr": "\n".join(["FENCED"] * 3000), "rc": "75"}),
        ("done", {"look": whole}),
    ]  # fmt: skip
    for wanted, said in answers:
        events: list[HostEvent] = []
        host = taken(**said)
        result = host.run("look-1", "observe.yml", on_event=events.append)
        assert asked(host), "it was asked"
        assert_harmless(result, events, canary)
        assert (result.status == "done") is (wanted == "done"), (said, result)
        assert "note" not in result.observed


@pytest.mark.hosts
@pytest.mark.timeout(300)
def test_a_host_that_answers_ansible_itself(taken: Callable[..., Reached], canary: Canary, tmp_path: Path) -> None:
    """It lets the play go on, and answers its modules: facts that would choose what runs, and where."""
    choosing = {
        "ansible_connection": "local", "ansible_python_interpreter": str(canary.program),
        "ansible_playbook_python": str(canary.program), "ansible_shell_executable": str(canary.program),
        "ansible_ssh_executable": str(canary.program), "ansible_ssh_common_args": f"-oProxyCommand={canary.program}",
        "ansible_become": True, "ansible_become_exe": str(canary.program), "ansible_host": "127.0.0.1",
        "python_wanted": str(canary.program), "role_files": str(canary.folder), "inventory_hostname": "localhost",
        "hostvars": {"localhost": {"ansible_python_interpreter": str(canary.program)}}, "discovered_interpreter_python":
        str(canary.program), "wheels_cache": str(canary.folder), "environments_missing": [{"name": "x", "text": "y"}],
    }  # fmt: skip
    module = {
        "changed": True, "rc": 0, "stdout": canary.templates[0], "stderr": NASTY, "msg": canary.templates[1],
        "ansible_facts": choosing, "_ansible_verbose_override": True, "_ansible_delegated_vars": choosing,
        "add_host": {"host_name": "localhost", "host_vars": choosing}, "add_group": "x", "invocation": choosing,
        "include": str(canary.folder / "x.yml"), "warnings": [NASTY, *canary.templates],
        "deprecations": [{"msg": canary.templates[0] + NASTY, "version": "9"}],
        "exception": NASTY + canary.templates[0], "ansible_job_id": canary.templates[0],
    }  # fmt: skip
    launch = taken().launch(21900)
    both = [launch["runtime_environment"], "supervisor-4.3.0"]
    for number, (look, tool) in enumerate(
        [
            (OBSERVED, "\n".join(canary.templates)),
            ({**OBSERVED, "placed": True, "missing": both}, json.dumps({"state": "failed", "tail": [NASTY, "x"]})),
            ({**OBSERVED, "missing": both, "target": canary.everywhere(OBSERVED["target"])}, ""),
            ({**OBSERVED, "missing": both, "target": {**OBSERVED["target"], "libc": "glibc 2." + "9" * 30}}, ""),
            ({**OBSERVED, "service_manager": canary.templates[0], "supervised": True, "placed": True}, "ALREADY"),
        ]
    ):
        events: list[HostEvent] = []
        host = taken(look=look, module=module, tool=tool)
        result = host.run(f"deploy-{number}", "deploy.yml", launch, on_event=events.append)
        assert "module" in asked(host), "its answers were read as a module's"
        assert_harmless(result, events, canary)
        assert result.replica("r1") is None
    drained = taken(look=OBSERVED, module=module, tool=NASTY).run("drain-1", "drain.yml", {"replica_id": "r1"})
    assert_harmless(drained, [], canary)
    facts = taken(look=canary.everywhere(OBSERVED), module=module).run("facts-1", "facts.yml")
    assert_harmless(facts, [], canary)


ANYTHING = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(st.sampled_from([*OBSERVED, "id", "state", "pid", "port", "steps"]), st.text(max_size=5)),
            inner,
            max_size=5,
        ),
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(said=ANYTHING)
def test_an_observation_has_its_types_or_is_none(said: Any) -> None:
    try:
        seen = observation(said)
    except NotAnObservation:
        return
    assert isinstance(said, dict)
    assert all(
        isinstance(row["id"], str) and isinstance(row.get("restarts", 0), int) for row in seen.get("replicas", [])
    )
    assert type(seen.get("epoch", 0)) is int
    assert isinstance(seen.get("operation", {}), dict)


@settings(deadline=None)
@given(st.text())
def test_text_of_a_host_is_printable_and_bounded(text: str) -> None:
    seen = plain(text)
    assert all(c.isprintable() or c == "\n" for c in seen)
    assert seen.count("\n") < 20
    assert plain("\x1b[31mred\x1b[0m\tx" + "y" * 600).startswith("?[31mred?[0m xyy")
    assert max(map(len, plain("z" * 9000).splitlines())) <= 504


def test_a_log_that_a_host_brings_is_printable_too() -> None:
    line = {"task": "Install", "res": {"stdout": json.dumps({"line": NASTY + "building", "tail": [NASTY, "broken"]})}}
    _, progress = read(Account(), {"event": "runner_retry", "event_data": line})
    account, failed = read(Account(), {"event": "runner_on_failed", "event_data": line})
    nested = {"task": "x", "res": {"stdout": "[" * 200_000}}
    assert read(Account(), {"event": "runner_retry", "event_data": nested}) == (Account(), None)
    assert progress is not None and failed is not None
    for text in (progress.text, failed.text, account.message):
        assert all(c.isprintable() or c == "\n" for c in text), ascii(text)
        assert text.endswith(("building", "broken"))


@pytest.mark.hosts
@pytest.mark.timeout(300)
def test_a_connection_under_a_key_that_is_not_known_any_more_is_not_used(reach: Reach, tmp_path: Path) -> None:
    """ssh keeps a connection open for a minute: what the operator takes out of known_hosts counts at once."""
    host = reach("h3")
    known = tmp_path / "known_hosts"
    known.write_bytes(host.group.known_hosts.read_bytes())
    mine = replace(host, door=replace(host.door, known_hosts=known))
    assert mine.run("look-1", "observe.yml").status == "done"
    log = host.file("/var/log/sshd.log")
    before = log.read_text()
    other = reach("h1").made.host_key
    known.write_text(f"{host.made.address} {other}\n")
    result = mine.run("look-2", "observe.yml")
    said = log.read_text().removeprefix(before)
    assert (result.status, result.observed) == ("unreachable", {})
    assert "host key" in result.message.lower(), result.message
    assert "Connection from" in said, "it was a new connection"
    assert not [w for w in ("Accepted", "publickey", "authenticating", "session") if w in said], said
