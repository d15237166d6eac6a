"""``fit``: a method, a frozen model and a task become a pipeline."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from coldframe.config import local_path
from coldframe.errors import ConfigError, DataError, TrainingError
from coldframe.frozen.memory import peak_memory_mb
from coldframe.frozen.model import FrozenLM
from coldframe.methods.base import Method
from coldframe.methods.training_set import Problem
from coldframe.pipeline.calibration import Calibration, calibration
from coldframe.pipeline.conformal import Conformal
from coldframe.pipeline.label_bias import PRIOR_ROWS, check_has_labels
from coldframe.pipeline.pipeline import Pipeline
from coldframe.pipeline.setup import check_fits, context_of, model_for, readable_task, training_data, training_settings
from coldframe.progress import working
from coldframe.retrieval.retriever import RetrievalConfig
from coldframe.retrieval.store import Store
from coldframe.storage.folders import claimed
from coldframe.tasks.corpora import spread
from coldframe.tasks.load import load_task
from coldframe.tasks.task import Example, Passage, Task, content_hash, text_key
from coldframe.training.config import TrainingConfig
from coldframe.training.processes import Processes
from coldframe.training.trainer import Trainer

CHECKPOINT = "checkpoint"


def fit(
    method: Method,
    lm: FrozenLM | None,
    task: Any,
    *,
    retrieval: RetrievalConfig | None = None,
    training: TrainingConfig | Mapping[str, Any] | None = None,
    store: Store | None = None,
    out: str | Path | None = None,
    resume: bool = True,
    calibrate: bool | Calibration = "none",
    quiet: bool = False,
    on_record: Callable[[Mapping[str, float]], None] | None = None,
    **settings: Any,
) -> Pipeline:
    """Adapt a frozen model to a task.

    Args:
        method: Not yet set up.
        lm: The frozen model. A method that needs none (``knn``, ``logistic-regression``) is fitted without, whatever is
            passed here.
        task: Rows and schema; training rows are also the exemplar store, unless the task has one. What is no
            :class:`coldframe.tasks.Task` is read as :func:`coldframe.load_task` reads it: a name, a file, a data frame.
        retrieval: How entries are found; the domain's default if None.
        training: How to train: single settings over the method's own defaults, or all of them as one config.
        store: The task's entries, changed on purpose (an ablation); as they are if None.
        out: Folder for checkpoints and the artifact: a new or empty one, or one that coldframe wrote. If None, nothing
            is written. Of several processes the first writes.
        resume: Continue an interrupted run found in ``out``.
        calibrate: How the labels' scores are corrected when all else is done, see :meth:`Pipeline.calibrate`:
            ``"contextual"``, ``"batch"``, ``"prior"`` or ``"validation"`` (which True means too).
        quiet: No progress bars.
        on_record: Called with the record of each epoch of what is trained first, as soon as it is validated; what it
            raises ends the fit.
        **settings: Single training settings: ``epochs=4``.

    Raises:
        ConfigError: Method and task make no sense together, or the method adapts a model and there is none.
        DataError: A row is longer than the model's context, and the task was not loaded with ``on_error="skip"``.
        ColdframeError: ``out`` holds files that coldframe did not write, or another process writes to it.
        TrainingError: If nothing was trained, or (which would be our fault) the base model changed.

    Example:
        >>> import coldframe as cf
        >>> lm, task = cf.load_lm("smollm2"), cf.load_task("b3db")  # doctest: +SKIP
        >>> pipeline = cf.fit(cf.MHAESP(heads=4), lm, task, epochs=2)  # doctest: +SKIP
    """
    processes = Processes.join(cpu=lm is None or lm.device.type == "cpu")
    quiet = quiet or not processes.first
    with processes.claimed(out) as folder:
        started = time.perf_counter()
        lm = model_for(method, lm)
        config = training_settings(method, training, settings)
        retrieval = retrieval or RetrievalConfig()
        task = task if isinstance(task, Task) else load_task(task)
        task = dataclasses.replace(task, schema=method.schema_for(task, config.seed))
        task = readable_task(lm, task, method.soft_token_count)
        store = Store.of(task.exemplars) if store is None else store
        check_fits(method, task, store)
        way = calibration(calibrate)
        rows = task.validation or (task.train if way == "contextual" else ())
        if way != "none":
            check_has_labels(task.schema, len(rows))
        with working(f"prepare {method.name}", quiet):
            method.setup(context_of(method, lm, task.schema), config.seed)
        history: list[dict[str, float]] = []
        if method.trainable:
            # Validation rows join the store once nothing is chosen by them any more.
            held_out = {example.id for example in task.validation}
            learning_store = Store.of([entry for entry in store.examples if entry.id not in held_out])
            data = training_data(method, lm, task, learning_store, retrieval, config, folder, quiet)
            checkpoints = None if folder is None else folder / CHECKPOINT
            history = _train(method.problems(data), lm, config, checkpoints, resume, quiet, on_record)
        store = Store.of([entry for entry in store.examples if entry.id not in method.left_out])
        origin = {"options": dict(task.options), "source": dict(task.source)}
        seconds = time.perf_counter() - started
        pipeline = Pipeline(method.eval(), lm, task.schema, store, retrieval, config, history, seconds, origin)
        pipeline.peak_memory_mb = peak_memory_mb(str(lm.device))
        pipeline.trained_keys = frozenset(row.key for row in method.learned_rows(task))
        pipeline.trained_keys |= {text_key(question) for question, *_ in task.schema.solved}
        if way != "none":
            pipeline.calibrate(rows, way)
        if way not in ("none", "contextual"):
            pipeline.trained_keys |= {row.key for row in rows}
        if folder is not None and task.schema.kind == "classification":
            with working("measure scores of validation rows", quiet):
                score_validation(pipeline, task)  # on all processes: it may train, and they train together
                if (processes.first or pipeline.lm.sharded) and (rows := task.validation or task.train):
                    pipeline.measure_priors(spread(rows, PRIOR_ROWS))
        if folder is not None and processes.first:
            pipeline.save_pretrained(folder)
        return pipeline


def score_validation(pipeline: Pipeline, task: Task) -> None:
    """Keep the scores of a task's validation rows for :meth:`Pipeline.label_sets`, if it has any."""
    if task.schema.kind == "classification" and task.validation:
        method = pipeline.method
        # Where nothing is trained, reading them all would be the whole work of fitting.
        few = method.reads_model and not method.trainable
        rows = spread(task.validation, PRIOR_ROWS) if few else task.validation
        pipeline.conformal = Conformal.of(without_validation(pipeline, task), rows)


