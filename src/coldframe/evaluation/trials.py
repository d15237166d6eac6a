"""What a trial of tuning is: settings that are fitted on training rows and scored on validation rows."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from coldframe.config import check
from coldframe.errors import ConfigError
from coldframe.evaluation.jobs import Job
from coldframe.evaluation.runs import primary, sample
from coldframe.frozen.model import FrozenLM
from coldframe.inference.predictions import Predictions
from coldframe.pipeline.calibration import Calibration
from coldframe.pipeline.fit import fit
from coldframe.pipeline.label_bias import bias_by
from coldframe.pipeline.setup import class_weights, training_settings, weighs_classes
from coldframe.retrieval.retriever import RetrievalConfig
from coldframe.retrieval.store import Store
from coldframe.tasks.corpora import hold_out
from coldframe.tasks.metrics import METRICS
from coldframe.tasks.splits import stratified_split
from coldframe.tasks.table_task import cut_rows, split_like
from coldframe.tasks.task import Passage, Task, content_hash
from coldframe.tasks.text_metrics import TEXT_METRICS
from coldframe.training.config import TrainingConfig

#: So many validation rows decide by themselves; fewer are cut anew until as many have been scored in sum.
ENOUGH = 200
MOST_SPLITS = 5
#: Ways to correct label scores that every trial compares with none; another reading of rows would cost another trial.
CHOICES: tuple[Calibration, ...] = ("batch", "prior", "validation")
#: Of the rows to learn from, where a task holds none out.
SHARE = 0.15


@dataclasses.dataclass(frozen=True)
class TrialSetup:
    """What all trials of a comparison share.

    Attributes:
        lm: The frozen model.
        splits: Tasks without test rows, from :func:`validation_splits`.
        training: As of the comparison.
        retrieval: As of the comparison.
        text_rows: Validation rows of each split for methods with exemplars in the prompt; None takes all.
        can_calibrate: Whether there are labels, and validation rows to correct their scores by.
    """

    lm: FrozenLM
    splits: tuple[Task, ...]
    training: TrainingConfig | Mapping[str, Any]
    retrieval: RetrievalConfig
    text_rows: int | None = None
    can_calibrate: bool = False

    @classmethod
    def of(
        cls,
        lm: FrozenLM,
        task: Task,
        training: TrainingConfig | Mapping[str, Any],
        retrieval: RetrievalConfig,
        text_rows: int | None = None,
        train_rows: int | None = None,
    ) -> Self:
        """The set-up for a task; ``train_rows`` as in :func:`validation_splits`."""
        splits = validation_splits(task, train_rows)
        has_labels = task.schema.kind == "classification" and len(task.validation) >= 2
        return cls(lm, splits, training, retrieval, text_rows, has_labels)

    @property
    def sign(self) -> int:
        """1 where more of the task's metric is better, else -1."""
        schema = self.splits[0].schema
        known = METRICS if schema.kind == "classification" else TEXT_METRICS
        return 1 if known[schema.metric].greater_is_better else -1

    def value_of(self, record: Mapping[str, float]) -> float | None:
        """What an epoch's record says on the validation rows, more is better; None where it says nothing."""
        loss = record.get("validation_loss", math.nan)
        value = self.sign * record["validation_metric"] - _share_of(loss) if "validation_metric" in record else -loss
        return value if math.isfinite(value) else None

    def score_of(self, run: Predictions) -> float:
        """The task's metric, more is better; where it is equal the loss decides. Where it is not defined it is 0."""
        schema = self.splits[0].schema
        value = primary(run, schema.metric, schema.positive)
        loss = primary(run, "log_loss", None) if run.labels else 0.0 if run.losses is None else float(run.losses.mean())
        return (self.sign * value if math.isfinite(value) else 0.0) - _share_of(loss)

    @property
    def fingerprint(self) -> str:
        """Names all that a trial depends on beside its settings."""
        training = self.training.to_dict() if isinstance(self.training, TrainingConfig) else dict(self.training)
        about = [self.lm.weight_hash, str(self.lm.dtype), str(self.lm.device.type), training, self.retrieval.to_dict()]
        first = self.splits[0]
        parts = [part for split in self.splits for part in (split.train, split.validation)]
        rows = [[dataclasses.asdict(row) for row in part] for part in (*parts, first.store or (), first.about)]
        return content_hash(
            json.dumps([*about, self.text_rows, first.schema.to_dict(), repr(first.solved), rows], sort_keys=True)
        )


