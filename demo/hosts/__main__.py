"""``python -m demo.hosts up|down|status --root DIR``: test hosts by hand.

Exit status: 0, or 1 when something failed, 2 for a wrong command line, 3 when ``status`` finds a host that is not up,
4 when this machine does not permit such hosts.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from demo.hosts.errors import HostsFailed, HostsImpossible
from demo.hosts.group import HostGroup, down, lives, status, up

FAILED, NOT_UP, IMPOSSIBLE = 1, 3, 4


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m demo.hosts", description="SSH hosts in namespaces of this machine.")
    verbs = made.add_subparsers(dest="verb", required=True)
    for verb, what in (
        ("up", "bring hosts up"),
        ("down", "end them, leave nothing"),
        ("status", "exit 0 if all are up"),
    ):
        sub = verbs.add_parser(verb, help=what, description=what)
        sub.add_argument("--root", type=Path, required=True, help="a directory for everything of these hosts")
        if verb == "up":
            sub.add_argument("--count", type=int, default=3, help="hosts whose PID 1 is supervisord (default 3)")
            sub.add_argument("--systemd", action="store_true", help="and one more whose PID 1 is real systemd")
    return made


def show(group: HostGroup) -> None:
    """One line per host, and how to get in."""
    for host in group.hosts:
        state = "up" if lives(host) else "not running"
        print(f"{host.name}  {host.address}  {host.init:11}  {state}")
    first = group.hosts[0].address
    print(f"ssh -i {group.key} -o UserKnownHostsFile={group.known_hosts} -o IdentitiesOnly=yes root@{first}")


def main() -> int:
    """The command."""
    known = parser().parse_args()
    folder: Path = known.root.resolve()
    try:
        if known.verb == "up":
            show(up(folder, count=known.count, systemd=known.systemd))
        elif known.verb == "down":
            print("down" if down(folder) else f"no hosts in {folder}")
        else:
            group = status(folder)
            if group is None:
                print(f"no hosts in {folder}")
                return NOT_UP
            show(group)
            return 0 if all(lives(host) for host in group.hosts) else NOT_UP
    except HostsImpossible as error:
        print(f"not possible here: {error}", file=sys.stderr)
        return IMPOSSIBLE
    except HostsFailed as error:
        print(error, file=sys.stderr)
        return FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
