"""Seeded secrets through deploys that fail and that succeed, an approval, errors and -vvv: they show up nowhere."""

from __future__ import annotations

import http.client
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat, PublicFormat
from leaks import Sampler, Searcher, canary
from running_stack import MODELS, REPOSITORY, Json, RunningStack, until

from stack.cli.setup import prepare
from stack.config.home import Home
from stack.core.clock import SystemClock
from stack.policy.statement import NAMESPACE

sys.path.append(str(REPOSITORY / "tests" / "secrets"))
from vault_stand_in import VaultStandIn, serving

pytestmark = [pytest.mark.faults]
Count = Callable[[str], None]
CHANGE = "CHG-1"


@dataclass
class Seeded:
    """The canaries by name, and what was answered or printed while they were about."""

    chance: random.Random
    values: dict[str, str] = field(default_factory=dict)
    outputs: list[tuple[str, str, bytes]] = field(default_factory=list)

    def new(self, name: str) -> str:
        return self.values.setdefault(name, canary(self.chance))

    def keep(self, name: str, value: str) -> str:
        return self.values.setdefault(name, value)

    def collect(self, kind: str, place: str, data: bytes | str) -> None:
        self.outputs.append((kind, place, data if isinstance(data, bytes) else data.encode()))


def private(path: Path, text: str) -> Path:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(text)
    return path


def configured(stack: RunningStack, seeded: Seeded, vault: VaultStandIn, folder: Path) -> None:
    """Secrets of all three kinds of places, before anything runs."""
    private(stack.home / "secrets" / "admin.token", seeded.new("admin.token"))
    private(stack.home / "secrets" / "checkpoint.key", seeded.keep("checkpoint.key", seeded.chance.randbytes(32).hex()))
    vault.put(
        "secret/stack/probe", {"key": seeded.new("probe.key (Vault)"), "other": seeded.new("another field in Vault")}
    )
    role, proof = seeded.new("role id"), seeded.new("secret id")
    vault.roles[role] = proof
    settings = yaml.safe_load(stack.stack_yaml.read_text())
    settings["secrets"] = [
        {"name": "client.key", "from": "environment", "variable": "STACK_CLIENT_KEY"},
        {"name": "probe.key", "from": "vault", "path": "stack/probe", "key": "key"},
    ]
    settings["vault"] = {
        "address": vault.address,
        "auth": "approle",
        "role_id_file": str(private(folder / "role", role)),
        "secret_id_file": str(private(folder / "proof", proof)),
    }
    settings["policies"] = str(folder / "policies")
    stack.stack_yaml.write_text(yaml.safe_dump(settings))


def approver(folder: Path, seeded: Seeded) -> None:
    """The shipped policies with an owner and somebody who asks, and the owner's private key under a passphrase."""
    shutil.copytree(REPOSITORY / "policies", folder / "policies")
    key, phrase = Ed25519PrivateKey.generate(), seeded.new("passphrase of an SSH key").encode()
    file = folder / "ann.key"
    file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, BestAvailableEncryption(phrase)))
    file.chmod(0o600)
    line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    (folder / "policies" / "people.yaml").write_text(
        'schema: "1"\npeople:\n  - {name: ann, roles: [owner]}\n  - {name: rob, roles: [security]}\n'
    )
    (folder / "policies" / "allowed_signers").write_text(f'ann namespaces="{NAMESPACE}" {line}\n')


def surroundings(seeded: Seeded) -> dict[str, str]:
    """What an operator's shell may hold: the configured secret, and many that are not ours."""
    foreign = (
        "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "OPENAI_API_KEY", "HF_TOKEN", "VAULT_TOKEN", "ANSIBLE_BECOME_PASSWORD",
        "PIP_TOKEN", "SSH_ASKPASS_SECRET", "DATABASE_URL", "NPM_TOKEN", "MY_PASSWORD", "ANSIBLE_VAULT_PASSWORD",
    )  # fmt: skip
    found = {name: seeded.new(f"environment {name}") for name in foreign}
    return {**found, "STACK_CLIENT_KEY": seeded.new("client.key (environment)"), "ANSIBLE_VERBOSITY": "3"}


