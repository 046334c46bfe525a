"""Keys made once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.policy.keys import KINDS, SoftwareToken, make, tokens


@pytest.fixture(scope="session")
def key_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A private key file without a passphrase for each kind in ``KINDS``."""
    folder = tmp_path_factory.mktemp("keys")
    return {kind: make(folder / kind, *options) for kind, options in KINDS.items()}


@pytest.fixture(scope="session")
def security_keys() -> dict[str, SoftwareToken]:
    """Security keys made up in software."""
    return tokens()
