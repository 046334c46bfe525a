"""What may be handed to a playbook, and that no value is ever a template on the controller."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest_fleet import Local, fake_installed, launch_variables, tree
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from stack.core.names import HostName
from stack.fleet import Host, HostNotDescribed, VariableRefused
from stack.fleet.environment import ansible_environment
from stack.fleet.rendering import NotRenderable, render_inventory, render_string, render_variables
from stack.fleet.variables import checked

GOOD: dict[str, Any] = {
    "op_id": "ro-1.deploy",
    "epoch": 3,
    "release_digest": "sha256:" + "a" * 64,
    "runtime_environment": "llamacpp-xllamacpp-1.2-abcdef012345",
    "runtime_engine": "llamacpp",
    "runtime_distribution": "xllamacpp",
    "lock_digest": "sha256:" + "b" * 64,
    "artifact_digest": "sha256:" + "c" * 64,
    "artifact_source": "/srv/models/set",
    "replica_id": "r-1",
    "port": 41001,
    "bind_address": "127.0.0.1",
    "served_model": "tiny-abc",
    "context": 1024,
    "parallel": 4,
    "threads": 1,
}
TEMPLATES = ("{{ 7*7 }}", "{% for x in [1] %}x{% endfor %}", "{{ lookup('pipe', 'touch SENTINEL') }}", "{# gone #}")
PROBE = """
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.copy:
        content: "{{ {'list': values, 'one': one} | to_json }}"
        dest: "{{ target }}"
        mode: "0600"