def without_an_index(seeded: Seeded) -> dict[str, str]:
    """pip's configuration by the environment, with credentials, of servers that are not there."""
    user, other = quote(seeded.new("PIP_INDEX_URL"), safe=""), quote(seeded.new("PIP_EXTRA_INDEX_URL"), safe="")
    proxy = quote(seeded.new("https_proxy"), safe="")
    return {
        "PIP_INDEX_URL": f"https://user:{user}@127.0.0.1:9/simple",
        "PIP_EXTRA_INDEX_URL": f"https://{other}@127.0.0.1:9/one https://x:{other}@127.0.0.1:9/two",
        "https_proxy": f"http://user:{proxy}@127.0.0.1:9",
        "PIP_NO_CACHE_DIR": "1", "PIP_RETRIES": "0", "PIP_TIMEOUT": "2", "PIP_CONFIG_FILE": "/dev/null",
        "PIP_FIND_LINKS": "",
    }  # fmt: skip


def ctl(stack: RunningStack, seeded: Seeded, *words: str, **extra: str) -> subprocess.CompletedProcess[str]:
    done = stack.ctl(*words, **extra)
    seeded.collect("stdout and stderr", " ".join(words), done.stdout + done.stderr)
    return done


def ask(
    stack: RunningStack,
    seeded: Seeded,
    method: str,
    path: str,
    body: Any = None,
    *,
    secret: bool = False,
    **headers: str,
) -> tuple[int, Json]:
    """One request to the admin API; its answer is looked through, unless it is meant to hold a secret."""
    wire = http.client.HTTPConnection("127.0.0.1", stack.admin_port, timeout=60)
    given = {"authorization": f"Bearer {seeded.values['admin.token']}", "content-type": "application/json", **headers}
    try:
        wire.request(method, "/api/v1" + path, None if body is None else json.dumps(body), given)
        answer = wire.getresponse()
        data, heads = answer.read(), str(answer.getheaders())
    finally:
        wire.close()
    if not secret:
        seeded.collect(
            "answers of the API", f"{method} {path.partition('?')[0]} -> {answer.status}", data + heads.encode()
        )
    try:
        return answer.status, dict(json.loads(data))
    except ValueError:
        return answer.status, {}


def chat(stack: RunningStack, seeded: Seeded, key: str, query: str = "") -> int:
    """One completion through the gateway."""
    wire = http.client.HTTPConnection("127.0.0.1", stack.gateway_port, timeout=60)
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    try:
        wire.request("POST", "/v1/chat/completions" + query, json.dumps(body), {"authorization": f"Bearer {key}"})
        answer = wire.getresponse()
        seeded.collect("answers of the gateway", str(answer.status), answer.read() + str(answer.getheaders()).encode())
        return answer.status
    finally:
        wire.close()


def mistakes(stack: RunningStack, seeded: Seeded) -> list[int]:
    """Secrets where they do not belong: the answers name fields, never what stood in them."""
    new, statuses = seeded.new, []

    def sent(method: str, path: str, body: Any = None, **headers: str) -> None:
        statuses.append(ask(stack, seeded, method, path, body, **headers)[0])

    for number in range(4):
        sent("POST", "/deploy", {}, authorization=f"Bearer {new(f'wrong token {number}')}")
    sent("GET", "/status", authorization=f"Basic {new('basic authorization')}")
    sent("GET", "/status", authorization=new("authorization without a scheme"))
    sent("POST", "/deploy", {"service": "tiny", "token": new("unknown field")})
    sent("POST", "/deploy", {"service": "tiny", new("name of an unknown field"): 1})
    sent("POST", "/deploy", {"service": {"password": new("field of a wrong type")}})
    sent("POST", "/deploy", {"service": new("over-long field") * 20})
    sent("POST", "/deploy", {"dry_run": new("text for a truth")})
    sent("POST", "/deploy", [new("body of a wrong type")])
    sent("POST", "/deploy", new("body that is a text"))
    sent("POST", "/tokens", {"name": "x", "roles": [new("role that is none")], "days": 1})
    sent("POST", "/tokens", {"name": "x", "roles": ["viewer"], "days": new("text for a number")})
    sent("POST", f"/changes/{CHANGE}/approve", {"signature": new("what is no signature")})
    sent("POST", f"/changes/{CHANGE}/reject", {"reason": "", "secret": new("unknown field beside a bad one")})
    for number in range(3):
        sent("GET", f"/status?token={quote(new(f'query {number}'), safe='')}")
    sent("GET", f"/admin/audit?limit={quote(new('query of a wrong type'), safe='')}")
    sent("POST", f"/nothing?key={quote(new('query of an unknown path'), safe='')}", {})
    sent("GET", "/status", **{"x-api-key": new("unknown header"), "cookie": f"session={new('cookie')}"})
    for number in range(3):
        chat(stack, seeded, new(f"wrong key at the gateway {number}"))
    chat(
        stack, seeded, seeded.values["client.key (environment)"], "?key=" + quote(new("query at the gateway"), safe="")
    )
    return statuses


