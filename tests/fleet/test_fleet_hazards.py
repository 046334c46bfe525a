"""Ansible's hazards, each shown to be real with its defence off, and gone with it on."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest_fleet import PLAYBOOKS, Local
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from spies import HUSH, spying_python

from stack.core.errors import InvalidInput
from stack.core.names import HostName
from stack.fleet import Host, HostNotDescribed, VariableRefused, door
from stack.fleet.environment import ansible_environment
from stack.fleet.rendering import NotRenderable, render_inventory, render_variables
from stack.fleet.variables import PLAYBOOKS as TAKEN
from stack.fleet.variables import checked

KEY = re.compile(r"[a-z][a-z0-9_]{0,63}\Z")
BINARIES = Path(sys.executable).parent
PROBE = """
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.copy:
        content: "{{ {'values': values, 'root': stack_root} | to_json }}"
        dest: "{{ target }}"
        mode: "0600"
"""


def play(
    folder: Path, variables: str, inventory: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Plain ansible-playbook over the probe, with these files."""
    (folder / "probe.yml").write_text(PROBE)
    (folder / "vars.yml").write_text(variables)
    (folder / "inventory.yml").write_text(inventory)
    (folder / "seen.json").unlink(missing_ok=True)
    command = [str(BINARIES / "ansible-playbook"), "-i", "inventory.yml", "probe.yml", "-e", "@vars.yml"]
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    return subprocess.run(
        command, cwd=folder, env={**kept, **(environment or {})}, capture_output=True, text=True, check=False
    )


def seen(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "seen.json").read_text()))


def host(folder: Path, **change: Any) -> Host:
    return Host(**{"name": HostName("local"), "root": str(folder / "root"), **change})


# -- values


def executing(sentinel: Path) -> list[Any]:
    """Values that would run a command or vanish, were they templates."""
    pipe = f"{{{{ lookup('pipe', 'touch {sentinel}') }}}}"
    return [
        pipe,
        [pipe, [pipe, "x"]],
        f"{{% set x = lookup('pipe', 'touch {sentinel}') %}}{{{{ x }}}}",
        f"{{% if true %}}{pipe}{{% endif %}}",
        f"{{# comment #}}{pipe}",
        f"'\"{pipe}\"'",
        f"!unsafe {pipe}",
        f"a\n{pipe}\n- b: c",
        "{{ ansible_python_interpreter }}",
        "{{ undefined_name }}",
        "{{",
        "}}",
        "{%",
        "{# #}",
        "#}",
    ]


def test_without_the_tag_ansible_runs_what_a_value_says(tmp_path: Path) -> None:
    """The hazard: so the tests below can fail."""
    sentinel = tmp_path / "SENTINEL"
    rendered = render_variables({"values": executing(sentinel)[:1], "target": str(tmp_path / "seen.json")})
    done = play(tmp_path, rendered.replace("!unsafe ", ""), render_inventory(host(tmp_path), sys.executable))
    assert done.returncode == 0, done.stderr
    assert sentinel.exists()
    assert seen(tmp_path)["values"] == [""]


def test_with_it_values_stay_what_they_are(tmp_path: Path) -> None:
    sentinel = tmp_path / "SENTINEL"
    values = executing(sentinel)
    rendered = render_variables({"values": values, "target": str(tmp_path / "seen.json")})
    done = play(tmp_path, rendered, render_inventory(host(tmp_path), sys.executable))
    assert done.returncode == 0, done.stdout
    assert seen(tmp_path)["values"] == values
    assert not sentinel.exists()


