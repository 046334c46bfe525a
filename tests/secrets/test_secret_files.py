"""Files that others could read or put in our way are refused, and what was checked is what is read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from secret_places import private

from stack.secrets.file import _require_private, read_file
from stack.secrets.source import NoSecret, SecretTooOpen, SecretUnusable


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o666, 0o700, 0o644, 0o4600, 0o601])
def test_a_mode_beyond_0600(tmp_path: Path, mode: int) -> None:
    path = private(tmp_path / "s", "hush-value")
    path.chmod(mode)
    with pytest.raises(SecretTooOpen) as refused:
        read_file(path, "s")
    assert f"{mode:04o}" in refused.value.message
    assert "chmod 600" in refused.value.advice
    assert "hush" not in str(refused.value.to_json())


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_private_modes(tmp_path: Path, mode: int) -> None:
    path = private(tmp_path / "s", "x")
    path.chmod(mode)
    assert read_file(path, "s").reveal() == "x"


def test_a_foreign_owner(tmp_path: Path) -> None:
    path = private(tmp_path / "s", "x")
    fields = list(path.stat())
    fields[4] = os.geteuid() + 1
    with pytest.raises(SecretTooOpen, match=f"the user {os.geteuid() + 1}"):
        _require_private(os.stat_result(fields), path)


def test_links_folders_pipes_and_devices(tmp_path: Path) -> None:
    private(tmp_path / "s", "x")
    (tmp_path / "link").symlink_to(tmp_path / "s")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("link", "folder", "pipe", "/dev/null"):
        with pytest.raises(SecretTooOpen):
            read_file(tmp_path / name, "s")
    with pytest.raises(NoSecret):
        read_file(tmp_path / "nothing", "s")


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = private(tmp_path / "s", "")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SecretUnusable, match="not UTF-8"):
        read_file(path, "s")
