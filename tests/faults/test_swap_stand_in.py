"""One release after the other under load: a host that carries only one, engines that fail, a person who changes her
mind, a pause that gets too long. All is real but the host, where small servers stand in for engines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from running_stack import MODELS, Json, until
from stand_in import TEST, StandInStack, stand_in_stack
from streams import StreamingClients

pytestmark = pytest.mark.timeout(900)
ONE_FITS = {"memory_mb": 64}
LONG_ENOUGH = 120.0


@contextmanager
def serving(folder: Path, monkeypatch: pytest.MonkeyPatch, longest: float = LONG_ENOUGH) -> Iterator[StandInStack]:
    """1.0 serves, on a host that has no room for another release beside it."""
    rollout = {"longest_pause_s": longest, "thresholds": {"max_latency_p95_s": 20.0, "max_ttft_p95_s": 20.0}}
    with stand_in_stack(folder, monkeypatch, rollout, host=ONE_FITS) as made:
        first = made.deploy("1.0")
        assert first["phase"] == "promoted", first["reason"]
        yield made


def faulty(made: StandInStack, monkeypatch: pytest.MonkeyPatch, *fault: str) -> None:
    """The next release's engines have this fault; those that there are start as before."""
    known, start = set(made.host.running), made.host._start

    def begun(replica: str, wanted: Json) -> None:
        made.host.fault = fault if replica not in known else ()
        start(replica, wanted)

    monkeypatch.setattr(made.host, "_start", begun)


def evidence(made: StandInStack, rollout: str, kind: str) -> list[Json]:
    rows = made.files.rows("select body from evidence where rollout = ? and kind = ? order by id", rollout, kind)
    return [json.loads(row["body"]) for row in rows]


def phases(made: StandInStack, rollout: str) -> list[str]:
    rows = made.files.rows("select data from events where rollout = ? and kind = 'phase' order by seq", rollout)
    return [json.loads(row["data"]).get("to", "begun") for row in rows]


def goes_on(clients: StreamingClients) -> None:
    """Clients are answered."""
    before = len(clients.answers)
    until(lambda: len(clients.answers) > before + 5)


def served(made: StandInStack) -> str:
    (target,) = [t for t in made.files.table["targets"] if made.files.table["weights"].get(t["slice"])]
    return str(target["model"])


def whole(clients: StreamingClients) -> int:
    """Every answer that any client got was one, to its end; how many there were."""
    broken = [a for a in clients.answers if not a.done or a.cut or a.refused]
    assert not broken, broken[:3]
    return len(clients.answers)


def test_a_release_takes_the_others_place_and_no_client_notices_more_than_a_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path / "s", monkeypatch, longest=0.0) as made:
        refused = made.deploy("1.1")
        assert (refused["phase"], served(made)) == ("rolled_back", "tiny@1.0")
        assert "--accept-pause" in refused["reason"] and "the pause is" in refused["reason"]

        request: Json = {"model": str(MODELS / "tiny-1.1.yaml"), "accept_pause_s": LONG_ENOUGH}
        plain, planned = made.operator.plan({"model": request["model"]}), made.operator.plan(request)
        assert plain["ways"]["local"].startswith("refused")
        assert planned["ways"]["local"].startswith("queue-swap, pause about ")
        assert planned["digest"] != plain["digest"], "who approves signs the pause"
        assert planned["body"]["settings"]["accept_pause_s"] == LONG_ENOUGH

        with StreamingClients(made.files, patience_s=300) as clients:
            until(lambda: len(clients.answers) > 10)
            rollout = str(made.operator.deploy(request, TEST)["rollout"])
            ended = made.files.ended(rollout)
            goes_on(clients)
        assert ended["phase"] == "promoted", ended["reason"]
        assert served(made) == "tiny@1.1"
        assert whole(clients) > 20
        assert len(made.host.running) == 1
        assert phases(made, rollout)[2:10] == [
            "placing", "measuring", "queueing", "draining", "starting", "warming", "smoking", "evaluating",
        ]  # fmt: skip
        (pause,) = evidence(made, rollout, "pause")
        assert pause["served_by"] == "the new release"
        assert 0 < pause["measured_s"] <= pause["predicted_s"] <= pause["longest_s"] == LONG_ENOUGH
        (comparison,) = evidence(made, rollout, "comparison")
        assert comparison["outcome"] == "PASS"

        asked = {"accept_pause_s": LONG_ENOUGH}
        back = made.files.ended(str(made.operator.rollback(asked, TEST)["rollout"]))
        assert (back["phase"], served(made)) == ("rolled_back", "tiny@1.0")
        assert "restoring" not in phases(made, back["id"]) and "queueing" in phases(made, back["id"])


def test_whatever_goes_wrong_the_old_release_is_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path / "s", monkeypatch) as made:
        replicas = set(made.host.running)
        with StreamingClients(made.files, patience_s=300) as clients:
            failing(made, clients, monkeypatch)
            for phase in ("draining", "holding"):
                mind_changed(made, monkeypatch, phase)
            too_long(made, monkeypatch)
            goes_on(clients)
        whole(clients)
        assert set(made.host.running) == replicas, "the very same"


def failing(made: StandInStack, clients: StreamingClients, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        faulty(made, patch, "--fault", "garbage-text")
        rollout = made.begin("1.1")
        ended = made.files.ended(rollout)
    goes_on(clients)
    assert (ended["phase"], ended["verdict"], served(made)) == ("rolled_back", "ROLLBACK", "tiny@1.0")
    assert "restoring" in phases(made, rollout)
    (pause,) = evidence(made, rollout, "pause")
    assert pause["served_by"] == "the old release"


def mind_changed(made: StandInStack, monkeypatch: pytest.MonkeyPatch, phase: str) -> None:
    """Aborted in that phase."""
    performer: Any = type(made.operator.worker._performer)
    perform: Callable[..., Any] = performer.perform
    asked: list[str] = []

    def performing(self: Any, state: Any, context: Any) -> Any:
        if state.phase == phase and not asked:
            asked.append(str(state.id))
            made.operator.abort(str(state.id), "not now", TEST)
        return perform(self, state, context)

    with monkeypatch.context() as patch:
        patch.setattr(performer, "perform", performing)
        ended = made.files.ended(made.begin("1.1"))
    assert (ended["phase"], served(made)) == ("rolled_back", "tiny@1.0")
    assert "not now" in ended["reason"]
    assert "restoring" in phases(made, ended["id"])
    assert len(evidence(made, ended["id"], "pause")) == {"draining": 1, "holding": 2}[phase]


def too_long(made: StandInStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is over while the engine does not get ready."""
    with monkeypatch.context() as patch:
        faulty(made, patch, "--fault", "never-ready")
        for module in ("pause", "performer"):
            patch.setattr(f"stack.rollout.{module}.overdue", over_when_warming)
        ended = made.deploy("1.1", "--fault", "never-ready")
    assert (ended["phase"], ended["reason"], served(made)) == ("rolled_back", "too long", "tiny@1.0")
    assert phases(made, ended["id"])[-4:] == ["reverting", "confirming", "cleaning", "rolled_back"]


def over_when_warming(state: Any, now: Any) -> str | None:
    return "too long" if state.phase == "warming" and state.swap is not None else None
