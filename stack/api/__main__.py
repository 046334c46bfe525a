"""``python -m stack.api``: the control plane process. ``stackctl serve`` becomes this one.

Binds first (so that a port in use is said before anything else happens), then starts the worker, then serves.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from pathlib import Path

from stack.api.server import bind, serve
from stack.app import open_operator
from stack.config.home import Home, ports_from_environment
from stack.core.errors import StackError


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="stackctl serve", description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="state directory")
    parser.add_argument("--stack", type=Path, default=Path("stack.yaml"), help="desired state")
    return parser.parse_args(argv)


def _leave(number: int, frame: object) -> None:
    sys.exit(0)


def main(argv: list[str] | None = None) -> int:
    """Run until told to stop; the exit code of the error, if any."""
    given = _arguments(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        ports = ports_from_environment(os.environ)
        home = Home(given.home.absolute())
        listener = bind(ports.admin)
        with open_operator(home, given.stack.absolute(), ports) as operator:
            operator.start()
            signal.signal(
                signal.SIGTERM, _leave
            )  # uvicorn raises it again once it has ended: then what follows must run
            try:
                serve(operator, ports.admin, listener)
            finally:
                operator.stop()
    except StackError as error:
        print(f"{error.message}\n{error.advice}", file=sys.stderr)
        print(json.dumps(error.to_json()), file=sys.stderr, flush=True)  # last: stackctl up reads it from the log
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
