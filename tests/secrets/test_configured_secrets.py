"""``secrets`` and ``vault`` of stack.yaml: every mistake with its line, and the source that comes of them."""

from __future__ import annotations

import secrets as random_secrets
import subprocess
import sys
from pathlib import Path

import pytest
from secret_places import private
from vault_stand_in import VaultStandIn, serving

from stack.app.sources import build_source, files_to_make
from stack.config.home import Home
from stack.config.stack_yaml import ConfigurationError, StackSettings, parse
from stack.core.clock import ManualClock
from stack.secrets.source import DummySecret, NoSecret

REPOSITORY = Path(__file__).parents[2]
SERVICE = "services: [{name: tiny, model: models/tiny-1.0.yaml}]\n"
KEY = "f3" + random_secrets.token_hex(31)


def settings_of(text: str) -> StackSettings:
    return parse(('schema: "1"\n' + SERVICE + text).encode(), REPOSITORY / "stack.yaml")


def mistakes(text: str) -> list[str]:
    with pytest.raises(ConfigurationError) as refused:
        settings_of(text)
    return [str(problem) for problem in refused.value.problems]


def home_of(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.create()
    for name in ("admin.token", "client.key", "probe.key", "checkpoint.key"):
        private(home.secret(name), f"{name}-{KEY}")
    return home


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("secrets: [{name: other.key, from: file}]", "secrets[0].name: expected one of admin.token"),
        ("secrets: [{name: client.key, from: keyring}]", "secrets[0].from: expected one of file, environment, vault"),
        ("secrets: [{name: client.key, from: environment}]", "secrets[0].variable: missing"),
        ("secrets: [{name: client.key, from: environment, variable: 'a b'}]", "no name of an environment variable"),
        ("secrets: [{name: client.key, from: file, variable: X}]", "secrets[0].variable: not for a secret from file"),
        ("secrets: [{name: client.key, from: environment, variable: X, path: p}]", "path: not for a secret from env"),
        ("secrets: [{name: client.key, from: vault, path: a, key: b}]", "there is no section 'vault'"),
        ("secrets: [{name: client.key, from: vault}]", "secrets[0].path: missing"),
        ("secrets: [{name: client.key, from: file}, {name: client.key, from: file}]", "'client.key' is listed twice"),
        ("vault: {address: 'https://v', auth: approle}", "vault.secret_id_file: missing: auth approle needs it"),
        ("vault: {address: 'https://v'}", "vault.token_file: missing: auth token needs it"),
        ("vault: {address: 'https://v', token_file: t, token: hush}", "vault.token: unknown key"),
        ("vault: {address: 'https://v', token_file: t, namespace: '../x'}", "no path of Vault"),
        ("vault: [1]", "vault: expected"),
        ("secrets: {name: x}", "secrets: expected"),
    ],
)
def test_mistakes(text: str, says: str) -> None:
    found = mistakes(text)
    assert [line for line in found if says in line], found
    assert all(line.startswith("line 3") for line in found)


def test_paths_of_files_are_beside_the_stack_file_and_those_of_vault_are_not() -> None:
    settings = settings_of(
        "secrets: [{name: client.key, from: file, path: keys/c}, {name: probe.key, from: vault, path: a/b, key: k}]\n"
        "vault: {address: 'https://v', token_file: t, ca_file: /etc/ca.pem}"
    )
    assert [found.path for found in settings.secrets] == [str(REPOSITORY / "keys" / "c"), "a/b"]
    assert settings.vault is not None
    assert (settings.vault.token_file, settings.vault.ca_file) == (REPOSITORY / "t", Path("/etc/ca.pem"))


def test_without_a_word_about_it_secrets_are_the_files_of_the_state_directory(tmp_path: Path) -> None:
    settings, home = settings_of(""), home_of(tmp_path)
    source = build_source(settings, home, {})
    for name in ("admin.token", "client.key", "probe.key", "checkpoint.key"):
        assert source.read(name).reveal() == f"{name}-{KEY}"
    assert files_to_make(settings) == ("admin.token", "client.key", "probe.key", "checkpoint.key")
    with pytest.raises(NoSecret):
        source.read("other")


def test_each_from_its_place(tmp_path: Path) -> None:
    with serving(VaultStandIn(clock=ManualClock(), namespace="ns")) as vault:
        vault.put("kv/stack/probe", {"k": "from-vault"})
        private(tmp_path / "token", vault.new_token())
        private(tmp_path / "elsewhere", "from-a-file")
        settings = settings_of(
            "secrets:\n  - {name: client.key, from: environment, variable: CLIENT}\n"
            "  - {name: probe.key, from: vault, mount: kv, path: stack/probe, key: k, version: 1}\n"
            f"  - {{name: admin.token, from: file, path: {tmp_path / 'elsewhere'}}}\n"
            f"vault: {{address: '{vault.address}', namespace: ns, token_file: {tmp_path / 'token'}}}"
        )
        source = build_source(settings, home_of(tmp_path), {"CLIENT": "from-environment"}, vault.clock)
        got = [source.read(name).reveal() for name in ("client.key", "probe.key", "admin.token", "checkpoint.key")]
    assert got == ["from-environment", "from-vault", "from-a-file", f"checkpoint.key-{KEY}"]
    assert settings.secret_variables == ("CLIENT",)
    assert files_to_make(settings) == ("checkpoint.key",)


@pytest.mark.parametrize("environment", ["staging", "production", "prod", "anything"])
def test_dummies_are_refused_everywhere_but_in_dev(tmp_path: Path, environment: str) -> None:
    home = home_of(tmp_path)
    private(home.secret("client.key"), "changeme-changeme")
    assert build_source(settings_of("environment: dev"), home, {}).read("client.key").reveal() == "changeme-changeme"
    with pytest.raises(DummySecret):
        build_source(settings_of(f"environment: {environment}"), home, {}).read("client.key")


def test_who_does_not_use_vault_does_not_pay_for_it(tmp_path: Path) -> None:
    script = "import sys, stack.app.sources; print([m for m in ('hvac', 'requests') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
