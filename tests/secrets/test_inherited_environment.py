"""What of an environment goes on to processes of ours and to a host's tools."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stack.secrets.inherited import for_our_processes, for_tools, without_credentials

WORD = st.text("abcXYZ019-_.~%!$&'()*+,;=", min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("given_text", "kept"),
    [
        ("https://user:pw@index/simple", "https://index/simple"),
        ("https://token@index/simple", "https://index/simple"),
        ("https://u:p@a/x https://b/y https://u2:p@c", "https://a/x https://b/y https://c"),
        ("https://u:p@ss@index/", "https://index/"),
        ("/srv/wheels file:///srv/w", "/srv/wheels file:///srv/w"),
        ("https://index/a@b", "https://index/a@b"),
        ("", ""),
    ],
)
def test_credentials_are_cut_out_of_urls(given_text: str, kept: str) -> None:
    assert without_credentials(given_text) == kept
    assert for_tools({"PIP_EXTRA_INDEX_URL": given_text}) == {"PIP_EXTRA_INDEX_URL": kept}


def test_a_proxy_without_a_scheme() -> None:
    assert for_tools({"https_proxy": "user:pw@proxy:3128", "no_proxy": "a@b"}) == {
        "https_proxy": "proxy:3128",
        "no_proxy": "a@b",
    }


@given(user=WORD, password=WORD)
def test_no_password_is_left(user: str, password: str) -> None:
    hidden = f"hush{password}"
    for name in ("PIP_INDEX_URL", "PIP_PROXY", "HTTPS_PROXY", "all_proxy"):
        kept = for_tools({name: f"https://{user}:{hidden}@host:1/simple/"})
        assert kept == {name: "https://host:1/simple/"}


@pytest.mark.parametrize(
    "name",
    ["AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "PIP_TOKEN", "PIP_PASSWORD", "VAULT_TOKEN", "DATABASE_URL", "LD_PRELOAD",
     "ANSIBLE_VAULT_PASSWORD_FILE", "ANSIBLE_CONFIG", "BASH_ENV", "OPENAI_API_KEY", "SSH_ASKPASS",
     "STACK_ADMIN_TOKEN", "STACK_CLIENT_KEY"],
)  # fmt: skip
def test_what_nobody_asked_for_stays_behind(name: str) -> None:
    assert for_tools({name: "hush"}) == {}
    assert for_our_processes({name: "hush"}) == {}


def test_what_is_needed_goes_on() -> None:
    tools = {
        "HOME": "/h",
        "LC_ALL": "C",
        "PIP_CERT": "/ca",
        "PIP_CONFIG_FILE": "/c",
        "PIP_NO_INDEX": "1",
        "TMPDIR": "/t",
    }
    ours = {"PATH": "/bin", "STACK_HOME": "/s", "PYTHONPATH": "/p", "VIRTUAL_ENV": "/v"}
    assert for_tools({**tools, **ours}) == tools
    assert for_our_processes({**tools, **ours}) == {**tools, **ours}


def test_a_variable_that_a_secret_comes_from_never_does() -> None:
    environ = {"PYTHONSECRET": "hush", "HOME": "hush", "PATH": "/bin"}
    assert for_our_processes(environ, ["PYTHONSECRET", "HOME"]) == {"PATH": "/bin"}
