"""The Vault session: logged in in time, renewed in time, and every way in which a Vault does not serve, told apart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from secret_places import private, server_of
from vault_stand_in import DELETED_AT, VaultStandIn, certificate, serving

from stack.core.clock import ManualClock
from stack.core.errors import StackError
from stack.secrets.source import NoSecret, SecretTooOpen
from stack.secrets.vault import VaultSession, VaultSource
from stack.secrets.vault_values import (
    VaultAddress,
    VaultDenied,
    VaultHasNoSecret,
    VaultPlace,
    VaultServer,
    VaultUnavailable,
    address_problem,
)

HUSH = "hush-3f9a-value"
PLACE = VaultPlace(path="stack/client", key="value")


@pytest.fixture
def vault() -> Iterator[VaultStandIn]:
    with serving(VaultStandIn(clock=ManualClock())) as stand_in:
        stand_in.put("secret/stack/client", {"value": HUSH, "number": 7})
        yield stand_in


def session_of(vault: VaultStandIn, folder: Path, auth: str = "token", timeout_s: float = 30.0) -> VaultSession:
    return VaultSession(server_of(vault, folder, auth, timeout_s), vault.clock)


def advance(vault: VaultStandIn, seconds: float) -> None:
    assert isinstance(vault.clock, ManualClock)
    vault.clock.advance(seconds)


@pytest.mark.parametrize("auth", ["token", "approle"])
def test_a_token_is_renewed_before_it_expires_and_not_more_often(
    vault: VaultStandIn, tmp_path: Path, auth: str
) -> None:
    session = session_of(vault, tmp_path, auth)
    for _ in range(60):
        assert session.read(PLACE) == HUSH
        advance(vault, 30)
    renewals = [line for line in vault.asked if line.endswith("renew-self")]
    logins = [line for line in vault.asked if line.endswith(("login", "lookup-self"))]
    assert (len(logins), 60 * 30 // 300 <= len(renewals) <= 60 * 30 // 200) == (1, True)


def test_where_renewal_fails_it_logs_in_again(vault: VaultStandIn, tmp_path: Path) -> None:
    session = session_of(vault, tmp_path, "approle")
    assert session.read(PLACE) == HUSH
    vault.fault = "no-renewal"
    advance(vault, 250)
    assert session.read(PLACE) == HUSH
    assert [line for line in vault.asked if "login" in line or "renew" in line] == [
        "POST auth/approle/login",
        "POST auth/token/renew-self",
        "POST auth/approle/login",
    ]


@pytest.mark.parametrize("pause", [299, 301, 5000])
def test_a_token_that_expired_meanwhile_is_replaced(vault: VaultStandIn, tmp_path: Path, pause: int) -> None:
    session = session_of(vault, tmp_path, "approle")
    assert session.read(PLACE) == HUSH
    advance(vault, pause)
    assert session.read(PLACE) == HUSH


def test_at_its_maximum_it_logs_in_again(vault: VaultStandIn, tmp_path: Path) -> None:
    vault.max_ttl = 900
    session = session_of(vault, tmp_path, "approle")
    for _ in range(100):
        assert session.read(PLACE) == HUSH
        advance(vault, 20)
    assert vault.asked.count("POST auth/approle/login") >= 2


def test_a_revoked_token_is_replaced_once(vault: VaultStandIn, tmp_path: Path) -> None:
    session = session_of(vault, tmp_path, "approle")
    assert session.read(PLACE) == HUSH
    vault.tokens.clear()
    assert session.read(PLACE) == HUSH
    assert vault.asked.count("POST auth/approle/login") == 2


def test_a_rotated_token_file_is_read_again(vault: VaultStandIn, tmp_path: Path) -> None:
    session = session_of(vault, tmp_path)
    assert session.read(PLACE) == HUSH
    vault.tokens.clear()
    with pytest.raises(VaultDenied):
        session.read(PLACE)
    private(tmp_path / "token", vault.new_token())
    assert session.read(PLACE) == HUSH


def test_a_token_that_lives_for_ever_is_never_renewed(vault: VaultStandIn, tmp_path: Path) -> None:
    session = session_of(vault, tmp_path)
    private(tmp_path / "token", vault.new_token(ttl=0, renewable=False))
    for _ in range(3):
        assert session.read(PLACE) == HUSH
        advance(vault, 10**6)
    assert not [line for line in vault.asked if "renew" in line]


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("sealed", "it is sealed"),
        ("standby", "it is a standby"),
        ("uninitialised", "it is not initialised"),
        ("error-500", "an error of its own"),
        ("malformed", "though it said all is well"),
        ("nonsense", "though it said all is well"),
        ("redirect", "though it said all is well"),
        ("list", ""),
        ("slow", "no answer within 0.2 s"),
    ],
)
@pytest.mark.parametrize("when", ["at login", "at a read"])
def test_a_vault_that_does_not_serve(vault: VaultStandIn, tmp_path: Path, fault: str, says: str, when: str) -> None:
    session = session_of(vault, tmp_path, timeout_s=0.2 if fault == "slow" else 30)
    if when == "at a read" and fault != "slow":
        assert session.read(PLACE) == HUSH
    vault.fault = fault
    vault.redirected_to = vault.address.replace("127.0.0.1", "localhost")
    before = len(vault.asked)
    with pytest.raises((VaultUnavailable, VaultHasNoSecret)) as refused:
        session.read(PLACE)
    assert says in refused.value.message
    assert refused.value.exit_code == 4
    assert refused.value.advice
    assert len(vault.asked) - before <= 3, "no storm of repetitions"
    vault.fault = ""
    if fault != "slow":
        assert session.read(PLACE) == HUSH, "works again without a restart"


def test_nothing_is_sent_along_a_redirect(vault: VaultStandIn, tmp_path: Path) -> None:
    with serving(VaultStandIn(clock=vault.clock)) as other:
        session = session_of(vault, tmp_path)
        vault.fault, vault.redirected_to = "redirect", other.address
        with pytest.raises(VaultUnavailable):
            session.read(PLACE)
        assert other.asked == []


def test_what_is_missing_deleted_or_destroyed(vault: VaultStandIn, tmp_path: Path) -> None:
    session = session_of(vault, tmp_path)
    vault.put("secret/stack/client", {"value": "new"})
    versions = vault.versions["secret/stack/client"]

    def why(**change: object) -> str:
        with pytest.raises(VaultHasNoSecret) as missing:
            session.read(VaultPlace(**{"path": "stack/client", "key": "value", **change}))
        return missing.value.message

    assert session.read(VaultPlace(path="stack/client", key="value", version=1)) == HUSH
    assert session.read(PLACE) == "new"
    assert "no such secret" in why(path="stack/other")
    assert "no such secret" in why(version=9)
    assert "no such secret" in why(mount="kv")
    assert "no field 'password'" in why(key="password")
    versions[1]["deletion_time"] = DELETED_AT
    assert "this version was deleted" in why()
    versions[1]["destroyed"] = True
    assert "this version was destroyed" in why(version=2)
    assert session.read(VaultPlace(path="stack/client", key="value", version=1)) == HUSH


def test_a_field_that_is_no_text(vault: VaultStandIn, tmp_path: Path) -> None:
    with pytest.raises(VaultUnavailable, match="no text"):
        session_of(vault, tmp_path).read(VaultPlace(path="stack/client", key="number"))


def test_the_namespace_matters(vault: VaultStandIn, tmp_path: Path) -> None:
    server = server_of(vault, tmp_path)
    vault.namespace = "team/a"
    with pytest.raises(VaultDenied, match="permission denied"):
        VaultSession(server, vault.clock).read(PLACE)
    assert VaultSession(server_of(vault, tmp_path), vault.clock).read(PLACE) == HUSH


def test_wrong_credentials(vault: VaultStandIn, tmp_path: Path) -> None:
    for auth, file in (("token", "token"), ("approle", "proof"), ("approle", "role")):
        session = session_of(vault, tmp_path, auth)
        private(tmp_path / file, "hush-wrong-credential")
        with pytest.raises(VaultDenied) as refused:
            session.read(PLACE)
        assert "hush" not in json.dumps(refused.value.to_json())
        assert refused.value.__cause__ is None
        assert refused.value.__suppress_context__


def test_files_of_credentials_must_be_private(vault: VaultStandIn, tmp_path: Path) -> None:
    for auth, file in (("token", "token"), ("approle", "proof"), ("approle", "role")):
        session = session_of(vault, tmp_path, auth)
        (tmp_path / file).chmod(0o644)
        with pytest.raises(SecretTooOpen):
            session.read(PLACE)
        (tmp_path / file).chmod(0o600)
    with pytest.raises(NoSecret, match="token_file"):
        VaultSession(VaultServer(address=vault.address), vault.clock).read(PLACE)


def test_only_a_server_with_the_right_certificate_gets_the_token(tmp_path: Path) -> None:
    ours, other = tmp_path / "ours", tmp_path / "other"
    for folder in (ours, other):
        folder.mkdir()
    certificate(other)
    with serving(VaultStandIn(clock=ManualClock()), ours) as vault:
        vault.put("secret/stack/client", {"value": HUSH})
        good = server_of(vault, ours)
        assert VaultSession(good, vault.clock).read(PLACE) == HUSH
        asked = len(vault.asked)
        for ca_file in (other / "ca.pem", None):
            server = VaultServer(address=vault.address, ca_file=ca_file, token_file=ours / "token")
            with pytest.raises(VaultUnavailable, match="certificate"):
                VaultSession(server, vault.clock).read(PLACE)
        assert len(vault.asked) == asked


def test_nothing_is_taken_from_the_environment(
    vault: VaultStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token, a proxy, a netrc and a namespace of the environment are not ours to send."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login x password hush\n")
    for name, value in {
        "VAULT_TOKEN": "hush", "VAULT_NAMESPACE": "wrong", "VAULT_ADDR": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9",
        "http_proxy": "http://127.0.0.1:9", "NETRC": str(tmp_path / "netrc"), "VAULT_SKIP_VERIFY": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert session_of(vault, tmp_path, "approle").read(PLACE) == HUSH


def test_no_connection(tmp_path: Path) -> None:
    private(tmp_path / "token", "hush-token")
    server = VaultServer(address="http://127.0.0.1:9", token_file=tmp_path / "token")
    with pytest.raises(VaultUnavailable, match="no connection"):
        VaultSession(server, ManualClock()).read(PLACE)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("http://vault.example.org:8200", "plain http"),
        ("http://10.0.0.1:8200", "plain http"),
        ("ftp://127.0.0.1", "no http"),
        ("vault", "no http"),
        ("https://user:hush@vault", "credentials"),
        ("https://vault/v1", "path"),
        ("https://vault?x=hush", "credentials, query"),
        ("https://[", "no URL"),
    ],
)
def test_addresses_that_secrets_may_not_travel_to(address: str, says: str) -> None:
    assert says in address_problem(address)
    with pytest.raises((VaultAddress, ValueError)) as refused:
        VaultServer(address=address)
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize(
    "address",
    ["https://vault:8200", "https://vault", "http://127.0.0.1:8200", "http://localhost:1", "http://[::1]:8200/"],
)
def test_addresses_that_they_may(address: str) -> None:
    assert address_problem(address) == ""


def test_no_error_of_any_fault_holds_what_was_sent_or_got(vault: VaultStandIn, tmp_path: Path) -> None:
    secrets_in_play = [HUSH, *vault.tokens]
    for auth in ("token", "approle"):
        for fault in ("sealed", "error-500", "malformed", "nonsense", "list", "redirect"):
            session = session_of(vault, tmp_path, auth)
            secrets_in_play += [*vault.tokens, *vault.roles, *vault.roles.values()]
            vault.fault = fault
            with pytest.raises(StackError) as refused:
                VaultSource(places={"k": PLACE}, session=session).read("k")
            vault.fault = ""
            shown = json.dumps(refused.value.to_json()) + repr(refused.value)
            assert not [value for value in secrets_in_play if value in shown]
