"""The table of commands. Each command's code stands in the module named here and is imported when it runs."""

from __future__ import annotations

from stack.cli.lazy import Entry, LazyGroup, RootGroup

EXIT_CODES = """\b
Exit codes:
  0  done, or nothing to do        4  something needed is not available
  1  a bug: please report it       5  conflict: somebody else, or moved on
  2  the input is wrong            6  inconclusive: not enough evidence
  3  refused by the evidence       7  waits for an approval"""

_EXAMPLES = """\b
Examples:
  stackctl up
  stackctl deploy --model models/tiny-1.1.yaml
  stackctl change approve CHG-1 --agent
  stackctl status --json
"""


def _lazy(name: str, summary: str, entries: dict[str, Entry], examples: str) -> LazyGroup:
    epilog = f"\b\nExamples:\n{examples}\n\n{EXIT_CODES}"
    return LazyGroup(name=name, help=summary, entries=entries, epilog=epilog, no_args_is_help=True)


model = _lazy(
    "model",
    "Model versions in the content store.",
    {
        "register": Entry("stack.cli.models:register", "Admit a manifest's files, every byte checked."),
        "list": Entry("stack.cli.models:list_", "All registered model versions."),
        "show": Entry("stack.cli.models:show", "One model version, with its files."),
        "verify": Entry("stack.cli.models:verify", "Read every byte of one version again."),
        "scrub": Entry("stack.cli.models:scrub", "Verify the whole store, repair from a copy."),
    },
    "  stackctl model register models/tiny-1.0.yaml",
)
rollout = _lazy(
    "rollout",
    "Rollouts: look at them, watch them, steer them.",
    {
        "list": Entry("stack.cli.rollouts:list_", "Rollouts, newest first."),
        "show": Entry("stack.cli.rollouts:show", "One rollout with its plan and evidence."),
        "watch": Entry("stack.cli.rollouts:watch_", "Follow a rollout until it ends or pauses."),
        "resume": Entry("stack.cli.rollouts:resume", "Let a paused rollout go on."),
        "abort": Entry("stack.cli.rollouts:abort", "Stop a rollout and put traffic back."),
    },
    "  stackctl rollout list\n  stackctl rollout watch",
)
eval_ = _lazy(
    "eval",
    "Run eval suites and compare their results.",
    {
        "run": Entry("stack.cli.evaluating:run", "Run a suite against an OpenAI-compatible URL."),
        "compare": Entry("stack.cli.evaluating:compare", "Paired comparison of two runs."),
    },
    "  stackctl eval compare baseline.json candidate.json",
)
change = _lazy(
    "change",
    "Changes that need approvals: look at them, approve them, report on them.",
    {
        "list": Entry("stack.cli.changes:list_", "Requests for approval, newest first."),
        "show": Entry("stack.cli.changes:show", "What a change is about and what is missing."),
        "approve": Entry("stack.cli.changes:approve", "Sign its plan with your own SSH key."),
        "reject": Entry("stack.cli.changes:reject", "Refuse what waits."),
        "revoke": Entry("stack.cli.changes:revoke", "Take back an approval that is not used yet."),
        "report": Entry("stack.cli.changes:report", "The post-change report."),
    },
    "  stackctl change list --open\n  stackctl change approve CHG-1 --key ~/.ssh/id_ed25519",
)
token = _lazy(
    "token",
    "Who has access to the admin API.",
    {
        "create": Entry("stack.cli.tokens:create", "Give somebody access."),
        "list": Entry("stack.cli.tokens:list_", "Who has access, and until when."),
        "revoke": Entry("stack.cli.tokens:revoke", "Take access away, at once."),
    },
    "  stackctl token create anna --role operator --output anna.token",
)
host = _lazy(
    "host",
    "The machines that carry replicas.",
    {
        "list": Entry("stack.cli.hosts:list_", "Every host, what it is and what it last said of itself."),
        "check": Entry("stack.cli.hosts:check", "Ask hosts now whether they can carry replicas."),
    },
    "  stackctl host list\n  stackctl host check gpu1",
)
database = _lazy(
    "database",
    "The state database.",
    {
        "show": Entry("stack.cli.databases:show", "What it is, whether it is well, who leads."),
        "copy": Entry("stack.cli.databases:copy", "Bring state.db into PostgreSQL, checked."),
    },
    "  stackctl database show\n  stackctl database copy --to postgresql://stack@db.example/stack",
)
alert = _lazy(
    "alert",
    "What people must know.",
    {
        "list": Entry("stack.cli.alerting:list_", "Open alerts, newest first."),
        "ack": Entry("stack.cli.alerting:ack", "Say that you have seen to it."),
    },
    "  stackctl alert list\n  stackctl alert ack 3",
)
audit = _lazy(
    "audit",
    "The audit log.",
    {
        "tail": Entry("stack.cli.auditing:tail", "The newest records."),
        "show": Entry("stack.cli.auditing:show", "One record with its hashes."),
        "verify": Entry("stack.cli.auditing:verify", "Check every record against checkpoints."),
        "head": Entry("stack.cli.auditing:head", "Size, newest checkpoint, key, sinks."),
        "export": Entry("stack.cli.auditing:export", "The whole log as JSON lines, for an auditor."),
        "prove": Entry("stack.cli.auditing:prove", "That one record is in the log, checked here."),
    },
    "  stackctl audit tail --limit 20\n  stackctl audit verify\n  stackctl audit export audit.jsonl",
)

_ENTRIES = {
    "up": Entry("stack.cli.lifecycle:up", "Start gateway and control plane in the background."),
    "down": Entry("stack.cli.lifecycle:down", "Stop what runs from this state directory."),
    "deploy": Entry("stack.cli.deploying:deploy", "Roll a release out behind a canary, and watch it."),
    "rollback": Entry("stack.cli.deploying:rollback", "Go back to the last known good."),
    "plan": Entry("stack.cli.deploying:plan", "What a deploy would do."),
    "status": Entry("stack.cli.inspecting:status", "What is true now, on one screen."),
    "diff": Entry("stack.cli.inspecting:diff", "Desired state against observed state."),
    "doctor": Entry("stack.cli.doctor:doctor", "Check this machine and say what to do."),
    "rollout": Entry("stack.cli.main:rollout", "Look at, watch and steer rollouts."),
    "model": Entry("stack.cli.main:model", "Register, list and verify models."),
    "eval": Entry("stack.cli.main:eval_", "Run and compare eval suites."),
    "change": Entry("stack.cli.main:change", "Changes that need approvals."),
    "token": Entry("stack.cli.main:token", "Who has access to the admin API."),
    "host": Entry("stack.cli.main:host", "The machines that carry replicas."),
    "database": Entry("stack.cli.main:database", "Look at the state database, copy it into PostgreSQL."),
    "alert": Entry("stack.cli.main:alert", "What people must know."),
    "audit": Entry("stack.cli.main:audit", "Read and verify the audit log."),
    "serve": Entry("stack.cli.lifecycle:serve", "Run the control plane in the foreground."),
    "gateway": Entry("stack.cli.lifecycle:gateway", "Run the gateway in the foreground."),
}

cli = RootGroup(
    name="stackctl",
    entries=_ENTRIES,
    help="Run LLM inference on hosts you own: canaries, evidence, rollback. State lives in STACK_HOME (./.stack).",
    epilog=_EXAMPLES + "\n" + EXIT_CODES,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def main() -> None:
    """The console script."""
    cli(prog_name="stackctl")
