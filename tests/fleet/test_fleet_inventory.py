"""Ansible inventories that people already have, as Ansible itself reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest_fleet import REPOSITORY
from hypothesis import given
from hypothesis import strategies as st

from stack.app.wiring import with_inventory
from stack.config.stack_yaml import load_stack
from stack.fleet.inventory import InventoryUnreadable, hosts_in, read_inventory

INI = """
[gpu]
gpu1 ansible_host=10.0.0.5 ansible_user=deploy ansible_port=2222 stack_root=/srv/stack
[edge]
edge1 ansible_host=10.0.0.6
here ansible_connection=local
[cpu:children]
edge
[others]
db1 ansible_password=secret
[all:vars]
ansible_python_interpreter=/usr/bin/python3
"""


def test_hosts_of_both_groups_are_taken_with_how_they_are_reached(tmp_path: Path) -> None:
    path = tmp_path / "hosts.ini"
    path.write_text(INI)
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars" / "edge.yml").write_text("ansible_user: ops\n")
    edge, gpu, here = read_inventory(path)
    assert (gpu.name, gpu.group, gpu.address, gpu.user, gpu.port, str(gpu.root)) == (
        "gpu1",
        "gpu",
        "10.0.0.5",
        "deploy",
        2222,
        "/srv/stack",
    )
    assert (edge.group, edge.address, edge.user, str(edge.python)) == ("cpu", "10.0.0.6", "ops", "/usr/bin/python3")
    assert (here.connection, here.address) == ("local", "127.0.0.1")


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[gpu]\na ansible_ssh_common_args='-o ProxyJump=x'\n", "ansible_ssh_common_args"),
        ("[gpu]\na ansible_become=true ansible_password=x\n", "ansible_become, ansible_password"),
        ("[gpu]\na ansible_connection=docker\n", "docker"),
        ("[gpu]\na ansible_port=ssh\n", "ansible_port"),
        ("[gpu]\nBad_Name!\n", "host name"),
        ("[gpu]\na\n[cpu]\na\n", "group cpu and in group gpu"),
        ("[web]\na\n", "no host"),
        ("[gpu\na\n", "failed to parse"),
    ],
)
def test_what_would_be_left_out_or_is_wrong_is_refused_by_name(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "hosts.ini"
    path.write_text(text)
    with pytest.raises(InventoryUnreadable, match=word):
        read_inventory(path)


def test_an_inventory_is_never_run(tmp_path: Path) -> None:
    proof = tmp_path / "ran"
    path = tmp_path / "hosts.sh"
    path.write_text(f"#!/bin/sh\ntouch {proof}\necho '{{}}'\n")
    path.chmod(0o755)
    with pytest.raises(InventoryUnreadable, match="executable"):
        read_inventory(path)
    path.chmod(0o644)
    with pytest.raises(InventoryUnreadable):
        read_inventory(path)
    assert not proof.exists()


def test_the_stack_file_names_it_and_every_host_must_be_somewhere_once(tmp_path: Path) -> None:
    settings = yaml.safe_load((REPOSITORY / "stack.yaml").read_text())
    service = settings["services"][0]
    service["model"] = str(REPOSITORY / "models" / "tiny-1.0.yaml")
    service["suites"] = {k: str(REPOSITORY / v) for k, v in service["suites"].items()}
    service["hosts"] = ["local", "gpu1"]
    settings["inventory"] = "hosts.ini"
    (tmp_path / "hosts.ini").write_text(INI)
    (tmp_path / "stack.yaml").write_text(yaml.safe_dump(settings))
    assert sorted(with_inventory(load_stack(tmp_path / "stack.yaml")).hosts) == ["edge1", "gpu1", "here", "local"]
    for change, word in (({"hosts": [{"name": "gpu1"}]}, "gpu1 stands in"), ({"inventory": "none.ini"}, "no such")):
        (tmp_path / "stack.yaml").write_text(yaml.safe_dump({**settings, **change}))
        with pytest.raises(InventoryUnreadable, match=word):
            with_inventory(load_stack(tmp_path / "stack.yaml"))
    service["hosts"] = ["moon"]
    (tmp_path / "stack.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(InventoryUnreadable, match="moon"):
        with_inventory(load_stack(tmp_path / "stack.yaml"))


scalars = st.none() | st.text(max_size=8) | st.integers() | st.booleans()
words = st.sampled_from(["ansible_host", "ansible_port", "ansible_user", "ansible_connection", "stack_root", "x"])


@given(st.dictionaries(st.text(max_size=9), st.dictionaries(words, scalars), max_size=4))
def test_any_variables_give_hosts_or_mistakes(variables: dict[str, Any]) -> None:
    listed = {"_meta": {"hostvars": variables}, "gpu": {"hosts": list(variables)}, "cpu": {"children": ["cpu"]}}
    hosts, mistakes = hosts_in(json.loads(json.dumps(listed)))
    assert len(hosts) + len(mistakes) >= max(1, len(variables))