def without_validation(pipeline: Pipeline, task: Task) -> Pipeline:
    """A pipeline that did not learn the validation rows, whose scores therefore are those of new rows.

    It is the same one, unless its method learns validation rows too: then one that is fitted to the training rows
    alone, with the settings that were chosen. It knows a little less, so that sets of labels come out a little large.
    """
    method = pipeline.method
    if not (method.learns_validation and task.validation):
        return pipeline
    other = fit(
        type(method)(method.config),
        pipeline.lm,
        dataclasses.replace(task, validation=()),
        retrieval=pipeline.retrieval,
        training=pipeline.training.replace(report_to="none", checkpoint_every=0),
        quiet=True,
    )
    other.method.label_bias = method.label_bias
    return other


def grow(pipeline: Pipeline, task: Task, out: str | Path | None = None, quiet: bool = False) -> int:
    """Add the entries of a task to the store of a fitted pipeline, in place; what was trained stays as it is.

    A method that holds something for each entry learns it for the new ones alone (Poly-PRAG fits rows, DyPRAG embeds,
    PRAG trains adapters); for the others the store grows and nothing is trained.

    Args:
        pipeline: Fitted, or loaded.
        task: Its store (or its training rows, if it has none) holds the new entries, among old ones perhaps.
        out: Folder for checkpoints and the artifact.
        quiet: No progress bars.

    Returns:
        How many entries were added. Interrupted, the same call goes on where it stopped.
    """
    with contextlib.nullcontext() if out is None else claimed(local_path(out)) as folder:
        task = readable_task(pipeline.lm, task, pipeline.method.soft_token_count)
        added = Store.of(_new_entries(pipeline, task))
        if not len(added):
            return 0
        method = pipeline.method
        if any(isinstance(entry, Passage) for entry in added.examples):
            task = dataclasses.replace(task, store=added.examples)
        if method.trainable:
            data = training_data(method, pipeline.lm, task, added, pipeline.retrieval, pipeline.training, folder, quiet)
            checkpoints = None if folder is None else folder / CHECKPOINT / f"added-{added.hash}"
            if _train(method.growth(data), pipeline.lm, pipeline.training, checkpoints, True, quiet):
                pipeline.trained_keys |= {row.key for row in method.learned_rows(task)}
        entries = [entry for entry in added.examples if entry.id not in method.left_out]
        pipeline.replace_store(Store.of([*pipeline.store.examples, *entries]))
        if folder is not None:
            pipeline.save_pretrained(folder)
        return len(entries)


