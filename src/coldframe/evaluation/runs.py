"""The runs of a comparison: one method, one seed, kept on disk by the hash of all it depends on."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from coldframe import __version__
from coldframe.errors import DataError
from coldframe.evaluation.constant_input import ConstantInput
from coldframe.evaluation.cost import Cost
from coldframe.evaluation.intervals import statistic
from coldframe.evaluation.linear_head import HeadedMHAESP
from coldframe.evaluation.measure import measure
from coldframe.evaluation.report_data import Role
from coldframe.frozen.model import FrozenLM
from coldframe.inference.predictions import Predictions
from coldframe.methods.base import Method
from coldframe.methods.registry import create
from coldframe.pipeline.fit import fit
from coldframe.pipeline.label_bias import label_priors
from coldframe.pipeline.pipeline import Pipeline
from coldframe.pipeline.setup import context_of, retriever_of, training_settings
from coldframe.progress import say
from coldframe.retrieval.retriever import RetrievalConfig, Strategy
from coldframe.retrieval.store import Retrieved, Store
from coldframe.storage.files import write_text
from coldframe.tasks.task import Example, Task, content_hash
from coldframe.training.config import TrainingConfig


@dataclasses.dataclass(frozen=True)
class Job:
    """One run to make.

    Attributes:
        title: The row of the table.
        role: What the row stands for; None for a point of a sweep, which is no row.
        method: The method's name.
        settings: Its settings; ``training`` in it holds changes to the training settings.
        seed: Training seed.
        headed: Put a linear head where the model was.
        constant: Hand the method the same query and the same exemplars whatever is asked.
        shuffled_labels: Permute the exemplars' labels.
        strategy: Retrieve in this way instead.
        spoiled: What is changed once the method is trained: a name of ``QUERY_ABLATIONS``.
        keep: Write the artifact.
    """

    title: str
    role: Role | None
    method: str
    settings: Mapping[str, Any]
    seed: int
    headed: bool = False
    constant: bool = False
    shuffled_labels: bool = False
    strategy: Strategy | None = None
    spoiled: str | None = None
    keep: bool = False

    def build(self) -> Method:
        """The method, not yet set up."""
        settings = {key: value for key, value in self.settings.items() if key != "training"}
        return HeadedMHAESP(**settings) if self.headed else create(self.method, settings)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a run gave.

    Attributes:
        predictions: Of the test rows.
        history: One record per epoch.
        seconds: What fitting and predicting took.
        order_std: Standard deviation of the primary metric over shuffles of the exemplars, if measured.
        dropped: Exemplars dropped because the model's context is too short.
        entry_bytes: What the method keeps for each entry of the store, if it keeps anything.
    """

    predictions: Predictions
    history: list[dict[str, float]]
    seconds: float
    order_std: float | None
    dropped: int
    entry_bytes: float | None = None

    def on(self, ids: Sequence[str]) -> Predictions:
        """The predictions of some of the rows."""
        run = self.predictions
        if run.ids == tuple(ids):
            return run
        place = {name: row for row, name in enumerate(run.ids)}
        return run.at([place[name] for name in ids])


