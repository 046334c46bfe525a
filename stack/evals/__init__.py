"""Suites of prompts, asking them, judging the answers, comparing a candidate with its baseline.

Decides nothing about rollouts: `compare` says how the candidate stands, `rollout` what follows from it.
"""

from stack.evals.absolute import absolute
from stack.evals.compare import compare
from stack.evals.comparison import Comparison, Outcome, QualityThresholds
from stack.evals.endpoint import Endpoint
from stack.evals.load import load_suite
from stack.evals.problems import SuiteError
from stack.evals.run import run_suite
from stack.evals.samples import EvalRun, Sample
from stack.evals.suite import Suite

__all__ = [
    "Comparison",
    "Endpoint",
    "EvalRun",
    "Outcome",
    "QualityThresholds",
    "Sample",
    "Suite",
    "SuiteError",
    "absolute",
    "compare",
    "load_suite",
    "run_suite",
]
