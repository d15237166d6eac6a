"""From predictions to the lines of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from coldframe.errors import ConfigError, nearest
from coldframe.evaluation.compare import paired_difference
from coldframe.evaluation.cost import Cost
from coldframe.evaluation.report_data import LabelPrior, MethodRow, Neighbour, Role, Sample, Score, Tuning
from coldframe.inference.intervals import RESAMPLES, score_interval, statistic, usual_metrics
from coldframe.inference.predictions import Predictions, same_rows
from coldframe.reports.numbers import MetricInfo
from coldframe.retrieval.store import Store
from coldframe.tasks.metrics import METRICS, Metric
from coldframe.tasks.task import Example, Schema
from coldframe.tasks.text_metrics import TEXT_METRICS, TextMetric

#: The loss is no metric of written answers: it comes with the predictions where the model gives one.
LOSS = MetricInfo("loss", "Loss of the gold answer", higher=False, decimals=3)


def metric_infos(names: Sequence[str]) -> tuple[MetricInfo, ...]:
    """How metrics are shown, by name; percentages with one decimal, others with three."""
    infos = {LOSS.name: LOSS}
    known: list[Metric | TextMetric] = [*METRICS.values(), *TEXT_METRICS.values()]
    for metric in known:
        decimals = 1 if metric.range == (0.0, 100.0) else 3
        infos[metric.name] = MetricInfo(metric.name, metric.title, metric.greater_is_better, decimals)
    for name in names:
        if name not in infos:
            raise ConfigError(f"There is no metric {name!r}", fix=nearest(name, infos))
    return tuple(infos[name] for name in dict.fromkeys(names))


def method_row(
    runs: Sequence[Predictions],
    schema: Schema,
    *,
    role: Role = "method",
    metrics: Sequence[str] = (),
    main: Sequence[Predictions] | None = None,
    cost: Cost | None = None,
    bytes_per_passage: float | None = None,
    fit_memory_mb: float | None = None,
    order_std: float | None = None,
    note: str = "",
    tuning: Tuning | None = None,
    resamples: int = RESAMPLES,
) -> MethodRow:
    """A line of the table: every metric with its interval, and the paired difference from the main method.

    Args:
        runs: One run per training seed of one method.
        schema: The task's schema; its metric is the primary one.
        role: What the row stands for.
        metrics: Further metrics; the primary one is always there. Default: :func:`usual_metrics`.
        main: The main method's runs; None for the main method itself.
        cost: Of the method.
        bytes_per_passage: What it stores for each passage.
        fit_memory_mb: Largest memory while it was fitted and scored, of all seeds.
        order_std: Standard deviation of the primary metric over shuffles of the exemplars.
        note: What a reader must know.
        tuning: How its settings were chosen.
        resamples: Bootstrap resamples of the primary metric and of the difference; the other metrics, which
            decide nothing, take a fifth of them.
    """
    same_rows(runs)
    few = max(resamples // 5, 100)
    positive = schema.positive_index
    names = dict.fromkeys([schema.metric, *(metrics or usual_metrics(runs))])
    row = np.ones((1, len(runs[0])))
    entropies = [entropy for run in runs if (entropy := run.attention_entropy) is not None]
    return MethodRow(
        name=runs[0].method,
        role=role,
        scores=tuple(
            Score(name, score_interval(runs, name, positive, resamples=resamples if name == schema.metric else few))
            for name in names
        ),
        difference=paired_difference(main, runs, schema.metric, positive, resamples=resamples) if main else None,
        seed_values=tuple(float(statistic([run], schema.metric, positive)(row)[0]) for run in runs),
        cost=cost,
        bytes_per_passage=bytes_per_passage,
        fit_memory_mb=fit_memory_mb,
        order_std=order_std,
        note=note,
        attention_entropy=float(np.mean(entropies)) if entropies else None,
        tuning=tuning,
    )


def label_prior_rows(methods: Mapping[str, Sequence[Predictions]]) -> tuple[LabelPrior, ...]:
    """The mean probability of every label by method, over its rows and seeds; the shares are those of the first."""
    runs = next(iter(methods.values()))
    shares = np.bincount(runs[0].targets, minlength=len(runs[0].labels)) / len(runs[0])
    means = {name: np.mean([run.probabilities.mean(axis=0) for run in runs], axis=0) for name, runs in methods.items()}
    return tuple(
        LabelPrior(label, 100 * float(share), {name: 100 * float(mean[i]) for name, mean in means.items()})
        for i, (label, share) in enumerate(zip(runs[0].labels, shares, strict=True))
    )


def samples(run: Predictions, store: Store, schema: Schema, *, count: int = 6, seed: int = 0) -> tuple[Sample, ...]:
    """Queries to show with their neighbours: drawn at random, half of them wrong where there are enough."""
    if run.generated is not None and run.references is not None:
        right = TEXT_METRICS["contains"].statistics(run.generated, run.references)[:, 0] > 0
    else:
        right = run.predicted == run.targets
    drawn = np.random.default_rng(seed).permutation(len(run))
    wrong = drawn[~right[drawn]][: max(count // 2, count - int(right.sum()))]
    drawn = np.concatenate([drawn[right[drawn]][: count - len(wrong)], wrong])
    known = {example.id: example for example in store.examples}
    return tuple(_sample(run, int(i), bool(right[i]), known) for i in drawn[:count])


def _sample(run: Predictions, i: int, right: bool, known: Mapping[str, Example]) -> Sample:
    neighbours = []
    for j, name in enumerate(run.neighbours[i]):
        if (entry := known.get(str(name))) is not None:
            attention = () if run.attention is None else tuple(run.attention[i, :, j].tolist())
            similarity = float(run.similarities[i, j])
            neighbours.append(Neighbour(entry.id, entry.text, entry.target, similarity, attention))
    if run.generated is not None and run.references is not None:
        target, predicted, probability = run.references[i][0], run.generated[i], None
    else:
        place = int(run.predicted[i])
        target, predicted = run.labels[int(run.targets[i])], run.labels[place]
        probability = float(run.probabilities[i, place])
    return Sample(run.ids[i], run.texts[i], target, predicted, right, probability, tuple(neighbours))
