"""The fleet demo: a whole stack over real SSH hosts of this machine. ``make fleet-demo``, ``make fleet-demo-down``.

    python -m demo.fleet up|down [--root DIR] [--no-systemd]

Brings test hosts up, writes a stack.yaml for them, starts gateway and control plane with a state directory of their
own, deploys the tiny model to every host, and says what to try. Everything lies in DIR; ``down`` removes all of it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from demo.hosts import HostGroup, HostsFailed, HostsImpossible, down, up

REPOSITORY = Path(__file__).resolve().parents[1]
STACKCTL = Path(sys.executable).with_name("stackctl")
PORTS = {"STACK_GATEWAY_PORT": "8327", "STACK_ADMIN_PORT": "8010"}  # beside a stack that runs already


def stack_yaml(group: HostGroup, model: str = "tiny-1.0") -> str:
    """The desired state: the tiny model on every host of the group."""
    models, policies = REPOSITORY / "models", REPOSITORY / "policies"
    hosts = "".join(
        f"  - {{name: {host.name}, connection: ssh, address: {host.address}, user: root, group: cpu}}   # {host.init}\n"
        for host in group.hosts
    )
    return f"""schema: 1
policies: {policies}
hosts:                            # a host of group gpu without an accelerator would be refused
{hosts}services:
  - name: tiny
    model: {models / model}.yaml
    runtime: {{engine: llamacpp, distribution: xllamacpp}}
    launch: {{context: 1024, parallel: 2, threads: 1}}
    hosts: [{", ".join(host.name for host in group.hosts)}]
    suites: {{smoke: {models}/evals/tiny-smoke.yaml, eval: {models}/evals/tiny-eval.yaml}}
    rollout:
      ladder: [5, 25, 100]
      hold: {{min_requests: 60, min_seconds: 2, max_seconds: 120}}
      thresholds: {{max_latency_ratio: 20.0}}   # every host is this one machine, and they take each other's time
"""


def prepare(group: HostGroup, folder: Path) -> Path:
    """A state directory that may reach the hosts, and their stack.yaml; returns the file."""
    secrets = folder / "home" / "secrets"
    secrets.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.copy(group.known_hosts, folder / "home" / "known_hosts")
    shutil.copy(group.key, secrets / "ssh.key")
    (secrets / "ssh.key").chmod(0o600)
    file = folder / "stack.yaml"
    file.write_text(stack_yaml(group))
    return file


def environment(folder: Path) -> dict[str, str]:
    """The environment of the demo's stackctl."""
    return {**PORTS, **os.environ, "STACK_HOME": str(folder / "home")}


def stackctl(folder: Path, *words: str) -> int:
    """Run stackctl on the demo's state directory; its exit status."""
    return subprocess.run([str(STACKCTL), *words], env=environment(folder), check=False).returncode


def begin(folder: Path, systemd: bool) -> int:
    """Hosts, stack, deploy, and what to try; the exit status of the deploy."""
    group = up(folder / "hosts", count=3, systemd=systemd)
    file = prepare(group, folder)
    code = stackctl(folder, "deploy", "--up", "--stack", str(file))
    print(to_try(group, folder))
    return code


def to_try(group: HostGroup, folder: Path) -> str:
    """What a person may do next."""
    chosen = environment(folder)
    ports = " ".join(f"{name}={chosen[name]}" for name in PORTS)
    inside = f"ssh -i {group.key} -o UserKnownHostsFile={group.known_hosts} -o IdentitiesOnly=yes"
    ctl = STACKCTL.relative_to(REPOSITORY) if STACKCTL.is_relative_to(REPOSITORY) else STACKCTL
    models = f"http://127.0.0.1:{chosen['STACK_GATEWAY_PORT']}/v1/models"
    return f"""
Try:
  export STACK_HOME={folder / "home"} {ports}
  {ctl} status
  {ctl} deploy --model {REPOSITORY / "models/tiny-1.1.yaml"}    # the better model: 5, 25, 100 per cent
  {ctl} deploy --model {REPOSITORY / "models/tiny-1.2.yaml"}    # a worse one: it is put back by itself
  {ctl} rollback
  {inside} root@{group.hosts[0].address}
  curl -s {models} -H "authorization: Bearer $(cat {folder}/home/secrets/client.key)"
  make fleet-demo-down
"""


def finish(folder: Path) -> int:
    """Stop the stack, end the hosts, remove the directory."""
    if (folder / "home").exists():
        stackctl(folder, "down")
    down(folder / "hosts")
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def main() -> int:
    """The command."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser = argparse.ArgumentParser(prog="python -m demo.fleet", description="A stack over SSH hosts of this machine.")
    parser.add_argument("verb", choices=["up", "down"])
    parser.add_argument("--root", type=Path, default=cache / "inference-stack" / "fleet-demo")
    parser.add_argument("--no-systemd", action="store_true", help="without the host of real systemd")
    known = parser.parse_args()
    folder: Path = known.root.resolve()
    try:
        return begin(folder, not known.no_systemd) if known.verb == "up" else finish(folder)
    except HostsImpossible as error:
        print(f"not possible here: {error}", file=sys.stderr)
        return 4
    except HostsFailed as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