PIPE = "lookup('ansible.builtin.pipe', 'touch SENTINEL')"
PIECES = [
    "{{", "}}", "{%", "%}", "{#", "#}", PIPE, "|", "!unsafe ", "!vault |\n", "!!python/object/apply:os.system ",
    "'", '"', "\\", "\n", ": ", "- ", "? ", "*a", "&a ", "<<: ", "---\n", "...\n", "%TAG ! tag:x,2000:\n", "\u2028",
    "\x85",
]  # fmt: skip
WHOLE = [
    f"{{{{ {PIPE} }}}}", f"{{% set x = {PIPE} %}}{{{{ x }}}}", f"{{% if true %}}{{{{ {PIPE} }}}}{{% endif %}}",
    "{{ query('pipe', 'touch SENTINEL') }}", "{{ cycler.__init__.__globals__.os.system('touch SENTINEL') }}",
    "{{ hostvars | string }}{{ " + PIPE + " }}", "!unsafe {{ " + PIPE + " }}",
    '{"__ansible_unsafe": "{{ ' + PIPE + ' }}"}',
    "$(touch SENTINEL)", "`touch SENTINEL`", "; touch SENTINEL", "-oProxyCommand=touch SENTINEL",
    "$ANSIBLE_VAULT;1.1;AES256\n6162", "/srv/{{ " + PIPE + " }}/model.gguf", "tiny@{{ " + PIPE + " }}",
]  # fmt: skip
MAGIC = [
    "ansible_connection", "ansible_python_interpreter", "ansible_playbook_python", "ansible_host", "ansible_port",
    "ansible_user", "ansible_ssh_common_args", "ansible_ssh_extra_args", "ansible_ssh_executable", "ansible_become",
    "ansible_become_exe", "ansible_shell_executable", "ansible_shell_type", "ansible_facts", "ansible_check_mode",
    "hostvars", "groups", "group_names", "inventory_hostname", "inventory_dir", "inventory_file", "playbook_dir",
    "role_path", "role_name", "play_hosts", "vars", "environment", "omit", "delegate_to", "local_action", "item",
    "stack_root", "host_python", "python_wanted", "role_files", "tools_here", "probe", "fence_step", "wheels_cache",
]  # fmt: skip
ANY = st.characters(exclude_categories=["Cs"])
texts = st.one_of(
    st.sampled_from(WHOLE),
    st.tuples(st.text(ANY, max_size=4), st.sampled_from(WHOLE), st.text(ANY, max_size=4)).map("".join),
    st.lists(st.one_of(st.sampled_from(PIECES), st.text(ANY, max_size=4)), max_size=6).map("".join),
    st.text(ANY, max_size=20),
)
arbitrary = st.one_of(texts, texts, texts, st.integers(), st.booleans(), st.lists(texts, max_size=2))
plain_keys = st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True).map("x_{}".format)
keys = st.one_of(plain_keys, plain_keys, texts, st.sampled_from(MAGIC), st.sampled_from(MAGIC).map(str.upper))


