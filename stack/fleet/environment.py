"""The environment and the settings that ansible-playbook gets from us: as little as works. Pure.

Nothing of the control plane's environment goes on but what a host's own tools need on a local host (locale, proxies,
certificates, pip's configuration, its URLs without credentials); secrets that it may hold do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from stack.secrets.inherited import for_tools


def ansible_environment(
    inherited: Mapping[str, str],
    *,
    binaries: Path,
    project: Path,
    private: Path,
    control: Path,
    known_hosts: Path,
    identity: Path | None = None,
) -> dict[str, str]:
    """The whole environment of one run. With ``identity`` SSH offers that key and no other."""
    kept = for_tools(inherited)
    ssh = (
        "-o ControlMaster=auto -o ControlPersist=60s -o BatchMode=yes -o ConnectTimeout=10"
        " -o ServerAliveInterval=10 -o ServerAliveCountMax=3 -o StrictHostKeyChecking=yes"
        f' -o UserKnownHostsFile="{known_hosts}" -o GlobalKnownHostsFile=/dev/null'
    )
    if identity is not None:
        ssh += f' -o IdentityFile="{identity}" -o IdentitiesOnly=yes'
    return {
        **kept,
        "LANG": kept.get("LANG", "C.UTF-8"),
        "LC_ALL": kept.get("LC_ALL", "C.UTF-8"),
        "PATH": f"{binaries}:{inherited.get('PATH', '/usr/local/bin:/usr/bin:/bin')}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "ANSIBLE_CONFIG": str(project / "ansible.cfg"),
        "ANSIBLE_HOME": str(private / "home"),
        "ANSIBLE_LOCAL_TEMP": str(private / "tmp"),
        "ANSIBLE_REMOTE_TMP": "~/.ansible/tmp",
        "ANSIBLE_HOST_KEY_CHECKING": "True",
        "ANSIBLE_PIPELINING": "True",
        "ANSIBLE_SSH_ARGS": ssh,
        "ANSIBLE_SSH_USETTY": "False",
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(control),
        "ANSIBLE_NO_TARGET_SYSLOG": "True",
        "ANSIBLE_GATHERING": "explicit",
        "ANSIBLE_NOCOLOR": "True",
        "ANSIBLE_LOCALHOST_WARNING": "False",
    }
