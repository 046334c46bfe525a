"""``python -m stack.gateway --home DIR --port N``: the gateway process on its own."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from stack.core.errors import StackError
from stack.gateway.main import GatewaySettings, run


def main(arguments: list[str] | None = None) -> int:
    """Run; the exit code is the error's category."""
    parser = argparse.ArgumentParser(prog="python -m stack.gateway", description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8317)
    parser.add_argument("--drain", type=float, default=30.0, help="seconds that SIGTERM waits for answers under way")
    given = parser.parse_args(arguments)
    try:
        run(GatewaySettings(home=given.home, host=given.host, port=given.port, drain_s=given.drain))
    except StackError as error:
        print(f"gateway: {error.message}\n{error.advice}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
