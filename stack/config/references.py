"""What must fit together in ``stack.yaml``: names, files, ladders. Reads nodes, so that each mistake has its line.

Works on documents that are wrong elsewhere too: what can't be understood here was noted by ``fields`` already.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeGuard

import yaml

from stack.config.secret_references import check_secrets, placed_secrets, placed_vault
from stack.config.settings import OPENS, Document, HoldSettings, ServiceSettings, StackSettings, SuiteSettings
from stack.core.digest import Digest
from stack.core.strict_yaml import Ledger, at, line_of

WAYS = ("file", "command", "http")
_BACKWARDS = "must rise from step to step and end with 100"


def check(root: yaml.Node, directory: Path, ledger: Ledger) -> None:
    """Note what contradicts itself or refers to what is not there."""
    hosts = _named(_get(root, "hosts"), "hosts", ledger)
    if _get(root, "hosts") is None:
        hosts = {"local"}
    _named(_get(root, "services"), "services", ledger)
    for path, host in _items(_get(root, "hosts"), "hosts"):
        _check_host(host, path, ledger)
    for path, service in _items(_get(root, "services"), "services"):
        _check_hosts_of(service, path, hosts, ledger, more=_get(root, "inventory") is not None)
        _check_engine(service, path, ledger)
        _check_rollout(service, path, ledger)
        _check_files(service, path, directory, ledger)
    check_secrets(root, ledger)
    checkpoints = _get(_get(root, "audit"), "checkpoints")
    _named(_get(checkpoints, "sinks"), "audit.checkpoints.sinks", ledger)
    for path, sink in _items(_get(checkpoints, "sinks"), "audit.checkpoints.sinks"):
        if isinstance(sink, yaml.MappingNode) and sum(_get(sink, way) is not None for way in WAYS) != 1:
            ledger.note(sink, path, f"expected exactly one of {', '.join(WAYS)}")


def _check_host(host: yaml.Node, path: str, ledger: Ledger) -> None:
    if _word(host, "connection") == "ssh":
        if _get(host, "address") is None:
            ledger.note(host, f"{path}.address", "missing: SSH needs to know where the host is")
        return
    for key in ("user", "port", "root"):
        node = _get(host, key)
        if node is not None:
            ledger.note(node, f"{path}.{key}", "only for hosts with connection: ssh")


def _check_hosts_of(service: yaml.Node, path: str, hosts: set[str], ledger: Ledger, *, more: bool) -> None:
    """``more``: an inventory brings hosts that are not known here; whoever reads it checks them."""
    listed = _get(service, "hosts")
    if listed is None and "local" not in hosts:
        ledger.note(service, f"{path}.hosts", "missing, and there is no host 'local'")
    seen: set[str] = set()
    for place, node in _items(listed, f"{path}.hosts"):
        if not isinstance(node, yaml.ScalarNode):
            continue
        if node.value in seen:
            ledger.note(node, place, f"host {node.value!r} is listed twice")
        elif node.value not in hosts and not more:
            ledger.note(
                node, place, f"there is no host {node.value[:60]!r}; known: {', '.join(sorted(hosts)) or 'none'}"
            )
        seen.add(node.value)


def _check_engine(service: yaml.Node, path: str, ledger: Ledger) -> None:
    engine = _word(_get(service, "runtime"), "engine") or "llamacpp"
    wanted = _word(service, "format") or "gguf"
    distribution = _word(_get(service, "runtime"), "distribution")
    if engine in OPENS and wanted in ("gguf", "safetensors") and wanted not in OPENS[engine]:
        node = _get(service, "format") or _get(service, "runtime") or service
        ledger.note(node, f"{path}.format", f"{engine} opens {', '.join(OPENS[engine])}, not {wanted}")
    if engine != "llamacpp" and engine in OPENS and distribution is None:
        node = _get(service, "runtime") or service
        ledger.note(node, f"{path}.runtime.distribution", f"missing: say which package brings {engine}")
    spread = _get(_get(service, "launch"), "tensor_parallel")
    if spread is not None and (_whole(spread) or 1) > 1 and (engine, distribution) != ("vllm", "vllm"):
        named = f"{engine}/{distribution}" if distribution else engine
        ledger.note(
            spread, f"{path}.launch.tensor_parallel", f"only for vllm/vllm, not {named}: it has no accelerators"
        )


def _check_rollout(service: yaml.Node, path: str, ledger: Ledger) -> None:
    rollout = _get(service, "rollout")
    _check_ladder(_get(rollout, "ladder"), f"{path}.rollout.ladder", ledger)
    hold, usual = _get(rollout, "hold"), HoldSettings()
    least, most = _get(hold, "min_seconds"), _get(hold, "max_seconds")
    low, high = _number(least, usual.min_seconds), _number(most, usual.max_seconds)
    if hold is not None and low is not None and high is not None and low > high:
        problem = f"min_seconds {low:g} is more than max_seconds {high:g}"
        ledger.note(least or most or hold, f"{path}.rollout.hold", problem)


def _check_ladder(ladder: yaml.Node | None, path: str, ledger: Ledger) -> None:
    steps = [_whole(node) for _, node in _items(ladder, path)]
    numbers = [step for step in steps if step is not None and 1 <= step <= 100]
    sound = numbers == sorted(set(numbers)) and numbers[-1:] == [100]
    if ladder is not None and steps and len(numbers) == len(steps) and not sound:
        ledger.note(ladder, path, _BACKWARDS)


def _check_files(service: yaml.Node, path: str, directory: Path, ledger: Ledger) -> None:
    suites = _get(service, "suites")
    name, model = _get(service, "name"), _get(service, "model")
    if _is_text(model):
        _check_file(model, f"{path}.model", directory / model.value, ledger)
    for key in ("smoke", "eval"):
        node = _get(suites, key)
        if _is_text(node):
            _check_file(node, f"{path}.suites.{key}", directory / node.value, ledger)
        elif node is None and _is_text(name) and _is_text(model):
            expected = _usual_suite(directory / model.value, name.value, key)
            _check_file(suites or service, f"{path}.suites.{key}", expected, ledger)


def _check_file(node: yaml.Node, path: str, file: Path, ledger: Ledger) -> None:
    try:
        if not file.is_file():
            ledger.note(node, path, f"there is no file {_shown(file)}")
    except (OSError, ValueError):
        ledger.note(node, path, "no usable file name")


def _shown(file: Path) -> str:
    return repr(str(file))[1:-1][-200:]


def _usual_suite(model: Path, service: str, key: str) -> Path:
    return model.parent / "evals" / f"{service}-{key}.yaml"


def _named(section: yaml.Node | None, path: str, ledger: Ledger) -> set[str]:
    """The names in a list of mappings; repeated ones are noted."""
    lines: dict[str, int] = {}
    for place, item in _items(section, path):
        node = _get(item, "name")
        if not isinstance(node, yaml.ScalarNode):
            continue
        line = line_of(node)
        if node.value in lines:
            ledger.note(node, f"{place}.name", f"{node.value[:60]!r} is the name in line {lines[node.value]} already")
        lines.setdefault(node.value, line)
    return set(lines)


def _get(node: yaml.Node | None, key: str) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            if isinstance(name, yaml.ScalarNode) and name.value == key:
                return value if isinstance(value, yaml.Node) else None
    return None


def _items(node: yaml.Node | None, path: str) -> Iterator[tuple[str, yaml.Node]]:
    if isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            yield at(path, number), item


def _is_text(node: yaml.Node | None) -> TypeGuard[yaml.ScalarNode]:
    """Text of the kind that ``fields`` takes; for the rest it has noted that it is none."""
    return isinstance(node, yaml.ScalarNode) and node.tag.endswith(":str") and node.value != ""


def _word(node: yaml.Node | None, key: str) -> str | None:
    found = _get(node, key)
    return found.value if isinstance(found, yaml.ScalarNode) else None


def _number(node: yaml.Node | None, default: float) -> float | None:
    if node is None:
        return default
    try:
        return float(node.value) if isinstance(node, yaml.ScalarNode) else None
    except ValueError:
        return None


def _whole(node: yaml.Node) -> int | None:
    text = node.value if isinstance(node, yaml.ScalarNode) else ""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 9 else None


def resolved(document: Document, path: Path, digest: Digest) -> StackSettings:
    """The settings of a document without mistakes."""
    return StackSettings(
        environment=document.environment,
        hosts={host.name: host for host in document.hosts},
        services={service.name: _placed(service, path.parent) for service in document.services},
        gateway=document.gateway,
        audit=document.audit,
        database=document.database,
        policies=path.parent / document.policies,
        inventory=None if document.inventory is None else path.parent / document.inventory,
        path=path,
        digest=digest,
        secrets=placed_secrets(document.secrets, path.parent),
        vault=placed_vault(document.vault, path.parent),
    )


def _placed(service: ServiceSettings, directory: Path) -> ServiceSettings:
    model = directory / service.model
    smoke, evaluation = service.suites.smoke, service.suites.evaluation
    suites = SuiteSettings(
        smoke=_usual_suite(model, service.name, "smoke") if smoke == Path() else directory / smoke,
        evaluation=_usual_suite(model, service.name, "eval") if evaluation == Path() else directory / evaluation,
    )
    return replace(service, model=model, suites=suites)