@dataclasses.dataclass
class Runner:
    """Makes runs, or finds them.

    Attributes:
        lm: The frozen model.
        task: Rows and schema.
        training: For every method; single settings are changes to each method's own.
        retrieval: For every method.
        out: Where runs are kept; None keeps none.
        shuffles: Permutations of the exemplars to measure the order's effect by.
        text_rows: Test rows for methods with exemplars in the prompt; None takes all.
        quiet: Say nothing.
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
        for done, job in enumerate(jobs, start=1):
            outcome = self._find(job)
            found = outcome is not None
            if outcome is None:
                outcome = self._make(job)
            outcomes.setdefault(job.title, []).append(outcome)
            if not self.quiet:
                took = "kept from before" if found else f"{outcome.seconds:.0f} s"
                left = "" if done == len(jobs) else f"; about {self._left(jobs[done:], outcomes)} left"
                score = self._score(outcome.predictions)
                say(f"[{done}/{len(jobs)}] {job.title}, seed {job.seed}: {score:.1f}, {took}{left}")
        return outcomes

    def cost(self, job: Job) -> Cost:
        """What a method costs; measured once, with nothing cached from the runs."""
        path = None if self.out is None else self.out / "runs" / f"cost-{self.key(job)}.json"
        if path is not None and path.is_file():
            return Cost.from_file(path)
        self.lm.states.clear()
        if job.build().needs_passages:  # what is stored for the passages is part of the cost
            pipeline = self.fit(job)
        else:
            method = job.build()
            method.setup(context_of(method, self.lm, self.task.schema))
            settings = training_settings(method, self.training)
            pipeline = Pipeline(method, self.lm, self.task.schema, self._store, self.retrieval, settings)
        cost = measure(pipeline.method, self.lm, self.task.schema, self.task.test, pipeline.retrieve, repeats=10)
        if path is not None:
            write_text(path, json.dumps(cost.to_dict()))
        return cost

    def fit(self, job: Job) -> Pipeline:
        """Train what a job names. The last one is remembered; adapters of passages are kept beside the runs."""
        job = dataclasses.replace(job, spoiled=None)
        key = self.key(job)
        if self._fitted is not None and self._fitted[0] == key:
            return self._fitted[1]
        method = job.build()
        place = None
        if method.needs_passages and self.out is not None:
            place = self.out / "runs" / f"{_slug(job.title)}-seed{job.seed}-{key}"
        pipeline = fit(
            self._constant(method, job) if job.constant else method,
            self.lm,
            self.task,
            retrieval=self._retrieval(job),
            training=self._training(job),
            store=shuffled_labels(self._store, job.seed) if job.shuffled_labels else None,
            out=place,
            quiet=True,
        )
        self._fitted = key, pipeline
        return pipeline

    def _constant(self, method: Method, job: Job) -> ConstantInput:
        """The method, to be told the first training row and what is retrieved for it, whatever is asked."""
        task, first = self.task, self.task.train[:1]
        store = Store.of(task.train if task.store is None else task.store)
        method.setup(context_of(method, self.lm, task.schema))
        retriever = retriever_of(method, task.schema, store, self._retrieval(job))
        found = Retrieved.nothing(store, 1)
        if retriever is not None:
            found = retriever.retrieve(first, exclude_same_key=task.store is None)
        return ConstantInput(method, first[0].text, found)

    def _make(self, job: Job) -> Outcome:
        started, dropped = time.perf_counter(), self.lm.dropped_contexts
        pipeline = self.fit(job)
        if job.spoiled is not None:
            pipeline = QUERY_ABLATIONS[job.spoiled](pipeline)
        method = pipeline.method
        queries = self._queries(method)
        predictions = dataclasses.replace(pipeline.predictions(queries), method=job.title)
        dropped = self.lm.dropped_contexts - dropped
        order_std = None
        if self.shuffles and method.uses_retrieval and job.role == "method":
            some = queries if method.trainable else sample(queries, ORDER_ROWS)
            order_std = order_deviation(pipeline, some, self.shuffles)
        seconds = time.perf_counter() - started
        outcome = Outcome(predictions, pipeline.history, seconds, order_std, dropped, method.entry_bytes)
        if self.out is not None:
            lines, rest = self._paths(job)
            if job.keep:
                if predictions.labels:
                    pipeline.priors = label_priors(predictions.labels, predictions.probabilities)
                pipeline.save_pretrained(self.out / "artifact")
                write_text(self.out / "runs" / "artifact.txt", rest.stem)
            predictions.save(lines)
            record = {
                "history": outcome.history,
                "seconds": outcome.seconds,
                "order_std": order_std,
                "dropped": dropped,
                "entry_bytes": outcome.entry_bytes,
            }
            # Written last: a run without it is not finished.
            write_text(rest, json.dumps({**record, "settings": self._settings(job)}, indent=1))
        return outcome

    def _is_kept(self, job: Job) -> bool:
        if self.out is None:
            return False
        run = self._paths(job)[1]
        return run.is_file() and not (job.keep and not self._artifact_is_of(run.stem))

    def _find(self, job: Job) -> Outcome | None:
        if not self._is_kept(job):
            return None
        lines, rest = self._paths(job)
        try:
            record = json.loads(rest.read_text(encoding="utf-8"))
            history, seconds, order_std, dropped = (record[n] for n in ("history", "seconds", "order_std", "dropped"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{rest} is damaged: {error!r}", fix="Delete it to make this run again.") from error
        return Outcome(Predictions.load(lines), history, seconds, order_std, dropped, record.get("entry_bytes"))

    def _artifact_is_of(self, run: str) -> bool:
        """Whether the artifact in the folder comes from this run, and not from one with other settings."""
        assert self.out is not None  # asked for only where runs are kept
        note = self.out / "runs" / "artifact.txt"
        there = (self.out / "artifact").is_dir() and note.is_file()
        return there and note.read_text(encoding="utf-8") == run

    def _paths(self, job: Job) -> tuple[Path, Path]:
        assert self.out is not None  # asked for only where runs are kept
        stem = f"{_slug(job.title)}-seed{job.seed}-{self.key(job)}"
        return self.out / "runs" / f"{stem}.jsonl", self.out / "runs" / f"{stem}.json"

    def key(self, job: Job) -> str:
        """Names all that a run depends on; its title is not among it."""
        return content_hash(json.dumps(self._settings(job), sort_keys=True), self._data)

    def _settings(self, job: Job) -> dict[str, Any]:
        """All that a run depends on but the rows."""
        method = job.build()
        return {
            "constant": job.constant,
            "spoiled": job.spoiled,
            "version": __version__,
            "model": [self.lm.weight_hash, str(self.lm.dtype), str(self.lm.device.type)],
            "schema": self.task.schema.to_dict(),
            "method": [job.method, method.config.to_dict(), job.headed, job.shuffled_labels],
            "training": self._training(job).to_dict() if method.trainable else None,
            "retrieval": self._retrieval(job).to_dict(),
            "evaluation": [self.shuffles, self.text_rows],
        }

    @cached_property
    def _data(self) -> str:
        store = () if self.task.store is None else (self.task.store,)
        parts = (self.task.train, self.task.validation, self.task.test, self.task.about, *store)
        return content_hash(
            *(f"{e.id}\x1e{e.text}\x1e{e.target}\x1e{e.key}" for part in parts for e in (*part, _BREAK))
        )

    @cached_property
    def _store(self) -> Store:
        return Store.of(self.task.exemplars)

    def _training(self, job: Job) -> TrainingConfig:
        return training_settings(job.build(), self.training, {**job.settings.get("training", {}), "seed": job.seed})

    def _retrieval(self, job: Job) -> RetrievalConfig:
        return self.retrieval if job.strategy is None else self.retrieval.replace(strategy=job.strategy)

    def _queries(self, method: Method) -> Sequence[Example]:
        rows = self.task.test
        return rows if self.text_rows is None or not method.reads_text else sample(rows, self.text_rows)

    def _score(self, run: Predictions) -> float:
        return primary(run, self.task.schema.metric, self.task.schema.positive)

    def _left(self, jobs: Sequence[Job], outcomes: Mapping[str, list[Outcome]]) -> str:
        """Time for the jobs left: as long as the same method took, else as long as the others did."""
        known = {title: found[-1].seconds for title, found in outcomes.items()}
        usual = sum(known.values()) / len(known)
        seconds = sum(known.get(job.title, usual) for job in jobs if not self._is_kept(job))
        return duration(seconds)


_BREAK = Example("", "", "", "")

ORDER_ROWS = 50
"""Test rows on which exemplars in the prompt are permuted: each permutation reads all the text again."""


def swapped(pipeline: Pipeline) -> Pipeline:
    """The same pipeline, whose queries get what was retrieved for others."""
    return dataclasses.replace(pipeline, retrieval=pipeline.retrieval.replace(strategy="swapped"))


QUERY_ABLATIONS: Mapping[str, Callable[[Pipeline], Pipeline]] = {
    "swapped-store": swapped,
    "uniform-routing": lambda pipeline: pipeline.replace(routing="uniform"),
    "random-routing": lambda pipeline: pipeline.replace(routing="random"),
}
"""What is spoiled once a method is trained; nothing is trained again."""

TRAINING_ABLATIONS = ("shuffled-labels", "random-exemplars")
"""What is spoiled before it is trained."""


def _slug(title: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in title)


def duration(seconds: float) -> str:
    """A time for people.

    >>> duration(89), duration(130)
    ('89 s', '2 min')
    """
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def sample(rows: Sequence[Example], count: int) -> Sequence[Example]:
    """A seeded sample of rows, in their order; all of them if there are no more."""
    chosen = np.sort(np.random.default_rng(0).permutation(len(rows))[:count])
    return [rows[i] for i in chosen]


def shuffled_labels(store: Store, seed: int) -> Store:
    """The same exemplars with their labels permuted: similar ones are still found, what they say is noise.

    >>> rows = [Example(str(i), "yes" if i % 2 else "no", f"{i}", f"{i}") for i in range(6)]
    >>> [e.target for e in shuffled_labels(Store.of(rows), seed=0).examples]
    ['yes', 'no', 'yes', 'no', 'no', 'yes']
    """
    order = np.random.default_rng(seed).permutation(len(store))
    targets = [store.examples[i].target for i in order]
    return Store(tuple(dataclasses.replace(e, target=t) for e, t in zip(store.examples, targets, strict=True)))


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