"""


def test_the_variables_of_every_playbook() -> None:
    assert checked("deploy.yml", GOOD) == GOOD
    assert checked("rollback.yml", {**GOOD, "grace_s": 5})["grace_s"] == 5
    drain = {"op_id": "x", "epoch": 0, "replica_id": "r"}
    assert checked("drain.yml", drain) == drain
    assert checked("observe.yml", {}) == {}


@pytest.mark.parametrize(
    "change",
    [
        {"ansible_connection": "local"},
        {"ansible_python_interpreter": "/bin/sh"},
        {"unknown": 1},
        {"port": "41001"},
        {"port": True},
        {"port": 0},
        {"epoch": -1},
        {"epoch": 1.0},
        {"replica_id": "../r"},
        {"replica_id": "{{ 7*7 }}"},
        {"op_id": "a b"},
        {"artifact_digest": "sha256:XYZ"},
        {"artifact_source": "relative"},
        {"artifact_source": "/a/../etc"},
        {"artifact_source": "/a\n/b"},
        {"runtime_environment": "a/../../b"},
        {"runtime_engine": "other"},
        {"bind_address": "0.0.0.0; reboot"},
        {"served_model": ["tiny"]},
    ],
)
def test_anything_else_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(VariableRefused) as refused:
        checked("deploy.yml", {**GOOD, **change})
    assert next(iter(change)) in refused.value.message


def test_every_mistake_is_named_at_once() -> None:
    with pytest.raises(VariableRefused) as refused:
        checked("drain.yml", {"ansible_user": "root", "epoch": "1"})
    assert all(word in refused.value.message for word in ("ansible_user", "epoch", "op_id", "replica_id"))
    with pytest.raises(VariableRefused):
        checked("../../etc/x.yml", {})


@given(st.text())
def test_a_rendered_string_is_one_tagged_scalar_that_reads_back(text: str) -> None:
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!unsafe", lambda loader, node: ("unsafe", loader.construct_scalar(node)))
    if any(0xD800 <= ord(character) <= 0xDFFF for character in text):
        with pytest.raises(NotRenderable):
            render_string(text)
        return
    rendered = render_variables({"key": text, "list": [text, 1, True]})
    assert rendered.isascii()
    # Loader derives from SafeLoader.
    read = yaml.load(rendered, Loader=Loader)
    expected = ("unsafe", text) if "{" in text else text
    assert read == {"key": expected, "list": [expected, 1, True]}


@pytest.mark.parametrize("value", [None, {"a": "b"}, float("nan"), float("inf"), b"x", ["a", None]])
def test_what_has_no_plain_form_is_not_rendered(value: Any) -> None:
    with pytest.raises(NotRenderable):
        render_variables({"key": value})


hostile = st.one_of(
    st.sampled_from(TEMPLATES),
    st.tuples(st.sampled_from(TEMPLATES), st.text(max_size=6)).map("".join),
    st.sampled_from(
        ["", "1", "1.5", "true", "no", "null", "~", "*", "&", "!", "=", "<<", "2026-01-01", "0x1f", "[]", "{}"]
    ),
    st.text(alphabet="{}%#'\"\\!:&*|>-[],\n\t é\u2028😀", max_size=20),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
)


@settings(
    max_examples=6, deadline=None, phases=[Phase.generate], suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(values=st.lists(hostile, min_size=30, max_size=90), one=hostile)
def test_no_value_is_a_template_for_ansible(tmp_path: Path, values: list[str], one: str) -> None:
    playbook, target = tmp_path / "probe.yml", tmp_path / "seen.json"
    playbook.write_text(PROBE)
    values = [*values, *TEMPLATES]
    rendered = render_variables({"values": values, "one": one, "target": str(target)})
    (tmp_path / "vars.yml").write_text(rendered)
    host = Host(name=HostName("local"), root=str(tmp_path / "root"))
    (tmp_path / "inventory.yml").write_text(render_inventory(host, sys.executable))
    target.unlink(missing_ok=True)
    program = Path(sys.executable).parent / "ansible-playbook"
    command = [str(program), "-i", "inventory.yml", str(playbook), "-e", "@vars.yml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    seen = json.loads(target.read_text())
    assert [pair for pair in zip([*values, one], [*seen["list"], seen["one"]], strict=True) if pair[0] != pair[1]] == []
    assert not (tmp_path / "SENTINEL").exists()


def test_a_template_in_a_path_reaches_the_host_as_a_path(local: Local, source: Path, tmp_path: Path) -> None:
    sentinel = tmp_path / "touched"
    variables = {
        **launch_variables(source, 40001),
        "artifact_source": "/nowhere/{{ lookup('pipe', 'touch "
        + str(sentinel)
        + "') }}/$(touch "
        + str(sentinel)
        + ")",
    }
    fake_installed(local.root, variables["runtime_environment"])
    result = local.door.run(local.operation("op-1", "rollback.yml", variables))
    assert result.status == "failed"
    assert result.failed_task == "Place the artifact"
    assert "lookup('pipe'" in result.message
    assert not sentinel.exists()
    assert not list((local.root / "artifacts").iterdir())


@pytest.mark.parametrize(
    "change",
    [
        {"root": "relative"},
        {"root": "/srv/{{ lookup('pipe','id') }}"},
        {"root": "/srv/$(id)"},
        {"address": "-oProxyCommand=id", "connection": "ssh"},
        {"user": "root; id"},
        {"port": 0},
        {"python": "/usr/bin/python3; id"},
        {"group": "a b"},
        {"service_manager": "init"},
    ],
)
def test_a_host_that_could_carry_a_command_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(HostNotDescribed) as refused:
        Host(**{"name": HostName("h"), "root": "/srv/stack", **change})
    assert next(iter(change)) in refused.value.message


def test_inventory_of_a_host_over_ssh() -> None:
    host = Host(
        name=HostName("edge-1"), root="/opt/stack", connection="ssh", address="192.0.2.7", user="deploy", group="gpu"
    )
    assert render_inventory(host, "/venv/bin/python") == (
        'all:\n  children:\n    gpu:\n      hosts:\n        "edge-1":\n'
        '          ansible_connection: "ssh"\n'
        '          ansible_python_interpreter: "python3"\n'
        '          host_python: "python3"\n'
        '          stack_root: "/opt/stack"\n'
        '          service_manager: "auto"\n'
        '          ansible_host: "192.0.2.7"\n'
        "          ansible_port: 22\n"
        '          ansible_user: "deploy"\n'
    )


def test_ansible_gets_a_minimal_environment_and_strict_host_keys(tmp_path: Path) -> None:
    inherited = {
        "HOME": "/home/x", "PATH": "/usr/bin", "STACK_ADMIN_TOKEN": "secret", "AWS_SECRET_ACCESS_KEY": "secret",
        "ANSIBLE_CALLBACK_PLUGINS": "/tmp/evil", "PYTHONPATH": "/tmp/evil", "PIP_CERT": "/etc/ca", "https_proxy": "p",
    }  # fmt: skip
    folders = {name: tmp_path / name for name in ("binaries", "project", "private", "control", "known_hosts")}
    environment = ansible_environment(inherited, **folders)
    assert "secret" not in "".join(environment.values())
    assert "evil" not in "".join(environment.values())
    assert environment["PATH"] == f"{tmp_path}/binaries:/usr/bin"
    assert environment["PIP_CERT"] == "/etc/ca"
    assert environment["https_proxy"] == "p"
    assert "StrictHostKeyChecking=yes" in environment["ANSIBLE_SSH_ARGS"]
    assert f'UserKnownHostsFile="{tmp_path}/known_hosts"' in environment["ANSIBLE_SSH_ARGS"]


def test_a_refused_variable_never_reaches_the_host(local: Local, source: Path) -> None:
    variables = {**launch_variables(source, 40001), "ansible_connection": "ssh"}
    before = tree(local.root)
    with pytest.raises(VariableRefused):
        local.door.run(local.operation("op-1", "deploy.yml", variables))
    assert tree(local.root) == before
