"""A fitted method with all it needs to answer: model, schema, retriever, store. An artifact holds it."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from coldframe.config import local_path
from coldframe.errors import ConfigError, DataError
from coldframe.frozen.model import FrozenLM
from coldframe.inference.intervals import Interval, score_interval, usual_metrics
from coldframe.inference.predictions import Predictions
from coldframe.inference.run import Outcome, predict, run
from coldframe.methods.base import Method
from coldframe.pipeline import saved
from coldframe.pipeline.calibration import Calibration
from coldframe.pipeline.conformal import Conformal, label_sets, limits_of
from coldframe.pipeline.label_bias import check_has_labels, label_bias, label_priors, outcome_of
from coldframe.pipeline.saved import TRAINED
from coldframe.pipeline.setup import positions_needed, query_of, retriever_of
from coldframe.progress import Bar
from coldframe.retrieval.retriever import RetrievalConfig
from coldframe.retrieval.store import Retrieved, Store
from coldframe.storage.artifact import read_artifact, write_artifact
from coldframe.storage.files import write_json
from coldframe.storage.tensors import reading
from coldframe.tasks.long_rows import too_long, within
from coldframe.tasks.table import Problems
from coldframe.tasks.task import Example, Schema
from coldframe.training.config import TrainingConfig

if TYPE_CHECKING:
    from coldframe.pipeline.export import Exported


@dataclasses.dataclass
class Pipeline:
    """What ``fit`` returns and ``load`` gives back.

    Attributes:
        method: Set up for the model, and trained.
        lm: The frozen model.
        schema: The task without its rows.
        store: The exemplars that may be retrieved.
        retrieval: How they are retrieved.
        training: How the method was trained.
        history: One record per epoch.
        seconds: What fitting took.
        task: What the task can be loaded again from (``options``), and where its bytes came from (``source``).
        priors: The mean probability of every label over inputs, where it was measured.
        peak_memory_mb: Largest memory of the process (or of the accelerator) up to the end of fitting, 10^6 bytes.
        trained_keys: Keys of the rows that the method was fitted with, which no test row may have.
        conformal: Scores of validation rows that make sets of labels, where they were measured.
    """

    method: Method
    lm: FrozenLM
    schema: Schema
    store: Store
    retrieval: RetrievalConfig
    training: TrainingConfig
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    task: dict[str, Any] = dataclasses.field(default_factory=dict)
    priors: Mapping[str, float] = dataclasses.field(default_factory=dict)
    peak_memory_mb: float = 0.0
    trained_keys: frozenset[str] = frozenset()
    conformal: Conformal | None = None

    def __post_init__(self) -> None:
        self.retriever = retriever_of(self.method, self.schema, self.store, self.retrieval)

    def replace(self, **settings: Any) -> Pipeline:
        """The same pipeline with other settings that may change after training (``k``, ``combine``, ``routing``).

        Raises:
            ConfigError: A setting is none, or cannot be changed once the method is trained.
        """
        method = self.method.with_settings(**settings)
        return dataclasses.replace(self, method=method, conformal=None)

    def replace_store(self, store: Store) -> None:
        """Answer with other entries from now on; nothing is trained."""
        self.store, self.conformal = store, None  # scores with the former entries say nothing of these
        self.retriever = retriever_of(self.method, self.schema, store, self.retrieval)

    def queries(self, texts: Sequence[str]) -> list[Example]:
        """New inputs as examples: molecules canonicalised as the training rows were.

        Raises:
            DataError: It is no list; or a text is empty, no SMILES, or longer than the model's context: names the row.
        """
        if isinstance(texts, str | bytes):  # whose letters would be queries
            raise DataError("One text is no list of texts", got=repr(texts)[:60], expected="a list, such as [text]")
        examples, positions, limit = [], self._positions(), self.lm.max_positions
        for row, text in enumerate(texts, start=1):
            if not isinstance(text, str) or not text.strip():
                raise DataError(f"Query {row} is empty", got=repr(text), expected="a text")
            try:
                examples.append(query_of(text.strip(), row, self.schema))
            except DataError as error:
                raise DataError(f"Query {row}: {error.problem}", got=error.got, fix=error.fix) from error
            if (needed := positions(examples[-1])) > limit:
                raise too_long(f"Query {row}", needed, limit)
        return examples

    def readable(self, examples: Sequence[Example], problems: Problems | None = None) -> tuple[Example, ...]:
        """The rows that fit into the model's context.

        Args:
            examples: Labelled rows.
            problems: Counts the others; without it the first of them is an error.

        Raises:
            DataError: A row is too long; names it.
        """
        return within(examples, self._positions(), self.lm.max_positions, problems or Problems())

    def _positions(self) -> Callable[[Example], int]:
        return positions_needed(self.lm, self.schema, self.method.soft_token_count)

    def retrieve(self, examples: Sequence[Example], exclude_same_key: bool = False) -> Retrieved:
        """The exemplars of some queries."""
        if self.retriever is None:
            return Retrieved.nothing(self.store, len(examples))
        return self.retriever.retrieve(examples, exclude_same_key=exclude_same_key)

    def run(self, texts: Sequence[str], *, exclude_same_key: bool = False) -> tuple[Outcome, Retrieved]:
        """Raw results for new inputs, and what was retrieved for them."""
        examples = self.queries(texts)
        retrieved = self.retrieve(examples, exclude_same_key)
        return run(self.method, self.lm, self.schema, [e.text for e in examples], retrieved), retrieved

    def predict(self, texts: Sequence[str]) -> list[str]:
        """The label (or the written answer) of each input."""
        return self.answers(self.run(texts)[0])

    def answers(self, outcome: Outcome) -> list[str]:
        """The labels, or the written answers, of an outcome."""
        if outcome.generated is not None:
            return list(outcome.generated)
        return [self.schema.labels[i] for i in outcome.probabilities.argmax(1)]

    def predict_proba(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Label probabilities, ``[n, labels]``, columns in the order of ``schema.labels``."""
        if self.schema.kind != "classification":
            raise ConfigError("A generation task has no label probabilities", fix="Use predict.")
        return self.run(texts)[0].probabilities

    def label_sets(self, texts: Sequence[str], coverage: float = 0.9, by_class: bool = False) -> list[tuple[str, ...]]:
        """The labels of each input among which the right one is, as often as ``coverage`` says; any number of them.

        See :class:`coldframe.pipeline.conformal.Conformal`. A set of one label is an answer, any other an abstention.

        Args:
            texts: The inputs.
            coverage: Share of inputs whose set is to hold the right label, between 0 and 1.
            by_class: That share for each label by itself.

        Raises:
            ConfigError: There are no labels, no calibration rows, or too few for this coverage.
        """
        limits = limits_of(self, coverage, by_class)
        return label_sets(self.schema.labels, self.run(texts)[0].probabilities, limits)

    def predictions(
        self, examples: Sequence[Example], *, shuffle: int | None = None, quiet: bool = True
    ) -> Predictions:
        """Predictions of labelled examples, for evaluation.

        Args:
            examples: The queries with their targets.
            shuffle: A seed that permutes every query's exemplars, to see what their order does.
            quiet: No progress bar.
        """
        started = time.perf_counter()
        with Bar(len(examples), f"evaluate {self.method.name}", quiet) as bar:
            retrieved = self.retrieve(examples)
            if shuffle is not None:
                retrieved = retrieved.shuffled(np.random.default_rng(shuffle))
            predictions = predict(
                self.method,
                self.lm,
                self.schema,
                examples,
                retrieved,
                seed=self.training.seed,
                advance=bar.advance,
            )
        return dataclasses.replace(predictions, seconds=time.perf_counter() - started)

    def evaluate(self, examples: Sequence[Example], metrics: Sequence[str] = ()) -> dict[str, Interval]:
        """Scores of labelled rows with their 95% bootstrap intervals.

        Args:
            examples: The queries with their targets, such as ``task.test``.
            metrics: Names of metrics beside the task's own, which comes first; the usual ones if empty.

        Example:
            >>> import coldframe as cf
            >>> pipeline = cf.load("runs/b3db")                                  # doctest: +SKIP
            >>> print(pipeline.evaluate(cf.load_task("b3db").test)["accuracy"])  # doctest: +SKIP
            82.3 [79.5, 84.9] (n = 779, 1 seed)
        """
        run = self.predictions(examples)
        names = dict.fromkeys([self.schema.metric, *(metrics or usual_metrics([run]))])
        return {name: score_interval([run], name, self.schema.positive_index) for name in names}

    def calibrate(self, rows: Sequence[Example], way: Calibration = "validation") -> list[float]:
        """Correct the scores of the labels; nothing else changes.

        Adds one number to the score of each label. ``"contextual"`` and ``"batch"`` divide by mean probabilities, over
        inputs that say nothing or over the rows (:func:`coldframe.pipeline.label_bias.even_bias`); ``"prior"`` makes
        these the labels' shares (:func:`~coldframe.pipeline.label_bias.prior_bias`); ``"validation"`` makes the rows'
        labels likeliest (:func:`~coldframe.pipeline.label_bias.fit_label_bias`), counted as in training: alike, or by
        class where the task's metric counts classes alike. ``"none"`` takes a correction back.

        Args:
            rows: Validation rows. They may stand in the store: none retrieves itself. ``"contextual"`` reads no row
                itself, only what is retrieved for it.
            way: How.

        Returns:
            The numbers, in nats, in the order of ``schema.labels``.

        Raises:
            ConfigError: The task has no labels, or there are no rows.
        """
        check_has_labels(self.schema, len(rows))
        self.method.label_bias, self.conformal = (), None
        if way != "none":
            self.method.label_bias = label_bias(self, rows, way)
        return list(self.method.label_bias)

    def measure_priors(self, rows: Sequence[Example]) -> None:
        """Keep the mean probability of every label over some rows, whose own labels do not matter."""
        self.priors = label_priors(self.schema.labels, outcome_of(self, rows).probabilities)

    def calibrate_sets(self, rows: Sequence[Example]) -> None:
        """Keep the scores of rows that were not learned, for :meth:`label_sets`; see ``Conformal.of``."""
        self.conformal = Conformal.of(self, rows)

    # ---- artifact ---------------------------------------------------------------------------------------

    def save_pretrained(self, path: str | Path) -> None:
        """Write the artifact folder (JSON, safetensors, JSONL) and a model card.

        Rows are in it only where the method retrieves from them; of the others it knows hashes, which tell a test row
        that was trained on.
        """
        from coldframe.storage.card import write_card

        store = self._needed_store()
        config = saved.manifest_of(self, store)

        def write(home: Path) -> list[str]:
            write_json(home / TRAINED, sorted(self.trained_keys))
            return [*self.method.save(home), *saved.write_store(home, store, self.retriever), TRAINED]

        write_artifact(folder := local_path(path), config, write)
        write_card(folder, config)

    @classmethod
    def from_pretrained(cls, path: str | Path, lm: FrozenLM | None = None, encoder: Any = None) -> Self:
        """Load an artifact: a local folder or a hub repository.

        Args:
            path: Where it is.
            lm: The base model, if it is loaded already; otherwise it is loaded by the name in the artifact.
            encoder: The encoder, where the artifact was fitted with an object; a list where the method had one and the
                retriever another. Needed where the object had no name to load it by.

        Raises:
            ArtifactError: If the artifact is damaged or foreign, ``lm`` is not the model it was fitted to, or an
                encoder is absent or gives other vectors.
        """
        artifact = read_artifact(saved.folder_of(path), saved.NEEDS)
        config = artifact.manifest
        saved.find_encoders(config, encoder)
        lm, schema = saved.base_model(config, lm), Schema.from_dict(config["schema"])
        store = saved.read_store(artifact)
        method = saved.method_of(artifact, lm, schema)
        with reading(artifact / TRAINED, fix="Fit again."):
            trained_keys = [str(key) for key in json.loads((artifact / TRAINED).read_text(encoding="utf-8"))]
        priors = config.get("label_priors") or {}
        return cls(
            method=method,
            lm=lm,
            schema=schema,
            store=store,
            retrieval=RetrievalConfig.from_dict(config["retrieval"]),
            training=TrainingConfig.from_dict(config["training"]),
            history=config["history"],
            seconds=config["seconds"],
            task=config["task"],
            priors=dict(zip(priors, saved.numbers_of(artifact, [*priors.values()]), strict=True)),
            peak_memory_mb=float(config.get("peak_memory_mb") or 0),
            trained_keys=frozenset(trained_keys),
            conformal=saved.conformal_of(artifact, schema),
        )

    def _needed_store(self) -> Store:
        """What an artifact must hold of the store: nothing, where the method never looks at it."""
        return self.store if self.method.uses_retrieval else Store(())

    def push_to_hub(self, repo_id: str, *, share_rows: bool = False, private: bool = True, **options: Any) -> str:
        """Upload the artifact to a hub repository, which nobody else can read unless you say so.

        Args:
            repo_id: ``owner/name``.
            share_rows: Yes, the exemplars or passages of the store leave this machine with it. Needed where the
                artifact holds any.
            private: Of the repository, which is made if need be.
            **options: Go to ``huggingface_hub.upload_folder`` (``commit_message``, ``revision``, ``token``).

        Returns:
            The address of the commit.

        Raises:
            ConfigError: Rows would leave the machine, and nobody said that they may.
            ArtifactError: The repository is public where ``private`` is not False, or the upload failed.
        """
        from coldframe.storage.hub import upload

        if (rows := len(self._needed_store())) and not share_rows:
            raise ConfigError(
                f"{rows:,} rows of the store would leave this machine with the artifact",
                fix="If they may, call push_to_hub(..., share_rows=True).",
            )
        return upload(self, repo_id, private=private, **options)

    def export(self, out: str | Path, **wanted: Any) -> Exported:
        """Write what was learned in a form that other libraries load; see :func:`coldframe.pipeline.export.export`."""
        from coldframe.pipeline.export import export

        return export(self, out, **wanted)


def load(path: str | Path, lm: FrozenLM | None = None, encoder: Any = None) -> Pipeline:
    """Load an artifact; see :meth:`Pipeline.from_pretrained`."""
    return Pipeline.from_pretrained(path, lm, encoder)
