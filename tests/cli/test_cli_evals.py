"""``eval run`` against a small OpenAI-style server, and ``eval compare`` of what it wrote."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from stack.cli.main import cli

SUITE = """\
description: arithmetic
prompts: ["{{prompt}}"]
tests:
""" + "".join(
    f'- description: case-{n}\n  vars: {{prompt: "say {n}"}}\n  assert: [{{type: equals, value: "{n}"}}]\n'
    for n in range(60)
)


class Parrot(http.server.BaseHTTPRequestHandler):
    """Repeats the last word; ``wrong`` answers are wrong."""

    wrong: frozenset[str] = frozenset()
    keys: list[str | None]

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        word = asked["messages"][-1]["content"].split()[-1]
        self.keys.append(self.headers["Authorization"])
        text = "no" if word in self.wrong else word
        message = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        body = {"id": "x", "object": "chat.completion", "created": 1, "model": asked["model"], "choices": [message]}
        usage = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
        content = json.dumps({**body, "usage": usage}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        return


@pytest.fixture
def parrot() -> Iterator[type[Parrot]]:
    handler = type("ThisParrot", (Parrot,), {"keys": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    handler.url = f"http://127.0.0.1:{server.server_address[1]}/v1"  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield handler
    server.shutdown()
    thread.join()
    server.server_close()


def ask(parrot: type[Parrot], tmp_path: Path, out: str, *more: str) -> Result:
    (tmp_path / "suite.yaml").write_text(SUITE)
    (tmp_path / "key").write_text("sesame\n")
    arguments = ["eval", "run", "--suite", str(tmp_path / "suite.yaml"), "--url", parrot.url]  # type: ignore[attr-defined]
    arguments += ["--model", "m", "--key-file", str(tmp_path / "key"), "--out", str(tmp_path / out), *more]
    return CliRunner().invoke(cli, arguments)


def test_run_and_compare(parrot: type[Parrot], tmp_path: Path) -> None:
    good = ask(parrot, tmp_path, "good.json")
    assert good.exit_code == 0, good.output
    assert "60 of 60 passed" in good.output
    assert set(parrot.keys) == {"Bearer sesame"}
    parrot.wrong = frozenset(str(n) for n in range(30))
    bad = ask(parrot, tmp_path, "bad.json")
    assert bad.exit_code == 3
    assert "30 of 60 passed" in bad.output
    assert "sesame" not in (tmp_path / "bad.json").read_text() + bad.output
    one, other = str(tmp_path / "good.json"), str(tmp_path / "bad.json")
    worse = CliRunner().invoke(cli, ["eval", "compare", one, other])
    assert worse.exit_code == 3, worse.output
    assert "regressed 30" in worse.output
    same = CliRunner().invoke(cli, ["eval", "compare", one, one, "--json"])
    assert same.exit_code in (0, 6)
    assert json.loads(same.stdout)["regressed"] == 0


def test_too_little_evidence_is_not_a_pass(parrot: type[Parrot], tmp_path: Path) -> None:
    assert ask(parrot, tmp_path, "few.json", "--limit", "3").exit_code == 0
    few = str(tmp_path / "few.json")
    assert CliRunner().invoke(cli, ["eval", "compare", few, few]).exit_code == 6


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"samples": []}', "\x00"])
def test_files_that_hold_no_run(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "run.json"
    if content is not None:
        path.write_text(content)
    assert CliRunner().invoke(cli, ["eval", "compare", str(path), str(path)]).exit_code == 2


def test_a_key_file_that_is_not_there(parrot: type[Parrot], tmp_path: Path) -> None:
    assert ask(parrot, tmp_path, "x.json", "--key-file", str(tmp_path / "nothing")).exit_code == 2
