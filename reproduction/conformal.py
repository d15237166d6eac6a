"""How often sets of labels hold the right one where rows are exchangeable, and where they are not.

``python -m reproduction.conformal --out DIR`` cuts each task anew for every seed, fits each method, and writes numbers
and tables. No language model is needed.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from coldframe.errors import ConfigError
from coldframe.inference.intervals import Interval
from coldframe.inference.seeds import t_quantile
from coldframe.methods.registry import create
from coldframe.pipeline.conformal import Conformal, Coverage
from coldframe.pipeline.fit import fit, without_validation
from coldframe.progress import say
from coldframe.reports import markdown
from coldframe.reports.blocks import Table
from coldframe.reports.numbers import DASH, fixed, span
from coldframe.storage.files import write_json, write_text
from coldframe.tasks.load import load_task
from coldframe.tasks.table_task import cut_rows

COVERAGES = (0.8, 0.9, 0.95)
METHODS: dict[str, dict[str, Any]] = {"knn": {"k": 15}, "logistic-regression": {}, "random-forest": {"leaf": 1}}
#: Test rows by scaffold, validation rows at random from the others: calibrated on other molecules than it is asked of.
SHIFTED = "scaffold, validation random"
#: Task, split, methods.
PLAN = [
    ("b3db", "random", tuple(METHODS)),
    ("b3db", "scaffold", tuple(METHODS)),
    ("b3db", SHIFTED, tuple(METHODS)),
    ("trec", "stratified", ("knn", "logistic-regression")),
]


@dataclasses.dataclass(frozen=True)
class Trial:
    """The sets of one fit: where, by which limits (``all rows``, ``by class``, ``learned rows``), at which coverage."""

    task: str
    split: str
    method: str
    limits: str
    coverage: float
    seed: int
    rows: int
    result: Coverage


def trials(task_name: str, split: str, method: str, seed: int) -> Iterator[Trial]:
    """Fit a method to one cut of a task, and measure the sets of its test rows.

    ``learned rows`` is the control: the limits that a method which learns its validation rows gives itself.
    """
    task = load_task(task_name, split="scaffold" if split == SHIFTED else split, seed=seed)
    if split == SHIFTED:
        train, validation = cut_rows([*task.train, *task.validation], "random", len(task.validation), seed)
        task = dataclasses.replace(task, train=tuple(train), validation=tuple(validation))
    pipeline = fit(create(method, METHODS[method]), None, task, training={"seed": seed}, quiet=True)
    unlearned = without_validation(pipeline, task)
    predictions = pipeline.predictions(task.test)
    ways = {"all rows": (unlearned, False), "by class": (unlearned, True)}
    if unlearned is not pipeline:
        ways["learned rows"] = (pipeline, False)
    for name, (calibrated, by_class) in ways.items():
        conformal = Conformal.of(calibrated, task.validation)
        rows = sum(map(len, conformal.scores.values()))
        for coverage in COVERAGES:
            try:
                limits = conformal.limits(coverage, by_class)
            except ConfigError:  # a label has too few rows
                continue
            result = Coverage.of(predictions, limits)
            yield Trial(task_name, split, method, name, coverage, seed, rows, result)


def tables_of(measured: Sequence[Trial]) -> list[Table]:
    """How often the right label was in the set at each coverage, and what sets are like at 90%; means over seeds."""
    groups: dict[tuple[str, ...], list[Trial]] = {}
    for trial in measured:
        groups.setdefault((trial.task, trial.split, trial.method, trial.limits), []).append(trial)
    words, rights, looks = ("task", "split", "method", "limits"), [], []
    for names, group in groups.items():
        at = {coverage: [trial.result for trial in group if trial.coverage == coverage] for coverage in COVERAGES}
        rights.append((*names, *(_mean([result.right.value for result in results]) for results in at.values())))
        if at[0.9]:
            looks.append((*names, *_look(at[0.9])))
    wanted = [f"{100 * coverage:g} wanted" for coverage in COVERAGES]
    columns = ("seeds from, to", "lowest label", "labels", "single", "right of these", "empty")
    return [
        Table.plain((*words, *wanted), rights, words=range(4), title="Right label in the set, percent"),
        Table.plain((*words, *columns), looks, words=(*range(4), 5), title="Sets at 90 percent"),
    ]


def _mean(values: Sequence[float]) -> str:
    """The mean over seeds in percent, with its 95% t interval."""
    if not values:
        return DASH
    mean, seeds = float(np.mean(values)), len(values)
    half = t_quantile(seeds - 1) * float(np.std(values, ddof=1)) / np.sqrt(seeds) if seeds > 1 else np.nan
    return span(Interval(mean, mean - half, mean + half, n=seeds), scale=100)


def _look(results: Sequence[Coverage]) -> tuple[str, ...]:
    rights = [100 * result.right.value for result in results]
    labels = {label for result in results for label in result.by_label}
    by_label = {y: _percent([r.by_label[y].value for r in results if y in r.by_label]) for y in sorted(labels)}
    lowest = min(by_label, key=lambda label: float(by_label[label]))
    return (
        f"{min(rights):.1f}, {max(rights):.1f}",
        f"{lowest} {by_label[lowest]}",
        fixed(float(np.mean([result.size for result in results])), 2),
        _percent([result.single for result in results]),
        _percent([result.single_right.value for result in results]),
        _percent([result.empty for result in results]),
    )


def _percent(shares: Sequence[float]) -> str:
    return fixed(100 * float(np.nanmean(shares)))


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and write after every method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/conformal"))
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args(argv)
    measured: list[Trial] = []
    for task, split, methods in PLAN:
        for method in methods:
            for seed in range(options.seeds):
                say(f"{task}, {split}, {method}, seed {seed}")
                measured += trials(task, split, method, seed)
            write_json(options.out / "conformal.json", [dataclasses.asdict(trial) for trial in measured])
            write_text(options.out / "conformal.md", markdown.render(tables_of(measured)))


if __name__ == "__main__":
    main()
