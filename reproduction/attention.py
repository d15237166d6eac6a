"""What each part of MHA-ESP's attention brings, on validation rows: from a mean of exemplars to a choice among them.

    python -m reproduction.attention facts --out runs/attention-facts
    python -m reproduction.attention b3db --model none --seeds 0 1 2 --out runs/attention-b3db
    python -m reproduction.attention b3db --versions averaging ours --test --seeds 0 1 2 --out runs/attention-b3db

``--model none`` puts a linear head in the place of the language model, which costs next to nothing. Each fit is kept in
OUT as it ends; the same command goes on where it was stopped. OUT/attention.md holds the tables, OUT/results.json the
means.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coldframe.cli.parsing import writable
from coldframe.config import Config
from coldframe.evaluation.compare import Difference, paired_difference
from coldframe.frozen.model import FrozenLM, load_lm
from coldframe.inference.predictions import Predictions
from coldframe.methods.registry import create
from coldframe.methods.soft_tokens.set_attention import attends
from coldframe.pipeline.fit import fit
from coldframe.progress import say
from coldframe.reports import markdown
from coldframe.reports.blocks import Code, Column, Table, Text, ranged
from coldframe.retrieval.retriever import RetrievalConfig, Retriever
from coldframe.retrieval.store import Store
from coldframe.storage.files import write_json, write_text
from coldframe.tasks.corpora import spread
from coldframe.tasks.load import load_task
from coldframe.tasks.task import Task, content_hash

#: What MHA-ESP was before: scores near zero, the similarity at a slope of 1, labels as text or as one number each.
AVERAGING: dict[str, Any] = {"scores": "dot", "similarity": "raw", "slope": 1.0, "label_place": "auto"}
#: Settings by the name of a version.
VERSIONS: dict[str, dict[str, Any]] = {
    "averaging": AVERAGING,
    "+ cosine scores": {**AVERAGING, "scores": "cosine"},
    "+ similarity, raw, slope 10": {**AVERAGING, "slope": 10.0},
    "+ similarity, standardised": {**AVERAGING, "similarity": "standard", "slope": 2.0},
    "+ label vectors": {**AVERAGING, "label_place": "vector"},
    "+ learned labels": {**AVERAGING, "label_place": "learned"},
    "ours": {},
    "ours, slope 0.5": {"slope": 0.5},
    "ours, slope 1": {"slope": 1.0},
    "ours, dot": {"scores": "dot"},
    "ours, no similarity": {"similarity": "none"},
    "ours, learned labels": {"label_place": "learned"},
    "ours, labels in the text": {"label_place": "auto"},
}
#: Task, settings of MHA-ESP and of training, as the results pages have them where there is one.
TASKS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "facts": ({}, {"heads": 4, "dropout": 0.0}, {"epochs": 8, "batch_size": 16, "learning_rate": 1e-3}),
    "b3db": ({}, {"dropout": 0.5}, {"epochs": 3}),
    "bbbp": ({}, {"dropout": 0.5}, {"epochs": 5}),
    "bace": ({}, {"dropout": 0.5}, {"epochs": 5}),
    "trec": (
        {"max_train": 600},
        {"k": 3, "static_learning_rate": 0.05},
        {"epochs": 8, "batch_size": 16, "patience": 0},
    ),
}


@dataclasses.dataclass(frozen=True)
class Run(Config):
    """One fit.

    Args:
        version: Of the attention.
        seed: Training seed.
        loss: Validation loss of the best epoch, by which it is chosen.
        metric: The task's metric on validation rows at that epoch.
        entropy: Of the attention in that epoch, as a share of the greatest.
        gradient: Mean norm of the gradient of queries and keys in the first epoch.
        test_entropy: On test rows, where they were predicted.
    """

    version: str
    seed: int
    loss: float
    metric: float
    entropy: float
    gradient: float
    test_entropy: float | None = None


@dataclasses.dataclass
class Ablation:
    """Fits of all versions on one task, each kept as it ends."""

    task: Task
    lm: FrozenLM
    method: dict[str, Any]
    training: dict[str, Any]
    headed: bool
    test: bool
    out: Path

    def run(self, version: str, seed: int) -> tuple[Run, Predictions | None]:
        """A fit, made or read."""
        settings = {**self.method, **VERSIONS[version]}
        training = {**self.training, "select": "loss", "seed": seed}
        parts = (settings, training, self.headed, [len(self.task.train), len(self.task.validation)])
        name = f"{content_hash(json.dumps(parts, sort_keys=True), self.task.schema.name)}-{seed}"
        path, lines = self.out / f"{name}.json", self.out / f"{name}.jsonl"
        if path.is_file() and (not self.test or lines.is_file()):
            return Run.from_file(path), Predictions.load(lines) if self.test else None
        method = create("mha-esp-head" if self.headed else "mha-esp", settings)
        pipeline = fit(method, self.lm, self.task, training=training, quiet=True)
        best = [record for record in pipeline.history if record["best"]][-1]
        predictions = pipeline.predictions(self.task.test) if self.test else None
        run = Run(
            version,
            seed,
            best["validation_loss"],
            best["validation_metric"],
            best["attention_entropy"],
            pipeline.history[0]["attention_gradient"],
            None if predictions is None else predictions.attention_entropy,
        )
        if predictions is not None:
            predictions.save(lines)
        write_json(path, run.to_dict())
        say(f"{version}, seed {seed}: loss {run.loss:.3f}, {run.metric:.1f}, {attends(run.entropy)}")
        return run, predictions


def vote(task: Task, k: int) -> float:
    """Accuracy of the unweighted vote of the k nearest over the validation rows, in percent; of ties the nearest."""
    held_out = {example.id for example in task.validation}
    store = Store.of([entry for entry in task.exemplars if entry.id not in held_out])
    retriever = Retriever(store, task.schema.domain, k, RetrievalConfig())
    retrieved = retriever.retrieve(task.validation, exclude_same_key=task.store is None)
    right = 0
    for row, example in enumerate(task.validation):
        labels = [entry.target for entry in retrieved.examples(row)]
        right += max(labels, key=labels.count) == example.target
    return 100 * right / len(task.validation)


def table(runs: Sequence[Run], metric: str) -> Table:
    """A row for each version, means over its seeds."""
    by_version = [[run for run in runs if run.version == version] for version in dict.fromkeys(r.version for r in runs)]

    def mean(name: str, digits: int) -> Column[list[Run]]:
        return Column(
            {"loss": "validation loss", "metric": f"validation {metric}"}.get(name, name),
            lambda same: (
                None
                if getattr(same[0], name) is None
                else f"{np.mean([getattr(run, name) for run in same]):.{digits}f}"
            ),
        )

    seeds = Column[list[Run]]("by seed", lambda same: ", ".join(f"{run.metric:.1f}" for run in same))
    gradient = Column[list[Run]]("gradient", lambda same: f"{np.mean([run.gradient for run in same]):.1e}", "epoch 1")
    version = Column[list[Run]]("version", lambda same: same[0].version, words=True)
    return Table.of([version, mean("loss", 3), mean("metric", 1), seeds, mean("entropy", 3), gradient], by_version)


def means(runs: Sequence[Run]) -> dict[str, dict[str, float]]:
    """By version the means over its seeds."""
    names = ("loss", "metric", "entropy")
    by_version: dict[str, list[Run]] = {}
    for run in runs:
        by_version.setdefault(run.version, []).append(run)
    return {
        v: {name: float(np.mean([getattr(run, name) for run in of])) for name in names} for v, of in by_version.items()
    }


def difference(task: Task, runs: dict[str, list[Predictions]]) -> Difference:
    """Ours minus the averaging version on test rows, paired, seeds as the outer level."""
    positive = None if task.schema.positive is None else task.schema.index(task.schema.positive)
    return paired_difference(runs["ours"], runs["averaging"], task.schema.metric, positive)


def main(argv: Sequence[str] | None = None) -> None:
    """Fit, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=sorted(TASKS))
    parser.add_argument("--model", default="smollm2", help="none: a linear head in its place")
    parser.add_argument("--versions", nargs="+", default=list(VERSIONS), choices=list(VERSIONS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--rows", type=int, help="training rows, evenly over all; all if not given")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--test", action="store_true", help="predict test rows: ours against averaging, paired")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    data, method, training = TASKS[options.task]
    task = load_task(options.task, **data)
    if options.rows:
        task = dataclasses.replace(task, train=spread(task.train, options.rows))
    headed = options.model == "none"
    lm = load_lm("smollm2" if headed else options.model)
    training = training | ({"epochs": options.epochs} if options.epochs else {})
    with writable(options.out) as out:
        ablation = Ablation(task, lm, method, training, headed, options.test, out)
        command = shlex.join(["python", "-m", "reproduction.attention", *(argv or sys.argv[1:])])
        text, results = _compared(ablation, options, command)
        write_text(out / "attention.md", text)
        write_json(out / "results.json", results, indent=2)
    print(text)


def _compared(ablation: Ablation, options: argparse.Namespace, command: str) -> tuple[str, dict[str, Any]]:
    """Make the fits; the tables as Markdown, and the numbers."""
    task = ablation.task
    runs, predictions = [], {}
    for seed in options.seeds:
        for version in options.versions:
            run, predicted = ablation.run(version, seed)
            runs.append(run)
            if predicted is not None:
                predictions.setdefault(version, []).append(predicted)
    rows = f"{len(task.train):,} training, {len(task.validation):,} validation rows, {len(options.seeds)} seed(s)"
    reader = "a linear head" if ablation.headed else options.model
    votes = ", ".join(f"{k}-NN {vote(task, k):.1f}" for k in (1, ablation.method.get("k", 5)))
    parts = [Text(f"{options.task}, {reader}: {rows}. Accuracy of votes: {votes}."), table(runs, task.schema.metric)]
    results: dict[str, Any] = {"versions": means(runs)}
    if {"ours", "averaging"} <= predictions.keys():
        ours_minus_averaging = difference(task, predictions)
        results["ours minus averaging"] = ours_minus_averaging.to_dict()
        gap = ranged(ours_minus_averaging, 1, sign=True)
        parts.append(Text(f"Ours minus averaging, {task.schema.metric} on {len(task.test):,} test rows: {gap.text}"))
    return markdown.render([*parts, Code(command)]), results


if __name__ == "__main__":
    main()
