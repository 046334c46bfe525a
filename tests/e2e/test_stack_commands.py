"""Every command that looks or checks, on a stack that serves; and ``status --json`` as the stable interface it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from checkout import Checkout

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
Json = dict[str, Any]
DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")
ROLE = {"release": DIGEST, "model": re.compile(r"tiny@1\.\d\Z"), "runtime": re.compile(r"llamacpp/[a-z-]+@[\d.]+\Z")}
REPLICA = {"host": "local", "release": DIGEST, "state": "healthy", "observed_digest": DIGEST}
SERVICE = {"name": "tiny", "stable": ROLE, "candidate": None, "lkg": None, "weights": {"stable": 100, "candidate": 0}}
ROLLOUT = {"id": re.compile(r"ro-[a-z0-9]+\Z"), "state": "promoted", "verdict": "PROMOTE"}


def differs(expected: Any, found: Any, where: str = "status") -> list[str]:
    """Each place where ``found`` lacks what ``expected`` asks for. More keys are allowed, other values are not."""
    if isinstance(expected, dict):
        if not isinstance(found, dict):
            return [f"{where} is {found!r}"]
        missing = [f"{where} lacks {key}" for key in expected if key not in found]
        inside = [differs(value, found[key], f"{where}.{key}") for key, value in expected.items() if key in found]
        return missing + [problem for problems in inside for problem in problems]
    if isinstance(expected, re.Pattern):
        return [] if isinstance(found, str) and expected.match(found) else [f"{where} is {found!r}"]
    return [] if found == expected else [f"{where} is {found!r}, not {expected!r}"]


def test_status_json_is_the_stable_interface(served: Checkout) -> None:
    status = served.status()
    gateway = {"url": served.gateway_url, "healthy": True}
    plane = {"url": f"http://127.0.0.1:{served.ports[1]}"}
    assert not differs({"gateway": gateway, "control_plane": plane}, status)
    (service,), (rollout, *_) = status["services"], status["rollouts"]
    assert not differs(SERVICE, service)
    assert not differs(ROLLOUT, rollout)
    (replica,) = service["replicas"]
    assert not differs(REPLICA, replica)
    assert replica["observed_digest"] == replica["release"] == service["stable"]["release"]
    assert type(status["gateway"]["table_version"]) is int


def test_the_pids_in_status_are_those_that_run(served: Checkout) -> None:
    status, running = served.status(), served.processes()
    assert "stack.gateway" in running[status["gateway"]["pid"]]
    assert "stack.api" in running[status["control_plane"]["pid"]]


def test_make_status_shows_it_on_one_screen(served: Checkout) -> None:
    shown = served.make("status")
    assert shown.code == 0, shown.text
    for word in ("tiny@1.0", "100 %", "healthy", served.gateway_url):
        assert word in shown.out


def test_the_copy_runs_its_own_code(served: Checkout) -> None:
    where = served.run(str(served.root / ".venv/bin/python"), "-c", "import stack; print(stack.__file__)")
    assert Path(where.out.strip()) == served.root / "stack" / "__init__.py"


def test_diff_plan_and_doctor(served: Checkout) -> None:
    assert served.asked("diff") == {"in_sync": True, "differences": []}
    assert served.asked("plan")["nothing_to_do"] is True
    plan = served.asked("plan", "--model", "models/tiny-1.1.yaml")
    assert plan["nothing_to_do"] is False
    assert plan["digest"] == served.asked("plan", "--model", "models/tiny-1.1.yaml")["digest"]
    assert plan["body"]["ladder"] == [5, 25, 100]
    doctor = served.stackctl("doctor")
    assert doctor.code == 0, doctor.text


def test_models(served: Checkout) -> None:
    listed = served.asked("model", "list")["models"]
    assert [m["ref"] for m in listed] == ["tiny@1.0"]
    shown = served.asked("model", "show", "tiny@1.0")
    assert shown["digest"] == listed[0]["digest"]
    assert shown["aliases"] == ["tiny:stable"]
    assert served.asked("model", "verify", "tiny@1.0")["ok"] is True
    assert served.asked("model", "scrub")["ok"] is True
    unknown = served.stackctl("model", "show", "tiny@9.9")
    assert unknown.code == 2, unknown.text


def test_rollouts(served: Checkout) -> None:
    (rollout, *_) = served.asked("rollout", "list")["rollouts"]
    shown = served.asked("rollout", "show", rollout["id"])
    assert shown["state"] == "promoted"
    assert shown["plan_body"]["release_digest"] == served.service()["stable"]["release"]
    assert {"verdict", "comparison", "warm-up", "fit"} <= {item["kind"] for item in shown["evidence_items"]}
    assert (Path(rollout["evidence"]) / "report.md").is_file()
    assert served.stackctl("rollout", "show", "ro-nothere").code == 2


def test_audit_of_it_verifies(served: Checkout) -> None:
    assert served.stackctl("audit", "verify").code == 0
    actions = [record["action"] for record in served.asked("audit", "tail")["records"]]
    assert "rollout.deploy" in actions


def eval_run(served: Checkout, suite: str, out: Path) -> int:
    """Through the gateway, with the key in its file."""
    key = str(served.home / "secrets" / "client.key")
    where = ("--url", f"{served.gateway_url}/v1", "--model", "tiny", "--key-file", key)
    return served.stackctl("eval", "run", "--suite", f"models/evals/{suite}.yaml", *where, "--out", str(out)).code


def test_evals_through_the_gateway(served: Checkout, tmp_path: Path) -> None:
    assert eval_run(served, "tiny-smoke", tmp_path / "smoke.json") == 0
    assert eval_run(served, "tiny-eval", tmp_path / "one.json") == 3  # tiny@1.0 is known not to pass every prompt
    assert eval_run(served, "tiny-eval", tmp_path / "two.json") == 3
    compared = served.asked("eval", "compare", str(tmp_path / "one.json"), str(tmp_path / "two.json"))
    assert compared["outcome"] == "PASS"
    assert (compared["n"], compared["regressed"]) == (210, 0)


def test_no_secret_stands_in_a_log_or_a_command_line(served: Checkout) -> None:
    secrets = [p.read_text().strip() for p in (served.home / "secrets").iterdir()]
    assert len(secrets) == 4
    texts = [p.read_text(errors="replace") for p in served.home.rglob("*.log")] + list(served.processes().values())
    texts += [p.read_text() for p in (served.home / "evidence").rglob("*") if p.is_file()]
    assert len(texts) > 6
    assert not [text[:80] for text in texts for secret in secrets if secret in text]
