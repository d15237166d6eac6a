"""The runs of a comparison: one method, one seed, stored on disk under the hash of all it depends on."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from coldframe import __version__
from coldframe.config import Config
from coldframe.errors import ConfigError, DataError
from coldframe.evaluation.cost import Cost
from coldframe.evaluation.jobs import QUERY_ABLATIONS, Job
from coldframe.evaluation.measure import measure
from coldframe.evaluation.trained_controls import ConstantInput, shuffled_labels
from coldframe.frozen.memory import peak_memory_mb, reset_peak_memory
from coldframe.frozen.model import FrozenLM
from coldframe.inference.intervals import statistic
from coldframe.inference.predictions import Predictions
from coldframe.methods.base import Method
from coldframe.pipeline.fit import fit, score_validation
from coldframe.pipeline.label_bias import label_priors
from coldframe.pipeline.pipeline import Pipeline
from coldframe.pipeline.setup import context_of, retriever_of, training_settings
from coldframe.progress import Bar, duration, say, working
from coldframe.retrieval.retriever import RetrievalConfig
from coldframe.retrieval.store import Retrieved, Store
from coldframe.storage.files import write_text
from coldframe.tasks.task import Example, Task, content_hash
from coldframe.training.config import TrainingConfig

C = TypeVar("C", bound=Config)
T = TypeVar("T")

#: Test rows on which exemplars in the prompt are permuted: each permutation reads all the text again.
ORDER_ROWS = 50

_BREAK = Example("", "", "", "")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Attributes:
        predictions: Of the test rows.
        history: One record per epoch.
        seconds: What fitting and predicting took.
        order_std: Standard deviation of the primary metric over shuffles of the exemplars, if measured.
        dropped: Exemplars dropped because the model's context is too short.
        entry_bytes: What the method stores for each entry, if anything.
        peak_memory_mb: Largest memory meanwhile, in MB of 10^6 bytes.
    """

    predictions: Predictions
    history: list[dict[str, float]]
    seconds: float
    order_std: float | None
    dropped: int
    entry_bytes: float | None = None
    peak_memory_mb: float | None = None

    def on(self, ids: Sequence[str]) -> Predictions:
        """The predictions of some of the rows."""
        run = self.predictions
        if run.ids == tuple(ids):
            return run
        place = {name: row for row, name in enumerate(run.ids)}
        return run.at([place[name] for name in ids])