def approved_deploy(stack: RunningStack, seeded: Seeded, folder: Path) -> str:
    """A production deploy as people do it: refused for want of an approval, approved with a key under a passphrase."""
    token = private(folder / "rob.token", seeded.values["personal token 0"])
    words = ("deploy", "--model", str(MODELS / "tiny-1.0.yaml"), "--env", "production", "--change", CHANGE)
    words = (*words, "--no-wait", "--json")
    waiting = ctl(stack, seeded, *words, STACK_TOKEN_FILE=str(token))
    assert waiting.returncode == 7, waiting.stdout + waiting.stderr
    code, said = on_a_terminal(
        stack,
        ("change", "approve", CHANGE, "--key", str(folder / "ann.key"), "--yes"),
        seeded.values["passphrase of an SSH key"],
    )
    seeded.collect("stdout and stderr", "change approve", said)
    assert code == 0, said
    begun = ctl(stack, seeded, *words, STACK_TOKEN_FILE=str(token))
    assert begun.returncode == 0, begun.stdout + begun.stderr
    return str(json.loads(begun.stdout)["rollout"])


def on_a_terminal(stack: RunningStack, words: tuple[str, ...], typed: str) -> tuple[int, bytes]:
    """``stackctl`` on a terminal, with this typed once it asks; the exit code and all that it showed."""
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "stack.cli", *words]
    child = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=stack.environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    said, waiting = b"", True
    while True:
        try:
            read = os.read(ours, 4096)
        except OSError:  # EIO: the other end is closed
            break
        said += read
        if waiting and b"Passphrase" in said:
            os.write(ours, typed.encode() + b"\n")
            waiting = False
        if not read:
            break
    os.close(ours)
    return child.wait(60), said


def exports(stack: RunningStack, seeded: Seeded, folder: Path) -> None:
    """Everything that can be asked for."""
    paths = (
        "/status", "/diff", "/rollouts", "/models", "/admin/audit?limit=500", "/audit/export", "/audit/head", "/alerts",
        "/changes", f"/changes/{CHANGE}", f"/changes/{CHANGE}/report", "/tokens", "/openapi.json", "/gateway/health",
    )  # fmt: skip
    for path in paths:
        ask(stack, seeded, "GET", path)
    for words in (
        ("status",),
        ("status", "--json"),
        ("doctor",),
        ("audit", "tail"),
        ("audit", "verify"),
        ("rollout", "list"),
    ):
        ctl(stack, seeded, *words)


