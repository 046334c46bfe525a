"""Which environment variables a process of ours needs, and URLs without the credentials in them. Pure.

An environment can be read by everything the user runs and ends up in core dumps and ``ps e``, so a process that this
program starts gets what is listed here and nothing else. A URL's user and password are cut out: the request then fails
at the server, in clear words, and never goes to another one. pip reads them from ~/.netrc or a 0600 pip.conf instead
(it writes a URL from its environment into the argument lists of the builds that it starts).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

_PIP_OPTIONS = """
CACHE_DIR CERT CLIENT_CERT CONFIG_FILE CONSTRAINT DEFAULT_TIMEOUT DISABLE_PIP_VERSION_CHECK EXTRA_INDEX_URL
FIND_LINKS INDEX_URL KEYRING_PROVIDER NO_BINARY NO_CACHE_DIR NO_INDEX NO_INPUT ONLY_BINARY PREFER_BINARY
PROGRESS_BAR PROXY RETRIES TIMEOUT TRUSTED_HOST USE_DEPRECATED USE_FEATURE
"""
_PIP = "|".join(_PIP_OPTIONS.split())
_TOOLS = re.compile(
    rf"(HOME|USER|LOGNAME|LANG|LC_[A-Z]+|TZ|TMPDIR|SSH_AUTH_SOCK|XDG_CONFIG_HOME|ANSIBLE_VERBOSITY|PIP_({_PIP})"
    r"|SSL_CERT_FILE|SSL_CERT_DIR|REQUESTS_CA_BUNDLE|(?i:https?_proxy|no_proxy|all_proxy))\Z"
)
_OURS = re.compile(
    r"(PATH|PWD|SHELL|TERM|LD_LIBRARY_PATH|VIRTUAL_ENV|XDG_[A-Z_]+|PYTHON[A-Z]+|STACK_(HOME|GATEWAY_PORT|ADMIN_PORT|DATABASE)"
    r"|CURL_CA_BUNDLE)\Z"
)
_USERINFO = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)[^/?#\s]*@")
_BARE = re.compile(r"[^/?#\s]*@(?=[^/?#\s]*(:[0-9]+)?/?\Z)")
_URLS = re.compile(r"(PIP_(INDEX_URL|EXTRA_INDEX_URL|FIND_LINKS|PROXY)|(?i:https?_proxy|all_proxy))\Z")


def without_credentials(text: str) -> str:
    """The text with ``user:password@`` cut out of every URL in it."""
    return _USERINFO.sub(r"\g<scheme>", text)


def for_tools(environ: Mapping[str, str]) -> dict[str, str]:
    """What the tools on a host may need of this environment."""
    return {key: _clean(key, value) for key, value in environ.items() if _TOOLS.match(key)}


def for_our_processes(environ: Mapping[str, str], secret_variables: Iterable[str] = ()) -> dict[str, str]:
    """What a process of ours may need of it; never the variables that secrets are configured to come from."""
    secret = frozenset(secret_variables)
    kept = {key: value for key, value in environ.items() if _OURS.match(key) and key not in secret}
    return {**kept, **{key: value for key, value in for_tools(environ).items() if key not in secret}}


def _clean(key: str, value: str) -> str:
    if not _URLS.match(key):
        return value
    cut = without_credentials(value)
    return cut if "://" in value else _BARE.sub("", cut)