def _new_entries(pipeline: Pipeline, task: Task) -> list[Example]:
    """The entries of a task that a store does not hold yet.

    Raises:
        ConfigError: The task is of another kind or has other labels.
        DataError: A passage has the id of another one.
    """
    schema, other = pipeline.schema, task.schema
    if (schema.kind, schema.domain) != (other.kind, other.domain) or not {*other.labels} <= {*schema.labels}:
        raise ConfigError(
            f"What is added to {schema.name} is another task",
            got=f"{other.kind} of {other.domain}, labels {', '.join(other.labels[:10]) or 'none'}",
            expected=f"{schema.kind} of {schema.domain}, labels {', '.join(schema.labels[:10]) or 'none'}",
        )
    stored = {entry.id: entry for entry in pipeline.store.examples}
    content = {(entry.text, entry.target) for entry in pipeline.store.examples}
    entries = []
    for entry in task.exemplars:
        if (entry.text, entry.target) in content:
            continue
        if entry.id in stored and isinstance(entry, Passage):
            raise DataError(
                f"The passage {entry.id!r} is in the store with another text",
                got=repr(entry.text[:60]),
                expected=repr(stored[entry.id].text[:60]),
                fix="Give what is new an id of its own, or fit again.",
            )
        if entry.id in stored:  # ids of rows are those of their file, and another file may have the same name
            entry = dataclasses.replace(entry, id=f"{entry.id}-{content_hash(entry.text, entry.target)}")
        entries.append(entry)
    return entries


def _prepared(problems: Iterator[Problem], quiet: bool) -> Iterator[Problem]:
    """The same problems; what is retrieved and encoded for one before it is trained tells how far it is."""
    while True:
        with working("prepare", quiet):
            problem = next(problems, None)
        if problem is None:
            return
        yield problem


def _train(
    problems: Iterator[Problem],
    lm: FrozenLM,
    config: TrainingConfig,
    checkpoints: Path | None,
    resume: bool,
    quiet: bool,
    on_record: Callable[[Mapping[str, float]], None] | None = None,
) -> list[dict[str, float]]:
    """Train one problem after another; the records of all, each saying of which problem it is."""
    hash_before, places = lm.weight_hash, 0
    history: list[dict[str, float]] = []
    for number, problem in enumerate(_prepared(problems, quiet)):
        torch.manual_seed(config.seed)  # for each: the problem before may have been finished by another run
        folder = problem.folder if problem.checkpoints else None
        if folder is None and checkpoints is not None and problem.checkpoints:
            # Problems without a checkpoint do not count: those that were finished before are not trained again.
            folder = checkpoints / f"{places}" if places else checkpoints
            places += 1
        settings = (lm, config, folder, resume, quiet, on_record if number == 0 else None)
        search = problem.search
        problem.records = Trainer(problem, *settings).train() if search is None else search(problem, *settings)
        history += [{**record, "problem": float(number)} for record in problem.records]
    if lm.hash_now() != hash_before:
        raise TrainingError("The base model's weights changed during training")
    return history