def test_fifty_seeded_secrets_show_up_nowhere(
    new_stack: Callable[..., RunningStack], tmp_path: Path, chance: random.Random, counted: Count
) -> None:
    seeded, stack = Seeded(chance), new_stack()
    approver(tmp_path, seeded)
    with serving(VaultStandIn(clock=SystemClock())) as vault:
        configured(stack, seeded, vault, tmp_path)
        shell, pip = surroundings(seeded), without_an_index(seeded)
        with Sampler(excused=(b"stack.cli\0",)) as sampler:
            installed = (stack.host / "runtimes").readlink()
            (stack.host / "runtimes").unlink()
            up = ("up", "--stack", str(stack.stack_yaml))
            assert ctl(stack, seeded, *up, **shell, **pip).returncode == 0
            failed = ctl(stack, seeded, "deploy", **shell, **pip)
            assert failed.returncode == 4, failed.stdout + failed.stderr
            ctl(stack, seeded, "down", **shell)
            shutil.rmtree(stack.host / "runtimes")
            (stack.host / "runtimes").symlink_to(installed)
            assert ctl(stack, seeded, *up, **shell).returncode == 0
            tokens = personal_tokens(stack, seeded)
            rollout = approved_deploy(stack, seeded, tmp_path)
            ended = stack.ended(rollout)
            assert ended["phase"] == "promoted", ended["reason"]
            assert until(lambda: chat(stack, seeded, seeded.values["client.key (environment)"]) == 200)
            statuses = mistakes(stack, seeded)
            exports(stack, seeded, tmp_path)
            running = {
                name: Path(f"/proc/{stack.pid(name)}/environ").read_bytes() for name in ("control-plane", "gateway")
            }
            for number, token in enumerate(vault.tokens):
                seeded.keep(f"token of Vault {number}", token)
            last = searcher_of(seeded)
            last.look_at_files("files while it ran", stack.home, leave_out=("secrets",))
            ctl(stack, seeded, "down", **shell)
    for kind, place, data in [*seeded.outputs, *sampler.saw]:
        last.look(kind, place, data)
    for name, data in running.items():
        last.look("environ", name, data)
    last.look_at_files("files at the end", stack.home, leave_out=("secrets",))
    for left in Path("/dev/shm").glob("stack-run-*"):
        last.look_at_files("left in /dev/shm", left)
    assert len(seeded.values) >= 50
    assert 200 not in statuses[:6], "wrong tokens were refused"
    assert b"ANSIBLE_VERBOSITY=3" in running["control-plane"], "it was verbose"
    assert tokens >= 5
    assert not last.leaks, "\n".join(sorted(f"{leak.name} in {leak.place}" for leak in last.leaks))
    kinds = last.places
    counted(
        f"{len(seeded.values)} seeded secrets in {len(last.needles)} forms: 0 found in "
        f"{sum(kinds.values())} places ({', '.join(f'{n} {k}' for k, n in sorted(kinds.items()))}), "
        f"{last.bytes_read / 1e6:.1f} MB, {sampler.rounds} rounds over /proc"
    )


def searcher_of(seeded: Seeded) -> Searcher:
    """A searcher for everything seeded."""
    values = {name: value.encode() for name, value in seeded.values.items()}
    seed = seeded.values["checkpoint.key"]
    return Searcher({**values, "checkpoint.key, its bytes": bytes.fromhex(seed)})


def personal_tokens(stack: RunningStack, seeded: Seeded) -> int:
    """Tokens that the control plane itself makes: shown once, in the answer that nobody keeps."""
    for number, name in enumerate(("rob", "person-1", "person-2", "person-3", "person-4")):
        body = {"name": name, "roles": ["operator"], "days": 1}
        status, made = ask(stack, seeded, "POST", "/tokens", body, secret=True)
        assert status == 200, made
        token = seeded.keep(f"personal token {number}", str(made["token"]))
        assert ask(stack, seeded, "GET", "/status", authorization=f"Bearer {token}")[0] == 200
    return number + 1


def test_a_control_plane_started_by_hand_takes_its_secret_out_of_its_environment(
    new_stack: Callable[..., RunningStack], chance: random.Random
) -> None:
    """As by a unit with ``EnvironmentFile``: it starts itself again, under the same pid."""
    stack, value = new_stack(), canary(chance)
    settings = yaml.safe_load(stack.stack_yaml.read_text())
    settings["secrets"] = [{"name": "client.key", "from": "environment", "variable": "STACK_CLIENT_KEY"}]
    stack.stack_yaml.write_text(yaml.safe_dump(settings))
    prepare(Home(stack.home))
    command = [sys.executable, "-m", "stack.api", "--home", str(stack.home), "--stack", str(stack.stack_yaml)]
    extra = {**stack.environment, "STACK_CLIENT_KEY": value, "GITHUB_TOKEN": value}
    child = subprocess.Popen(command, cwd=REPOSITORY, env=extra, stderr=subprocess.DEVNULL)
    try:
        until(lambda: answers(stack.admin_port))
        assert value.encode() not in Path(f"/proc/{child.pid}/environ").read_bytes()
        assert b"STACK_HOME=" in Path(f"/proc/{child.pid}/environ").read_bytes()
    finally:
        child.terminate()
        child.wait(30)


def answers(port: int) -> bool:
    wire = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        wire.request("GET", "/health")
        return wire.getresponse().status == 200
    except OSError:
        return False
    finally:
        wire.close()
