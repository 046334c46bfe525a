"""The one door to Ansible: run a playbook for one operation on one host, tell what happens, say how it ended.

Everything that can be decided without Ansible is decided elsewhere (variables, rendering, environment, outcome). What
the run leaves behind is thrown away unread; the outcome comes from the host.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stack.core.clock import Clock, SystemClock
from stack.core.digest import Digest
from stack.core.errors import Unavailable
from stack.fleet import events, outcome
from stack.fleet.environment import ansible_environment
from stack.fleet.private import private_directory
from stack.fleet.rendering import render_inventory, render_variables
from stack.fleet.said import NotAnObservation, observation
from stack.fleet.values import Host, HostEvent, Operation, OperationResult
from stack.fleet.variables import checked

OnEvent = Callable[[HostEvent], None]
Cancelled = Callable[[], bool]
_KILLED = -1  # ended by a signal: there is no exit status
_SOCKET_PATH_LIMIT = 60  # ControlPath adds a 10-character hash and ssh a 17-character suffix, of 108


class AnsibleMissing(Unavailable):
    """ansible-playbook is not where this Python is installed: {path}."""

    hint = "Install the control plane from its lock file: make deploy."


@dataclass(frozen=True, kw_only=True)
class Ran:
    """One run of ansible-playbook, over."""

    account: events.Account
    rc: int
    timed_out: bool


@dataclass(frozen=True, kw_only=True)
class AnsibleDoor:
    """``project`` is the folder of the playbooks, ``runner_dir`` stands in for /dev/shm where there is none.

    ``identity`` is the private key for SSH hosts, if the file exists; else SSH uses the agent or the user's own keys.
    """

    project: Path
    runner_dir: Path
    known_hosts: Path
    identity: Path | None = None
    clock: Clock = field(default_factory=SystemClock)
    observe_timeout_s: int = 60

    def run(
        self,
        op: Operation,
        *,
        check: bool = False,
        on_event: OnEvent | None = None,
        cancelled: Cancelled | None = None,
    ) -> OperationResult:
        """Do the operation, or with ``check`` say what it would do. Does not raise for what happens on the host.

        ``cancelled`` is asked about once a second; once true, Ansible is ended and the host is asked how far it came.
        """
        began = self.clock.monotonic()
        own: dict[str, Any] = {"op_id": str(op.op_id), "epoch": op.epoch}
        variables = checked(op.playbook, {**op.variables, **own})
        ran = self._play(
            op.host, op.playbook, variables, op.timeout_s, check=check, on_event=on_event, cancelled=cancelled
        )
        result = outcome.reported(ran.account, ran.rc)
        if result is None:
            reason = _reason(ran, op.timeout_s)
            seen = {} if op.playbook in ("observe.yml", "facts.yml") else self._look(op.host, own)
            result = outcome.asked_again(op.playbook, ran.account, reason, seen)
        return replace(outcome.advised(result, op.host), seconds=round(self.clock.monotonic() - began, 3))

    def _look(self, host: Host, own: Mapping[str, Any]) -> Mapping[str, Any]:
        ran = self._play(host, "observe.yml", own, self.observe_timeout_s, check=False, on_event=None)
        try:
            return observation(ran.account.report.get("observed")) if ran.rc == 0 else {}
        except NotAnObservation:
            return {}

    def _play(
        self,
        host: Host,
        playbook: str,
        variables: Mapping[str, Any],
        timeout: int,
        *,
        check: bool,
        on_event: OnEvent | None,
        cancelled: Cancelled | None = None,
    ) -> Ran:
        with private_directory(self.runner_dir) as private:
            inventory, values = private / "inventory.yml", private / "variables.yml"
            inventory.write_text(render_inventory(host, sys.executable), encoding="ascii")
            values.write_text(render_variables(variables), encoding="ascii")
            runner = self._runner(private, playbook, inventory, f"-e @{values}{' --check' if check else ''}", timeout)
            if cancelled is not None:
                runner.cancel_callback = cancelled
            return _drive(runner, on_event)

    def _runner(self, private: Path, playbook: str, inventory: Path, cmdline: str, timeout: int) -> Any:
        from ansible_runner import Runner
        from ansible_runner.config.runner import RunnerConfig
        from ansible_runner.utils import get_callback_dir

        binaries = Path(os.path.dirname(sys.executable))  # noqa: PTH120 - not resolved: the venv's, not its base's
        program = binaries / "ansible-playbook"
        if not program.is_file():
            raise AnsibleMissing(path=program)
        config = RunnerConfig(
            str(private),
            playbook=str(self.project.resolve() / playbook),
            inventory=str(inventory),
            cmdline=cmdline,
            quiet=True,
            settings={"pexpect_timeout": 1, "suppress_env_files": True},
            timeout=timeout,
            suppress_env_files=True,
        )
        config.prepare()
        config.command[0] = str(program)
        ours = ansible_environment(
            os.environ,
            binaries=binaries,
            project=self.project.resolve(),
            private=private,
            control=_control_directory(self.runner_dir, self.known_hosts),
            known_hosts=self.known_hosts.absolute(),
            identity=self.identity.absolute() if self.identity is not None and self.identity.is_file() else None,
        )
        config.env = {
            **ours,
            "AWX_ISOLATED_DATA_DIR": config.artifact_dir,
            "ANSIBLE_CALLBACK_PLUGINS": str(get_callback_dir()),
            "ANSIBLE_STDOUT_CALLBACK": "awx_display",
        }
        config.cwd = str(private)
        return Runner(config=config, cancel_callback=lambda: False, remove_partials=True)


def _drive(runner: Any, on_event: OnEvent | None) -> Ran:
    account = events.Account()

    def take(event: Mapping[str, Any]) -> bool:
        nonlocal account
        account, told = events.read(account, event)
        if told is not None and on_event is not None:
            on_event(told)
        return False

    runner.event_handler = take
    status, rc = runner.run()
    return Ran(account=account, rc=_KILLED if rc is None else int(rc), timed_out=status == "timeout")


def _reason(ran: Ran, timeout: int) -> str:
    if ran.timed_out:
        return f"no end within {timeout} s"
    return f"ansible-playbook ended with {ran.rc} and brought no report"


def _control_directory(runner_dir: Path, known_hosts: Path) -> Path:
    """Where ssh keeps its control sockets between runs: their path must stay short.

    Another place for other host keys: a connection that was made under a key which is not known any more is not used.
    """
    keys = known_hosts.read_bytes() if known_hosts.is_file() else b""
    mark = Digest.of(os.fsencode(known_hosts.absolute()) + b"\0" + keys).short
    folder = runner_dir.absolute() / f"cp-{mark}"
    if len(os.fsencode(folder)) > _SOCKET_PATH_LIMIT:
        folder = Path(tempfile.gettempdir()) / f"stack-cp-{os.getuid()}-{mark}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise Unavailable(f"{folder} belongs to somebody else: remove it")
    return folder
