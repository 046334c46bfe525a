"""Wheels from the controller: which kinds a host takes, what a host refuses of what it was sent. Needs no network."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import sys
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from conftest_fleet import install_tools, tool

sys.path.insert(0, str(tool("runtime", "wheelhouse.py").parent))
import wheelhouse

NAME = "gem-1.0-0123456789ab"
WHEEL = "gem-1.0-py3-none-any.whl"
Run = Callable[..., CompletedProcess[str]]


def wheel(text: str = "") -> bytes:
    """A wheel of one module."""
    held = {"gem.py": text, "gem-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: gem\nVersion: 1.0\n"}
    held["gem-1.0.dist-info/WHEEL"] = "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    rows = []
    for name, content in held.items():
        mark = base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).rstrip(b"=").decode()
        rows.append(f"{name},sha256={mark},{len(content)}")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in {**held, "gem-1.0.dist-info/RECORD": "\n".join(rows)}.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def send(root: Path, held: Mapping[str, bytes]) -> None:
    """What the playbook copies to the host."""
    (root / "wheels").mkdir(parents=True)
    with tarfile.open(root / "wheels" / f"{NAME}.tar", "w") as archive:
        for name, content in held.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def install(root: Path, run_tool: Run, digest: str) -> CompletedProcess[str]:
    """Install the environment on a host that has no index: its pip must not ask anybody."""
    binaries = install_tools(root)
    lock = root / "lock.txt"
    lock.write_text(f"gem==1.0 --hash=sha256:{digest}\n")
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(root), "PIP_INDEX_URL": "http://127.0.0.1:9/none"}
    return run_tool(binaries / "runtime.py", "install", root, NAME, lock, sys.executable, env=environment)


def test_what_was_sent_is_installed_and_the_archive_goes(tmp_path: Path, run_tool: Run) -> None:
    good = wheel("answer = 42")
    send(tmp_path, {WHEEL: good})
    done = install(tmp_path, run_tool, hashlib.sha256(good).hexdigest())
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "runtimes" / NAME / "INSTALLED").is_file()
    assert list((tmp_path / "runtimes" / NAME).glob("lib/*/site-packages/gem.py"))
    assert not list((tmp_path / "wheels").iterdir())
    assert not (tmp_path / "runtimes" / NAME / "wheels").exists()


def test_a_wheel_that_is_not_the_one_of_the_lock_is_never_installed(tmp_path: Path, run_tool: Run) -> None:
    send(tmp_path, {WHEEL: wheel("answer = 43")})
    done = install(tmp_path, run_tool, hashlib.sha256(wheel("answer = 42")).hexdigest())
    assert done.returncode == 1
    assert "HASHES" in done.stdout + done.stderr
    assert not (tmp_path / "runtimes" / NAME).exists()


@pytest.mark.parametrize("name", ["../gem-1.0-py3-none-any.whl", "/tmp/x.whl", "gem.tar.gz", ".whl", "a/b.whl"])
def test_an_archive_that_holds_anything_but_wheels_is_refused(tmp_path: Path, run_tool: Run, name: str) -> None:
    send(tmp_path, {name: wheel()})
    done = install(tmp_path, run_tool, hashlib.sha256(wheel()).hexdigest())
    assert done.returncode == 1
    assert "which is no wheel" in done.stdout
    assert not (tmp_path / "runtimes" / NAME).exists()


def test_a_host_takes_the_wheels_of_its_libc_and_older_ones() -> None:
    tags = wheelhouse.platforms("x86_64", "glibc 2.18")
    assert tags[:3] == ["manylinux_2_18_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"]
    assert tags[-1] == "linux_x86_64"
    assert not [tag for tag in tags if "_2_19_" in tag]


@pytest.mark.parametrize("libc", ["", "musl 1.2", "glibc 3.0", "glibc 2.36; rm"])
def test_a_host_of_another_libc_is_refused_in_words(libc: str) -> None:
    with pytest.raises(wheelhouse.NotFetched, match=r"glibc 2\.x only"):
        wheelhouse.platforms("x86_64", libc)


def test_hosts_of_one_kind_share_an_archive_and_others_do_not(tmp_path: Path) -> None:
    row = {"name": NAME, "digest": "sha256:" + "a" * 64}
    kinds = [("3.11", "x86_64", "glibc 2.36"), ("3.12", "x86_64", "glibc 2.36"), ("3.11", "aarch64", "glibc 2.36")]
    kinds += [("3.11", "x86_64", "glibc 2.31")]
    names = {wheelhouse.archive_of(tmp_path, row, *kind) for kind in [*kinds, kinds[0]]}
    assert len(names) == len(kinds)


def test_a_lock_with_a_source_build_is_left_to_the_host(tmp_path: Path, run_tool: Run) -> None:
    row = {"name": NAME, "digest": "x", "text": "llama-cpp-python==1.0 --hash=sha256:00\n"}
    words = (tmp_path, "op.1", "3.11", "x86_64", "glibc 2.36")
    done = run_tool(tool("runtime", "wheelhouse.py"), *words, input=json.dumps([row]))
    assert (done.returncode, json.loads(done.stdout)["wheels"]) == (0, [])
