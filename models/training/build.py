"""The one command: train every version, export it, evaluate it, and write its manifest.

    python models/training/build.py                                  # all three versions, into models/
    python models/training/build.py --out /tmp/tiny --version 1.0 --steps-scale 0.01

A version that continues from another reads that one's published files from the same folder; if they are not
there, it is built first. Nothing is stamped with a time: on one machine the same command gives the same digests.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import artifacts
import evaluate
import network
import suites
import tokenizer as vocabulary
import train
from export_gguf import export
from recipes import BY_VERSION, RECIPES, Recipe
from tokenizers import Tokenizer

MODELS = Path(__file__).resolve().parent.parent
EVALUATION = "tiny-evaluation.json"
TABLE_BEGIN, TABLE_END = "<!-- accuracy:begin -->", "<!-- accuracy:end -->"


@dataclass(frozen=True, kw_only=True)
class Options:
    """How much to do: a factor on every recipe's steps, and held-out prompts per task to grade by."""

    steps_scale: float
    prompts: int
    threads: int


def _say(message: str) -> None:
    print(message, flush=True)


def weights_folder(models: Path, version: str) -> Path:
    """Where a version's safetensors files lie."""
    return models / f"{artifacts.MODEL}-{version}" / "safetensors"


def plan(models: Path, wanted: Sequence[str]) -> list[Recipe]:
    """The wanted versions in order, with any parent whose weights are missing."""
    versions = set(wanted)
    for recipe in reversed(RECIPES):
        if recipe.version not in versions or recipe.parent is None:
            continue
        if not (weights_folder(models, recipe.parent) / "model.safetensors").exists():
            versions.add(recipe.parent)
    return [recipe for recipe in RECIPES if recipe.version in versions]


def train_version(models: Path, recipe: Recipe, tokenizer: Tokenizer, threads: int) -> None:
    """Train one version and publish its safetensors folder and GGUF file."""
    train.settle(recipe.seed, threads)
    model = network.load(weights_folder(models, recipe.parent)) if recipe.parent else network.TinyLlama()
    name = f"{artifacts.MODEL}-{recipe.version}"
    train.train(model, train.Packer(tokenizer, recipe.mix, recipe.seed), recipe.schedule, name)
    folder = weights_folder(models, recipe.version)
    vocabulary.save(tokenizer, folder)
    end, pad = (vocabulary.token_id(tokenizer, token) for token in (vocabulary.END, vocabulary.END_OF_TEXT))
    network.save(model, folder, eos=end, pad=pad)
    export(folder, models / name / "gguf" / "model.gguf", name)


def evaluate_version(models: Path, version: str, tokenizer: Tokenizer, prompts: int) -> evaluate.Accuracy:
    """Accuracy of the published (rounded) weights, not of those training ended with."""
    published = network.load(weights_folder(models, version))
    return evaluate.accuracy(evaluate.answers(published, tokenizer, suites.evaluation(prompts)))


def record(models: Path, results: dict[str, evaluate.Accuracy], prompts: int) -> None:
    """Merge results into `tiny-evaluation.json`, and into the README's table where there is one."""
    path = models / EVALUATION
    known = json.loads(path.read_text(encoding="utf-8"))["accuracy"] if path.exists() else {}
    merged = dict(sorted({**known, **results}.items()))
    report = {"suite": "evals/tiny-eval.yaml", "prompts_per_task": prompts, "accuracy": merged}
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    readme = models / "README.md"
    if readme.exists():
        text = readme.read_text(encoding="utf-8")
        before, rest = text.split(TABLE_BEGIN, 1)
        after = rest.split(TABLE_END, 1)[1]
        table = evaluate.table(merged)
        readme.write_text(f"{before}{TABLE_BEGIN}\n{table}\n{TABLE_END}{after}", encoding="utf-8")


def build(models: Path, wanted: Sequence[str], options: Options) -> None:
    """Build the wanted versions into `models`."""
    began = time.monotonic()
    models.mkdir(parents=True, exist_ok=True)
    suites.write(models / "evals")
    tokenizer = vocabulary.build()
    results: dict[str, evaluate.Accuracy] = {}
    recipes = [recipe.scaled(options.steps_scale) for recipe in plan(models, wanted)]
    for number, recipe in enumerate(recipes, 1):
        _say(f"[{number}/{len(recipes)}] tiny {recipe.version}: {recipe.source()}")
        train_version(models, recipe, tokenizer, options.threads)
        results[recipe.version] = evaluate_version(models, recipe.version, tokenizer, options.prompts)
        manifest = artifacts.write_manifest(models, recipe)
        _say(f"[{number}/{len(recipes)}] wrote {manifest}, {time.monotonic() - began:.0f} s so far")
    record(models, results, options.prompts)
    _say(evaluate.table(results))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Train, export, evaluate and describe the tiny models.")
    add = parser.add_argument
    add("--out", type=Path, default=MODELS, help="where to write (default: models/)")
    add("--version", action="append", choices=sorted(BY_VERSION), help="repeatable; default: all")
    add("--steps-scale", type=float, default=1.0, help="multiply steps, e.g. 0.01 for a fast test; needs --out")
    add("--prompts", type=int, default=suites.PER_TASK, help="held-out prompts per task; fewer needs --out")
    add("--threads", type=int, default=2, help="CPU threads for torch")
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and build. A shortened run may not replace the shipped models."""
    parser = _parser()
    given = parser.parse_args(arguments)
    options = Options(steps_scale=given.steps_scale, prompts=given.prompts, threads=given.threads)
    if given.out.resolve() == MODELS and (options.steps_scale, options.prompts) != (1.0, suites.PER_TASK):
        parser.error("a shortened run would replace the shipped models: give it an --out of its own")
    build(given.out, given.version or [recipe.version for recipe in RECIPES], options)


if __name__ == "__main__":
    main()
