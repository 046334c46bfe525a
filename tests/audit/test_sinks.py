"""Sinks against real files, programs and an HTTP server: kept, or told why not; and a witness that can't be fooled."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from stack.audit.exported import kept_elsewhere
from stack.audit.merkle import Frontier, consistency, leaf_hash
from stack.audit.note import Checkpoint
from stack.audit.sinks import CommandSink, Delivery, FileSink, HttpSink, SinkContradicts, SinkFailed, make_sinks
from stack.config.settings import CheckpointSettings, SinkSettings
from tests.audit.logs import KEY, SIGNER, split
from tests.audit.test_merkle import Tree

DATA = [bytes([n]) for n in range(40)]
TREE = Tree(DATA)


def delivery(size: int, forged: bool = False) -> Delivery:
    """A checkpoint of the first ``size`` leaves; forged: of another log of the same length."""
    tree = Frontier()
    for leaf in DATA[:size]:
        tree = tree.add(leaf_hash(leaf + b"!" if forged else leaf))
    point = Checkpoint(origin=KEY.name, size=size, root=tree.root)
    return Delivery(
        note=SIGNER.sign(point.text),
        checkpoint=point,
        key=KEY,
        consistency=lambda old: consistency(old, size, TREE.node) if old <= size else (),
    )


@pytest.fixture
def sink(tmp_path: Path) -> FileSink:
    """An empty file sink."""
    return FileSink("file", tmp_path / "kept.log", tmp_path)


def kept(tmp_path: Path) -> list[int]:
    """The sizes in the file."""
    return list(kept_elsewhere(split((tmp_path / "kept.log").read_bytes()), KEY))


def test_a_file_keeps_all_of_them(sink: FileSink, tmp_path: Path) -> None:
    for size in (1, 2, 2, 7, 8, 33):
        sink.deliver(delivery(size))
    assert kept(tmp_path) == [1, 2, 7, 8, 33]
    assert sink.off_host is False


def test_a_half_written_note_is_cut_off(sink: FileSink, tmp_path: Path) -> None:
    path = tmp_path / "kept.log"
    sink.deliver(delivery(3))
    sink.deliver(delivery(5))
    whole = path.read_bytes()
    sink.deliver(delivery(9))
    full = path.read_bytes()
    for cut in range(len(whole), len(full)):
        path.write_bytes(full[:cut])
        sink.deliver(delivery(9))
        assert path.read_bytes() == full, cut
    for cut in range(1, len(delivery(3).note.encode())):
        path.write_bytes(full[:cut])
        sink.deliver(delivery(9))
        assert kept(tmp_path) == [9], cut


def test_a_witness_refuses_what_does_not_follow(sink: FileSink, tmp_path: Path) -> None:
    sink.deliver(delivery(8))
    before = (tmp_path / "kept.log").read_bytes()
    for wrong in (delivery(7), delivery(8, forged=True), delivery(20, forged=True)):
        with pytest.raises(SinkContradicts):
            sink.deliver(wrong)
    assert (tmp_path / "kept.log").read_bytes() == before


@pytest.mark.parametrize("content", [b"root:x:0:0\n", "— a b\n".encode(), b"x" * 200_000, b"a\n\n" * 9])
def test_another_file_is_left_alone(sink: FileSink, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "kept.log").write_bytes(content)
    with pytest.raises(SinkContradicts):
        sink.deliver(delivery(8))
    assert (tmp_path / "kept.log").read_bytes() == content


def test_a_file_that_can_not_be_written(tmp_path: Path) -> None:
    with pytest.raises(SinkFailed):
        FileSink("file", tmp_path / "no" / "kept.log", tmp_path).deliver(delivery(8))
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(SinkFailed):
        FileSink("file", tmp_path / "link", tmp_path).deliver(delivery(8))
    assert not (tmp_path / "target").exists()


def test_a_command_gets_the_note(tmp_path: Path) -> None:
    code = "import os,sys; open(sys.argv[1],'w').write(sys.stdin.read() + ','.join(sorted(os.environ)))"
    environ = {"PATH": os.environ["PATH"], "SECRET": "s", "LANG": "C.UTF-8"}
    CommandSink("mail", [sys.executable, "-I", "-c", code, str(tmp_path / "out")], 20, environ).deliver(delivery(8))
    text = (tmp_path / "out").read_text(encoding="utf-8")
    assert text.startswith(delivery(8).note) and "SECRET" not in text


@pytest.mark.parametrize(
    ("code", "why"),
    [("import sys; print('no room', file=sys.stderr); sys.exit(3)", "left with 3: no room"),
     ("import time; time.sleep(600)", "took more than")],
)  # fmt: skip
def test_a_command_that_fails(code: str, why: str) -> None:
    with pytest.raises(SinkFailed, match=why):
        CommandSink("mail", [sys.executable, "-c", code], 1.0 if "sleep" in code else 20.0, os.environ).deliver(
            delivery(8)
        )


def test_a_command_that_is_not_there() -> None:
    with pytest.raises(SinkFailed):
        CommandSink("mail", ["/nowhere/at/all"], 5, {}).deliver(delivery(8))


class Server(HTTPServer):
    """Keeps what is posted; answers with ``status``."""

    status = 200
    got: list[bytes]


class Handler(BaseHTTPRequestHandler):
    """One POST."""

    server: Server

    def do_POST(self) -> None:
        self.server.got.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(self.server.status)
        self.send_header("location", "/elsewhere")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    """On loopback."""
    with Server(("127.0.0.1", 0), Handler) as made:
        made.got = []
        thread = threading.Thread(target=made.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def test_http(server: Server) -> None:
    url = f"http://127.0.0.1:{server.server_port}/log?token=hidden"
    sink = HttpSink("far", url, 10)
    sink.deliver(delivery(8))
    assert server.got == [delivery(8).note.encode()]
    for server.status in (302, 307, 404, 500, 206):
        with pytest.raises(SinkFailed) as told:
            sink.deliver(delivery(8))
        assert str(server.status) in told.value.message and "hidden" not in told.value.message
    assert len(server.got) == 6, "redirects are not followed"


def test_nobody_listens() -> None:
    with pytest.raises(SinkFailed):
        HttpSink("far", "http://127.0.0.1:9/log", 2).deliver(delivery(8))


def test_sinks_of_the_settings(tmp_path: Path) -> None:
    (default,) = make_sinks(CheckpointSettings(), tmp_path / "checkpoints.log", {})
    assert isinstance(default, FileSink) and default.off_host is False
    wanted = (
        SinkSettings(name="a", command=("/bin/true",)),
        SinkSettings(name="b", http="https://a.example/"),
    )
    made = make_sinks(CheckpointSettings(sinks=wanted), tmp_path / "checkpoints.log", {})
    assert [(type(sink), sink.name) for sink in made] == [(CommandSink, "a"), (HttpSink, "b")]
