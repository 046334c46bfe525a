"""``eval run`` and ``eval compare``: the eval room from the command line, without a control plane."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stack.cli.command import answer, command
from stack.cli.screen import screen_for
from stack.cli.tables import columns
from stack.core.clock import SystemClock
from stack.core.errors import InvalidInput

if TYPE_CHECKING:
    from stack.evals import Comparison, EvalRun

_PASSED = "\b\n  0 every sample passed   3 at least one failed   6 not everything could be asked"
_COMPARED = "\b\n  0 as good or better   3 worse   6 not enough evidence"
_ALL_FAILING_CASES = 10


class CantRead(InvalidInput):
    """{path} can't be read: {detail}."""


def _headers(key_file: Path | None) -> dict[str, str]:
    if key_file is None:
        return {}
    try:
        return {"Authorization": f"Bearer {key_file.read_text(encoding='ascii').strip()}"}
    except (OSError, UnicodeDecodeError) as error:
        raise CantRead(type(error).__name__, path=key_file) from error


@command(
    "run",
    examples="""stackctl eval run --suite models/evals/tiny-smoke.yaml --url http://127.0.0.1:8317/v1 --model tiny \
--key-file .stack/secrets/client.key --out run.json""",
    codes=_PASSED,
)
@click.option("--suite", "suite_path", type=click.Path(path_type=Path), required=True, help="A suite in YAML.")
@click.option("--url", required=True, help="An OpenAI-compatible base URL; ends in /v1.")
@click.option("--model", required=True, help="The model name to ask for.")
@click.option("--key-file", type=click.Path(path_type=Path), help="A file with the API key.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the run here (for eval compare).")
@click.option("--concurrency", type=click.IntRange(1, 64), default=4, show_default=True)
@click.option("--repeat", type=click.IntRange(1, 100), default=1, show_default=True)
@click.option("--limit", type=click.IntRange(1), help="Ask this many prompts only, of every task some.")
@click.pass_context
def run(
    ctx: click.Context,
    suite_path: Path,
    url: str,
    model: str,
    key_file: Path | None,
    out: Path | None,
    concurrency: int,
    repeat: int,
    limit: int | None,
    as_json: bool,
) -> None:
    """Ask every prompt of a suite and judge the answers."""
    from stack.evals import Endpoint, load_suite, run_suite

    clock = SystemClock()
    begun = clock.monotonic()
    suite = load_suite(suite_path)
    endpoint = Endpoint(base_url=url, model=model, headers=_headers(key_file))
    screen = screen_for(lambda text: click.echo(text, err=True), clock, to_stderr=True)

    def progress(done: int, total: int, failed: int) -> None:
        screen.waiting(f"answers: {done} of {total}, {failed} failed", clock.monotonic() - begun)

    try:
        result = run_suite(
            suite, endpoint, concurrency=concurrency, clock=clock, limit=limit, repeat=repeat, progress=progress
        )
    finally:
        screen.close()
    if out is not None:
        out.write_text(json.dumps(result.to_json(), indent=1) + "\n", encoding="utf-8")
    answer(result.to_json(), run_text(result), as_json=as_json)
    ctx.exit(_run_code(result))


def _run_code(result: EvalRun) -> int:
    """Only a complete run in which everything passed is 0."""
    if not result.complete:
        return 6
    return 0 if not result.failed else 3


def run_text(result: EvalRun) -> str:
    """Counts, then the first failing cases."""
    failing = [(s.test_id, s.task, s.reason) for s in result.failed[:_ALL_FAILING_CASES]]
    head = f"{result.suite}: {result.passed} of {result.planned} passed, {result.seconds:.1f} s"
    return head + ("\n\n" + columns(("failed", "task", "why"), failing) if failing else "")


@command("compare", examples="stackctl eval compare baseline.json candidate.json --json", codes=_COMPARED)
@click.argument("baseline", type=click.Path(path_type=Path))
@click.argument("candidate", type=click.Path(path_type=Path))
@click.option("--max-drop", type=click.FloatRange(0, 1), default=0.02, show_default=True, help="Tolerated drop.")
@click.pass_context
def compare(ctx: click.Context, baseline: Path, candidate: Path, max_drop: float, as_json: bool) -> None:
    """Is the candidate worse than the baseline? Paired: the same prompts, compared one by one."""
    from stack.evals import QualityThresholds
    from stack.evals import compare as compared

    result = compared(_stored(baseline), _stored(candidate), QualityThresholds(max_drop=max_drop))
    answer(result.to_json(), comparison_text(result), as_json=as_json)
    ctx.exit({"PASS": 0, "WORSE": 3}.get(str(result.outcome), 6))


def _stored(path: Path) -> EvalRun:
    from stack.evals import EvalRun

    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CantRead(str(error), path=path) from error
    if not isinstance(body, dict):
        raise CantRead("it holds no run", path=path)
    return EvalRun.from_json(body)


def comparison_text(result: Comparison) -> str:
    """The outcome with its reasons and numbers."""
    interval = "unknown" if result.interval is None else f"{result.interval[0]:+.3f} .. {result.interval[1]:+.3f}"
    difference = "unknown" if result.difference is None else f"{result.difference:+.3f}"
    lines = [
        f"{result.outcome}: {'; '.join(result.reasons)}",
        f"pairs {result.n}, regressed {result.regressed}, improved {result.improved}",
        f"difference {difference}, interval {interval}",
    ]
    return "\n".join(lines)