def validation_splits(task: Task, train_rows: int | None = None) -> tuple[Task, ...]:
    """The splits that settings are chosen on, without the test rows: the task's own, and others where it is small.

    With fewer than 200 validation rows train and validation are cut anew, each time as many rows are held out as the
    task holds out, in the way it does (by scaffold, by label), until 200 have been scored in sum or there are five
    splits. A task without validation rows is cut so from the start, 15% each time.

    Args:
        task: Its test rows are left alone.
        train_rows: Rows to learn from in each split, a seeded sample; None takes all.

    Raises:
        ConfigError: There is nothing to choose by.

    Example:
        >>> from coldframe.tasks.task import Example, Schema
        >>> rows = [Example(f"row {i}", "ab"[i % 2], f"{i}", f"{i}") for i in range(200)]
        >>> schema = Schema("t", labels=("a", "b"), words=("a", "b"))
        >>> splits = validation_splits(Task(schema, tuple(rows[:100]), tuple(rows[100:190]), tuple(rows[190:])))
        >>> [(len(split.train), len(split.validation), len(split.test)) for split in splits]
        [(100, 90, 0), (100, 90, 0), (100, 90, 0)]
    """
    check(train_rows is None or train_rows >= 2, "A trial has at least two training rows", got=train_rows)
    task = dataclasses.replace(task, test=(), notes=())
    size = len(task.validation) or math.ceil(SHARE * len(task.train))
    if not task.validation and len(task.train) < 2:
        raise ConfigError(
            f"{task.schema.name} has no rows to choose settings by",
            got=f"{len(task.train)} training and no validation rows",
            fix="Bring training rows, or compare without --tune.",
        )
    count = 1 if len(task.validation) >= ENOUGH else min(MOST_SPLITS, math.ceil(ENOUGH / size))
    splits = [task] if task.validation else []
    splits += [_cut_anew(task, size, seed) for seed in range(len(splits), count)]
    return tuple(_fewer(split, train_rows) for split in splits)


def _cut_anew(task: Task, size: int, seed: int) -> Task:
    """Other validation rows, as many as before."""
    if any(isinstance(entry, Passage) for entry in task.store or ()):
        return hold_out(task, size, seed)  # every passage keeps a question
    rows, schema = [*task.train, *task.validation], task.schema
    kind = split_like("given", task.train, task.validation, schema.domain, schema.kind)
    if schema.domain == "molecules" and not task.validation:
        kind = "scaffold"
    train, validation = cut_rows(rows, kind, size, seed)
    return dataclasses.replace(task, train=tuple(train), validation=tuple(validation))


def _fewer(task: Task, rows: int | None) -> Task:
    """The task with fewer rows to learn from; of every label about the same share."""
    if rows is None or rows >= len(task.train):
        return task
    if task.schema.kind != "classification":
        return dataclasses.replace(task, train=tuple(sample(task.train, rows)))
    chosen = stratified_split([row.key for row in task.train], [row.target for row in task.train], rows)
    return dataclasses.replace(task, train=tuple(row for row, is_in in zip(task.train, chosen, strict=True) if is_in))


def fit_and_score(
    setup: TrialSetup, job: Job, number: int, on_record: Callable[[Mapping[str, float]], None] | None = None
) -> dict[Calibration, float]:
    """Fit a job's settings on one split and score them on its validation rows.

    Args:
        setup: What all trials share.
        job: Method and settings.
        number: Of the split; also the training seed.
        on_record: See :func:`coldframe.pipeline.fit.fit`.

    Returns:
        The score, more is better, by the way that the labels' scores are corrected; ``"none"`` comes first. A job that
        sets ``calibrate`` has that way alone.
    """
    split, method = setup.splits[number], job.build()
    changes = {"report_to": "none", "checkpoint_every": 0, "seed": number}
    pipeline = fit(
        method,
        setup.lm,
        dataclasses.replace(split, validation=()) if method.learns_validation else split,
        retrieval=setup.retrieval,
        training=training_settings(method, setup.training, {**job.settings.get("training", {}), **changes}),
        # Validation rows stay outside, as test rows do.
        store=Store.of(split.train) if split.store is None else None,
        calibrate="contextual" if job.calibrate == "contextual" else "none",
        quiet=True,
        on_record=on_record,
    )
    count = setup.text_rows if setup.text_rows is not None and method.reads_text else len(split.validation)
    queries = sample(split.validation, count)
    run = pipeline.predictions(queries)
    runs: dict[Calibration, Predictions] = {"none": run}
    if setup.can_calibrate and len(queries) >= 2:
        weights = class_weights(pipeline.schema, queries, queries, pipeline.training)
        runs |= corrected(run, weights, weighs_classes(pipeline.schema, pipeline.training))
    if "calibrate" in job.settings:
        runs = {job.calibrate: runs.get(job.calibrate, run)}
    return {way: setup.score_of(answers) for way, answers in runs.items()}


def _share_of(loss: float) -> float:
    """What a loss counts where the metric, which moves in steps of a row, is equal."""
    return 1e-3 * min(loss, 10.0)


def corrected(run: Predictions, weights: Sequence[float] = (), alike: bool = False) -> dict[Calibration, Predictions]:
    """Predictions with corrected label scores, by the way; one half of the rows by what is fitted to the other half.

    Args:
        run: Of a classification, two rows or more.
        weights: Of the rows, as in :func:`coldframe.pipeline.label_bias.bias_by`.
        alike: Whether all classes count the same, as there.
    """
    order = np.argsort(run.targets, kind="stable")  # each half has about the same labels
    halves = (order[::2], order[1::2])
    ways: dict[Calibration, Predictions] = {}
    for way in CHOICES:
        probabilities = run.probabilities.copy()
        for own, other in (halves, halves[::-1]):
            counted = [weights[i] for i in other] if weights else ()
            bias = bias_by(way, run.probabilities[other], run.targets[other], counted, alike)
            scores = np.log(np.clip(run.probabilities[own], 1e-12, None)) + np.array(bias)
            exponents = np.exp(scores - scores.max(axis=1, keepdims=True))
            probabilities[own] = exponents / exponents.sum(axis=1, keepdims=True)
        ways[way] = dataclasses.replace(run, probabilities=probabilities)
    return ways