def generated(made: st.SearchStrategy[Any], count: int) -> list[Any]:
    """At least so many that differ, from as many examples as it takes: one run of Ansible reads them all."""
    found: dict[str, Any] = {}

    @settings(
        max_examples=20 + count * 3 // 4,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(batch=st.lists(made, min_size=8, max_size=10))
    def collect(batch: list[Any]) -> None:
        found.update((repr(one), one) for one in batch)

    collect()
    assert len(found) >= count, f"only {len(found)} differ"
    return list(found.values())[:count]


READER = """
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.copy:
        content: >-
          {{ {'values': values, 'named': dict(names | zip(names | map('extract', vars))),
              'roots': ansible_play_hosts_all | map('extract', hostvars, 'stack_root')}
             | to_json }}
        dest: "{{ target }}"
        mode: "0600"
      run_once: true
"""


@pytest.mark.timeout(300)
def test_thousands_of_generated_variables_run_nothing_on_the_controller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Names and values; those that are let through by name arrive as they are, the others nowhere."""
    count = int(os.environ.get("STACK_TEST_VARIABLES", "2000"))
    pairs: list[tuple[str, Any]] = generated(st.tuples(keys, arbitrary), count)
    named: dict[str, Any] = {}
    for key, value in pairs:
        for playbook in TAKEN:
            with pytest.raises(VariableRefused):
                checked(playbook, {key: value})
        try:
            render_variables({key: value})
        except NotRenderable:
            assert not KEY.match(key)
        else:
            assert KEY.match(key)
            if key.startswith("x_"):
                named[key] = value
    values = [value for _, value in pairs]
    roots = sorted({f"/srv/{value}" for _, value in pairs if isinstance(value, str)})
    hosts = [unchecked(tmp_path, name=f"h{n}", root=root) for n, root in enumerate(roots)]
    inventory = "\n".join(render_inventory(h, sys.executable).partition("      hosts:\n")[2] for h in hosts)
    told = {**named, "values": values, "names": sorted(named), "target": str(tmp_path / "seen.json")}
    monkeypatch.setattr(sys.modules[__name__], "PROBE", READER)
    done = play(tmp_path, render_variables(told), f"all:\n  children:\n    cpu:\n      hosts:\n{inventory}")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    arrived = seen(tmp_path)
    assert [pair for pair in zip(values, arrived["values"], strict=True) if pair[0] != pair[1]] == []
    assert arrived["named"] == named
    assert sorted(arrived["roots"]) == roots
    assert not (tmp_path / "SENTINEL").exists()
    commands = [value for value in values if any(whole in str(value) for whole in WHOLE[:4])]
    assert min(len(named), len(roots), len(commands)) > count // 16
    tell(
        request,
        f"{len(pairs)} generated variables ({len(named)} by names of their own, {len(roots)} as roots of hosts, "
        f"{len(commands)} whole templates that run a command): "
        "0 executions on the controller",
    )


def tell(request: pytest.FixtureRequest, line: str) -> None:
    """Into the output of the run, whatever is captured."""
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        reporter.ensure_newline()
        reporter.write_line(line)


# -- keys


def test_without_the_list_a_key_chooses_what_runs(tmp_path: Path) -> None:
    evil, sentinel = tmp_path / "evil", tmp_path / "SENTINEL"
    evil.write_text(f'#!/bin/sh\ntouch {sentinel}\nexec {sys.executable} "$@"\n')
    evil.chmod(0o755)
    variables = {"values": [1], "target": str(tmp_path / "seen.json"), "ansible_python_interpreter": str(evil)}
    play(tmp_path, render_variables(variables), render_inventory(host(tmp_path), sys.executable))
    assert sentinel.exists()


@pytest.mark.parametrize("playbook", sorted(TAKEN))
@given(key=st.one_of(st.text(max_size=30), st.text("abcdefghij_", max_size=20).map("ansible_{}".format)))
def test_keys_that_are_not_listed_are_refused(playbook: str, key: str) -> None:
    needed, optional = TAKEN[playbook]
    assert not [known for known in (*needed, *optional) if known.startswith("ansible_")]
    if key not in needed and key not in optional:
        with pytest.raises(VariableRefused) as refused:
            checked(playbook, {key: "x"})
        assert "is not taken" in refused.value.message


def test_a_refused_value_is_not_spelled_out_whole() -> None:
    with pytest.raises(VariableRefused) as refused:
        checked("drain.yml", {"op_id": "x", "epoch": 1, "replica_id": "!" * 500 + HUSH})
    assert HUSH not in json.dumps(refused.value.to_json())


# -- inventory


def unchecked(folder: Path, **change: Any) -> Host:
    """A host whose values nobody looked at."""
    made = host(folder)
    for key, value in change.items():
        object.__setattr__(made, key, value)
    return made


@pytest.mark.parametrize("defended", [False, True])
def test_values_of_the_inventory_are_no_templates(tmp_path: Path, defended: bool) -> None:
    sentinel = tmp_path / "SENTINEL"
    root = f"/srv/{{{{ lookup('pipe', 'touch {sentinel}') }}}}"
    inventory = render_inventory(unchecked(tmp_path, root=root), sys.executable)
    inventory = inventory if defended else inventory.replace("!unsafe ", "")
    variables = render_variables({"values": [1], "target": str(tmp_path / "seen.json")})
    done = play(tmp_path, variables, inventory)
    assert done.returncode == 0, done.stdout
    assert (sentinel.exists(), seen(tmp_path)["root"] == root) == (not defended, defended)


HOSTILE = st.tuples(
    st.text(max_size=8),
    st.sampled_from(["{{", "{%", "`", "$(", ";", "\n", " -o", "'", '"', "\0", "|"]),
    st.text(max_size=8),
)


@settings(max_examples=300)
@given(field=st.sampled_from(["address", "user", "root", "python", "group"]), parts=HOSTILE)
def test_hosts_with_anything_else_than_plain_words_are_refused(field: str, parts: tuple[str, ...]) -> None:
    prefix = "/" if field in ("root", "python") else ""
    value = prefix + "".join(parts)
    if field in ("root", "python") and not set("{`$;\n'\"\0|") & set(value):
        return
    with pytest.raises(HostNotDescribed):
        Host(**{"name": HostName("h"), "root": "/srv/stack", "connection": "ssh", field: value})


@given(name=st.one_of(st.text(max_size=20), st.sampled_from(["{{ x }}", "a: b", "a\n  b", "-h", "a b", "../x"])))
def test_names_of_hosts_can_carry_nothing(name: str) -> None:
    try:
        made = HostName(name)
    except InvalidInput:
        return
    text = render_inventory(Host(name=made, root="/srv/stack"), "/usr/bin/python3")
    assert list(yaml.safe_load(text)["all"]["children"]["cpu"]["hosts"]) == [name]


# -- what the host's tasks and the settings of Ansible are given


CANARIES = {
    "AWS_SECRET_ACCESS_KEY": HUSH, "GITHUB_TOKEN": HUSH, "STACK_ADMIN_TOKEN": HUSH, "VAULT_TOKEN": HUSH,
    "PIP_TOKEN": HUSH,
    "PIP_INDEX_URL": "https://user:hush-7c1f-canary@index.invalid/simple",
    "PIP_EXTRA_INDEX_URL": "https://hush-7c1f-canary@a.invalid/x https://u:hush-7c1f-canary@b.invalid",
    "https_proxy": "http://u:hush-7c1f-canary@proxy.invalid:1", "ANSIBLE_LOG_PATH": "/tmp/hush-7c1f-canary",
    "no_proxy": "*",
}  # fmt: skip


@pytest.mark.parametrize("defended", [False, True])
def test_the_environment_of_the_control_plane_stays_there(
    local: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, defended: bool
) -> None:
    for name, value in CANARIES.items():
        monkeypatch.setenv(name, value)
    if not defended:
        monkeypatch.setattr(
            door, "ansible_environment", lambda own, **more: {**own, **ansible_environment(own, **more)}
        )
        monkeypatch.delenv("ANSIBLE_LOG_PATH")
    script, told = spying_python(tmp_path)
    spied = replace(local, host=replace(local.host, python=str(script)))
    assert spied.door.run(spied.operation("op-1", "observe.yml", {})).status == "done"
    text = told.read_text(errors="replace")
    assert ("hush-7c1f-canary" in text) is not defended
    if defended:
        assert "PIP_INDEX_URL=https://index.invalid/simple" in text
        assert "PIP_EXTRA_INDEX_URL=https://a.invalid/x https://b.invalid" in text


def test_settings_that_protect_are_on_whatever_the_environment_says(tmp_path: Path) -> None:
    hostile = {
        "ANSIBLE_NO_TARGET_SYSLOG": "False",
        "ANSIBLE_HOST_KEY_CHECKING": "False",
        "ANSIBLE_CONFIG": str(tmp_path / "none.cfg"),
    }
    hostile |= {"HOME": str(tmp_path), "PATH": os.environ["PATH"], "ANSIBLE_LOG_PATH": str(tmp_path / "log")}
    ours = ansible_environment(
        hostile, binaries=BINARIES, project=PLAYBOOKS, private=tmp_path, control=tmp_path, known_hosts=tmp_path / "k"
    )

    def settings_under(environment: dict[str, str]) -> dict[str, Any]:
        command = [str(BINARIES / "ansible-config"), "dump", "--format", "json"]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
        return {row["name"]: row["value"] for row in json.loads(done.stdout) if "name" in row}

    on, off = settings_under(ours), settings_under(hostile)
    assert (on["DEFAULT_NO_TARGET_SYSLOG"], off["DEFAULT_NO_TARGET_SYSLOG"]) == (True, False)
    assert (on["HOST_KEY_CHECKING"], off["HOST_KEY_CHECKING"]) == (True, False)
    assert (on["DEFAULT_LOG_PATH"], bool(off["DEFAULT_LOG_PATH"])) == (None, True)


def test_ssh_is_told_to_know_hosts_by_our_file_only(
    local: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, told = tmp_path / "bin", tmp_path / "ssh-argv"
    folder.mkdir()
    (folder / "ssh").write_text(
        f"#!/bin/sh\nprintf '%s\\n' \"$@\" >> {told}\ncat /proc/$$/environ >> {told}\nexit 255\n"
    )
    (folder / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("GITHUB_TOKEN", HUSH)
    far = Host(name=HostName("far"), root="/opt/stack", connection="ssh", address="192.0.2.7", user="deploy")
    result = local.door.run(replace(local.operation("op-1", "observe.yml", {}), host=far))
    assert result.status == "unreachable"
    said = told.read_text(errors="replace")
    assert f'UserKnownHostsFile="{local.door.known_hosts}"' in said
    for word in ("StrictHostKeyChecking=yes", "GlobalKnownHostsFile=/dev/null", "BatchMode=yes"):
        assert word in said
    assert "StrictHostKeyChecking=no" not in said
    assert HUSH not in said