@dataclasses.dataclass
class Runner:
    """Makes runs, or reads those that are stored.

    Attributes:
        lm: The frozen model.
        task: Rows and schema.
        training: For every method; single settings are changes to each method's own.
        retrieval: For every method.
        out: The folder that holds ``runs``; None stores nothing.
        shuffles: Permutations of the exemplars to measure the order's effect by.
        text_rows: Test rows for methods with exemplars in the prompt; None takes all.
        quiet: No progress.
    """

    lm: FrozenLM
    task: Task
    training: TrainingConfig | Mapping[str, Any]
    retrieval: RetrievalConfig
    out: Path | None
    shuffles: int
    text_rows: int | None
    quiet: bool
    _fitted: tuple[str, Pipeline] | None = None

    def run(self, jobs: Sequence[Job]) -> dict[str, list[Outcome]]:
        """All outcomes by title, seeds in order; one line on standard error for each run."""
        outcomes: dict[str, list[Outcome]] = {}
        new = sum(not self._is_stored(job) for job in jobs)
        if new > 1 and not self.quiet:
            say(f"{new} runs to train and score; the first ones tell how long they take")
        with Bar(len(jobs), "compare", self.quiet) as bar:
            for done, job in enumerate(jobs, start=1):
                stored = self._is_stored(job)
                outcome = self._read(job) if stored else self._make(job)
                outcomes.setdefault(job.title, []).append(outcome)
                (bar.skip if stored else bar.advance)(1)
                if not self.quiet:
                    took = "stored before" if stored else f"{outcome.seconds:.0f} s"
                    left = "" if done == len(jobs) else f"; about {self._left(jobs[done:], outcomes)} left"
                    score = primary(outcome.predictions, self.task.schema.metric, self.task.schema.positive)
                    say(f"[{done}/{len(jobs)}] {job.title}, seed {job.seed}: {score:.1f}, {took}{left}")
        return outcomes

    def cost(self, job: Job) -> Cost:
        """What a method costs; measured once, with nothing cached from the runs."""
        return self.stored(f"cost-{self.key(job)}", Cost, lambda: self._cost(job))

    def fit(self, job: Job) -> Pipeline:
        """Train what a job names. The last one is remembered; adapters of passages are stored beside the runs."""
        if job.change in QUERY_ABLATIONS:
            job = dataclasses.replace(job, change=None)
        key = self.key(job)
        if self._fitted is not None and self._fitted[0] == key:
            return self._fitted[1]
        method = job.build()
        with working(f"{job.title}, seed {job.seed}", self.quiet):
            pipeline = fit(
                self._constant(method, job) if job.change == "constant-input" else method,
                self.lm,
                self.task,
                retrieval=self._retrieval(job),
                training=self._training(job),
                store=shuffled_labels(self._store, job.seed) if job.change == "shuffled-labels" else None,
                out=self.path(self._name(job)) if method.needs_passages else None,
                calibrate=job.calibrate,
                quiet=self.quiet,
            )
        self._fitted = key, pipeline
        return pipeline

    def key(self, job: Job) -> str:
        """Names all that a run depends on; its title is not among it."""
        return content_hash(json.dumps(self._settings(job), sort_keys=True), self._data)

    def path(self, name: str) -> Path | None:
        """A place beside the runs; None where nothing is stored."""
        return None if self.out is None else self.out / "runs" / name

    def stored(self, name: str, kind: type[C], make: Callable[[], C]) -> C:
        """Measurements stored under a name: read if they are there, else made and written.

        Raises:
            DataError: The file is damaged.
        """
        path = self.path(f"{name}.json")
        if path is None or not path.is_file():
            measurements = make()
            if path is not None:
                write_text(path, json.dumps(measurements.to_dict()))
            return measurements
        try:
            return kind.from_file(path)
        except (ConfigError, TypeError) as error:
            raise _damaged(path, error) from error

    def _cost(self, job: Job) -> Cost:
        self.lm.states.clear()
        draft = job.build()
        if draft.needs_passages or not draft.reads_model:  # what it stores or grows is part of it
            pipeline = self.fit(job)
        else:
            method = job.build()
            schema = method.schema_for(self.task, job.seed)
            method.setup(context_of(method, self.lm, schema))
            settings = training_settings(method, self.training)
            pipeline = Pipeline(method, self.lm, schema, self._store, self.retrieval, settings)
        return measure(pipeline.method, pipeline.lm, pipeline.schema, self.task.test, pipeline.retrieve, repeats=10)

    def _constant(self, method: Method, job: Job) -> ConstantInput:
        """The method with the first training row, and what is retrieved for it, as its input for all queries."""
        task, first = self.task, self.task.train[:1]
        store = Store.of(task.train if task.store is None else task.store)
        method.setup(context_of(method, self.lm, method.schema_for(task, job.seed)))
        retriever = retriever_of(method, task.schema, store, self._retrieval(job))
        retrieved = Retrieved.nothing(store, 1)
        if retriever is not None:
            retrieved = retriever.retrieve(first, exclude_same_key=task.store is None)
        return ConstantInput(method, first[0].text, retrieved)

    def _make(self, job: Job) -> Outcome:
        started, dropped = time.perf_counter(), self.lm.dropped_contexts
        reset_peak_memory()
        pipeline = self.fit(job)
        if job.change is not None and job.change in QUERY_ABLATIONS:
            pipeline = QUERY_ABLATIONS[job.change](pipeline)
        method = pipeline.method
        rows = len(self.task.test) if self.text_rows is None or not method.reads_text else self.text_rows
        queries = sample(self.task.test, rows)
        predictions = dataclasses.replace(pipeline.predictions(queries, quiet=self.quiet), method=job.title)
        dropped = self.lm.dropped_contexts - dropped
        order_std = None
        if self.shuffles and method.uses_retrieval and job.role == "method":
            shuffled = queries if method.trainable else sample(queries, ORDER_ROWS)
            order_std = order_deviation(pipeline, shuffled, self.shuffles)
        seconds = time.perf_counter() - started
        peak = peak_memory_mb(str(self.lm.device))
        outcome = Outcome(predictions, pipeline.history, seconds, order_std, dropped, method.entry_bytes, peak)
        if self.out is not None:
            lines, rest = self._paths(job)
            if job.keep:
                if predictions.labels:
                    pipeline.priors = label_priors(predictions.labels, predictions.probabilities)
                score_validation(pipeline, self.task)
                pipeline.save_pretrained(self.out / "artifact")
                write_text(self.out / "runs" / "artifact.txt", rest.stem)
            predictions.save(lines)
            record = {name: value for name, value in vars(outcome).items() if name != "predictions"}
            # Written last: a run without it is not finished.
            write_text(rest, json.dumps({**record, "settings": self._settings(job)}, indent=1))
        return outcome

    def _is_stored(self, job: Job) -> bool:
        if self.out is None:
            return False
        run = self._paths(job)[1]
        return run.is_file() and not (job.keep and not self._artifact_is_of(run.stem))

    def _read(self, job: Job) -> Outcome:
        lines, rest = self._paths(job)
        try:
            record = json.loads(rest.read_text(encoding="utf-8"))
            del record["settings"]
            return Outcome(Predictions.load(lines), **record)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _damaged(rest, error) from error

    def _artifact_is_of(self, run: str) -> bool:
        """Whether the artifact in the folder comes from this run, and not from one with other settings."""
        assert self.out is not None  # called only where runs are stored
        note = self.out / "runs" / "artifact.txt"
        return (self.out / "artifact").is_dir() and note.is_file() and note.read_text(encoding="utf-8") == run

    def _paths(self, job: Job) -> tuple[Path, Path]:
        assert self.out is not None  # called only where runs are stored
        stem = self.out / "runs" / self._name(job)
        return stem.with_name(f"{stem.name}.jsonl"), stem.with_name(f"{stem.name}.json")

    def _name(self, job: Job) -> str:
        slug = "".join(letter if letter.isalnum() else "-" for letter in job.title)
        return f"{slug}-seed{job.seed}-{self.key(job)}"

    def _settings(self, job: Job) -> dict[str, Any]:
        """All that a run depends on but the rows."""
        method = job.build()
        return {
            "version": __version__,
            "model": [self.lm.weight_hash, self.lm.numbers, str(self.lm.device.type)] if method.needs_model else [],
            "schema": method.schema_for(self.task, job.seed).to_dict(),
            "method": [job.method, method.config.to_dict(), job.change],
            "training": self._training(job).to_dict() if method.trainable else None,
            "calibrate": job.calibrate,
            "retrieval": self._retrieval(job).to_dict(),
            "evaluation": [self.shuffles, self.text_rows],
        }

    @cached_property
    def _data(self) -> str:
        store = () if self.task.store is None else (self.task.store,)
        parts = (self.task.train, self.task.validation, self.task.test, self.task.about, *store)
        return content_hash(
            repr(self.task.solved),
            *(json.dumps(dataclasses.asdict(e), sort_keys=True) for part in parts for e in (*part, _BREAK)),
        )

    @cached_property
    def _store(self) -> Store:
        return Store.of(self.task.exemplars)

    def _training(self, job: Job) -> TrainingConfig:
        return training_settings(job.build(), self.training, {**job.settings.get("training", {}), "seed": job.seed})

    def _retrieval(self, job: Job) -> RetrievalConfig:
        return self.retrieval.replace(strategy="random") if job.change == "random-exemplars" else self.retrieval

    def _left(self, jobs: Sequence[Job], outcomes: Mapping[str, list[Outcome]]) -> str:
        """Time for the jobs left: as long as the same method took, else as long as the others did."""
        known = {title: seeds[-1].seconds for title, seeds in outcomes.items()}
        usual = sum(known.values()) / len(known)
        return duration(sum(known.get(job.title, usual) for job in jobs if not self._is_stored(job)))


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} is damaged: {error}", fix="Delete it to make this run again.")


def sample(rows: Sequence[T], count: int, seed: int = 0) -> Sequence[T]:
    """A seeded sample of rows, in their order; all of them if there are no more."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(rows))[:count])
    return [rows[i] for i in chosen]


def primary(run: Predictions, metric: str, positive: str | None) -> float:
    """The value of one metric on all rows of a run."""
    place = None if positive is None or positive not in run.labels else run.labels.index(positive)
    return float(statistic([run], metric, place)(np.ones((1, len(run))))[0])


def order_deviation(pipeline: Pipeline, queries: Sequence[Example], shuffles: int) -> float:
    """Standard deviation of the primary metric over permutations of every query's exemplars.

    Args:
        pipeline: A fitted method.
        queries: With their targets.
        shuffles: Permutations, seeds 0, 1, 2, ...
    """
    schema = pipeline.schema
    runs = [pipeline.predictions(queries, shuffle=seed) for seed in range(shuffles)]
    values = np.array([primary(run, schema.metric, schema.positive) for run in runs])
    # As differences, because the mean of equal floats need not be that float.
    return float(np.std(values - values[0]))
