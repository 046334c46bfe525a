"""An upgrade with real processes and real engines: the release before serves and rolls out, this one takes over.

    git worktree add /tmp/older 7617985
    python tests/upgrade/try_upgrade.py /tmp/older [RUNTIMES [PHASE...]]

Clients ask all the while. In each round the control plane of the release before is killed (SIGKILL, by its pid) in the
middle of a rollout and this release's is started in its place, over the gateway and the replicas that go on running;
at the end the release before is started on the migrated database, and the backup from before is put back. Prints
counts; leaves with 1 if a request failed. ``RUNTIMES``: a directory with installed engines, to save their installation.
"""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

sys.path.append(str(Path(__file__).parents[1] / "faults"))

from clients import PlainClients
from older import rows
from running_stack import MODELS, REPOSITORY, RunningStack, until

KILL_IN = ("placing", "warming", "evaluating", "holding", "promoting")


def older(stack: RunningStack, checkout: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """``stackctl`` of the release before, on the same state directory."""
    return subprocess.run(
        [sys.executable, "-m", "stack.cli", *words],
        cwd=checkout,
        env={**stack.environment, "PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )


def backup(stack: RunningStack, to: Path) -> None:
    with sqlite3.connect(stack.home / "state.db") as live, sqlite3.connect(to) as copy:
        live.backup(copy)


def versions(stack: RunningStack) -> tuple[int, str]:
    schema = stack.rows("select version from schema_version")[0]["version"]
    return int(schema), " ".join(sorted(p.name for p in (stack.home / "secrets").iterdir()))


def newer_up(stack: RunningStack) -> None:
    """What ``stackctl up`` says where the gateway of the release before runs."""
    gateway = stack.pid("gateway")
    stack.up()
    assert stack.pid("gateway") == gateway, "the gateway was not touched"


def take_over(stack: RunningStack, checkout: Path, phase: str) -> str:
    """A rollout of the release before, killed in ``phase``, ended by this one; how."""
    said = older(stack, checkout, "deploy", "--model", str(MODELS / "tiny-1.1.yaml"), "--no-wait", "--json")
    assert said.returncode == 0, said.stderr
    rollout = yaml.safe_load(said.stdout)["rollout"]
    until(lambda: stack.row(rollout)["phase"] in (phase, "promoted"), 120, 0.005)
    stack.kill("control-plane")
    found = stack.row(rollout)["phase"]
    newer_up(stack)
    ended = stack.ended(rollout)
    schema, secrets = versions(stack)
    table = stack.table["weights"]
    print(
        f"killed in {found}: {ended['phase']} ({ended['reason'][:70]}); schema {schema}; {secrets}; {table}", flush=True
    )
    verify = stack.ctl("audit", "verify")
    print(f"   audit verify: exit {verify.returncode}: {verify.stdout.splitlines()[:1]}", flush=True)
    return str(ended["phase"])


def main() -> int:
    checkout = Path(sys.argv[1]).resolve()
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        runtimes = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(folder, "runtimes")
        runtimes.mkdir(exist_ok=True)
        stack = RunningStack.make(Path(folder, "s"), runtimes)
        settings = yaml.safe_load(stack.stack_yaml.read_text())
        policies = settings.pop("policies")
        stack.stack_yaml.write_text(yaml.safe_dump(settings))  # the release before knows no policies
        try:
            for phase in sys.argv[3:] or KILL_IN:
                failures += one_round(stack, checkout, phase, Path(policies), Path(folder))
            back(stack, checkout, Path(folder))
        finally:
            stack.down()
    print(f"failed requests: {failures}")
    return 1 if failures else 0


def one_round(stack: RunningStack, checkout: Path, phase: str, policies: Path, folder: Path) -> int:
    """From nothing but an empty state directory of the release before."""
    shutil.rmtree(stack.stack_yaml.parent / "policies", ignore_errors=True)
    reset(stack)
    up = older(stack, checkout, "up", "--stack", str(stack.stack_yaml))
    assert up.returncode == 0, up.stderr
    first = older(stack, checkout, "deploy", "--model", str(MODELS / "tiny-1.0.yaml"))
    assert first.returncode == 0, first.stderr[-2000:]
    backup(stack, folder / "backup.db")
    shutil.copytree(policies, stack.stack_yaml.parent / "policies")
    with PlainClients(stack) as clients:
        take_over(stack, checkout, phase)
    print(f"   {clients.answered} requests answered, {len(clients.failures)} failed {clients.failures[:2]}", flush=True)
    return len(clients.failures)


def reset(stack: RunningStack) -> None:
    stack.down()
    runtimes = (stack.host / "runtimes").resolve()
    (stack.host / "runtimes").unlink()
    shutil.rmtree(stack.home)
    stack.host.mkdir(parents=True)
    (stack.host / "runtimes").symlink_to(runtimes)


def back(stack: RunningStack, checkout: Path, folder: Path) -> None:
    """The release before on what this one migrated, and on the backup."""
    without = stack.stack_yaml.parent / "policies"
    shutil.rmtree(without)
    for words in (("status",), ("plan",), ("deploy", "--model", str(MODELS / "tiny-1.1.yaml"))):
        said = stack.ctl(*words)
        print(f"without policies: stackctl {words[0]}: exit {said.returncode} {said.stderr.strip()[:300]}", flush=True)
    stack.kill("control-plane")
    found = rows(stack.home / "state.db")
    refused = older(stack, checkout, "up", "--stack", str(stack.stack_yaml))
    same = found == rows(stack.home / "state.db")
    print(
        f"the release before: exit {refused.returncode}, unchanged {same}: {refused.stderr.strip()[-300:]}", flush=True
    )
    print(f"   a client meanwhile: {stack.ask()[0]}", flush=True)
    for tail in ("", "-wal", "-shm"):
        (stack.home / f"state.db{tail}").unlink(missing_ok=True)
    shutil.copy(folder / "backup.db", stack.home / "state.db")
    again = older(stack, checkout, "up", "--stack", str(stack.stack_yaml))
    print(f"on the backup: exit {again.returncode} {again.stderr.strip()[-200:]}", flush=True)
    status = older(stack, checkout, "status")
    print(f"   stackctl status: exit {status.returncode}; a client: {stack.ask()[0]}", flush=True)
    deploy = older(stack, checkout, "deploy", "--model", str(MODELS / "tiny-1.1.yaml"))
    print(f"   stackctl deploy: exit {deploy.returncode} {deploy.stderr.strip()[-200:]}", flush=True)


if __name__ == "__main__":
    assert REPOSITORY.is_dir()
    sys.exit(main())
