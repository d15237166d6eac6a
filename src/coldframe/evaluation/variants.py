"""The same questions to the model alone, with passages in the prompt, in the weights, and in both."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coldframe.errors import ConfigError, DataError
from coldframe.evaluation.jobs import QUERY_ABLATIONS
from coldframe.inference.intervals import Interval, interval, score_interval
from coldframe.inference.predictions import Predictions, same_rows
from coldframe.methods.base import Method
from coldframe.methods.compose import Compose
from coldframe.methods.text.icl import RetrievedICL
from coldframe.methods.text.zero_shot import ZeroShot
from coldframe.methods.weight_deltas.banks import adapter_cosine
from coldframe.methods.weight_deltas.passage_adapters import PassageAdapters
from coldframe.pipeline.pipeline import Pipeline
from coldframe.progress import Bar
from coldframe.tasks.task import Example
from coldframe.tasks.text_metrics import TEXT_METRICS

METRICS = ("token_f1", "exact_match", "contains")


@dataclasses.dataclass(frozen=True)
class Variant:
    """A method or a control, measured: scores by metric in percent, seconds a question (retrieval counts), answers."""

    name: str
    scores: dict[str, Interval]
    seconds: float
    predictions: Predictions

    def to_dict(self) -> dict[str, Any]:
        """Plain data, without the answers."""
        scores = {metric: score.to_dict() for metric, score in self.scores.items()}
        return {"name": self.name, "scores": scores, "seconds_per_question": self.seconds}


@dataclasses.dataclass(frozen=True)
class VariantTable:
    """All variants, and what retrieval and adapters do.

    Attributes:
        variants: In the order they were measured.
        recall: Share of the questions whose passages were all retrieved; None where they are not known.
        n: Questions.
        cosine: Mean cosine between the updates of different passages; near 1 all passages have the same adapter.
        broken: Share of the right answers that the adapters of other passages make wrong; see :func:`broken`.
    """

    variants: tuple[Variant, ...]
    recall: float | None
    n: int
    cosine: float | None
    broken: Interval | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        lost = None if self.broken is None else self.broken.to_dict()
        summary = {"n": self.n, "retrieval_recall": self.recall, "adapter_cosine": self.cosine, "swapping_breaks": lost}
        return {**summary, "variants": [variant.to_dict() for variant in self.variants]}


def variants_of(pipeline: Pipeline, controls: bool = True) -> dict[str, Pipeline]:
    """The model alone, text RAG, the method, both together, and their controls; nothing is trained.

    Args:
        pipeline: Its ``k`` holds for text RAG as well.
        controls: Also the method's ablations; and, of adapters, those of other passages beside the right text, which
            tells what the passages' weights say from the form of answer that any of them brings.
    """
    method, name = pipeline.method, pipeline.method.name
    text = RetrievedICL(k=max(1, method.config.k))
    variants = {"zero-shot": _with(pipeline, ZeroShot()), text.name: _with(pipeline, text), name: pipeline}
    if method.trainable and not method.reads_text:
        variants[f"{text.name}+{name}"] = _beside(pipeline, text, method)
    if controls:
        for ablation in method.ablations:
            if ablation in QUERY_ABLATIONS:
                variants[f"{name}, {ablation.replace('-', ' ')}"] = QUERY_ABLATIONS[ablation](pipeline)
        if isinstance(method, PassageAdapters):
            others = method.with_settings(source="others")
            variants[f"{text.name}+{name}, adapters of others"] = _beside(pipeline, text, others)
    return variants


def _with(pipeline: Pipeline, method: Method) -> Pipeline:
    """The same model, store and retrieval under a method without parameters."""
    context = dataclasses.replace(pipeline.method.ready, encoder=None)
    return dataclasses.replace(pipeline, method=method.setup(context))


def _beside(pipeline: Pipeline, text: Method, method: Method) -> Pipeline:
    """Text and a fitted method together."""
    both = Compose(text, method)
    object.__setattr__(both, "context", pipeline.method.ready)
    return dataclasses.replace(pipeline, method=both)


def measure_variants(
    variants: Mapping[str, Pipeline], questions: Sequence[Example], quiet: bool = False
) -> VariantTable:
    """Answer the same questions in several ways.

    Args:
        variants: From :func:`variants_of`, or your own.
        questions: At least one.
        quiet: No progress bar.

    Raises:
        DataError: There is no question.
        ConfigError: The task has labels; its methods are compared by ``coldframe.compare``.
    """
    if not questions:
        raise DataError("There is no question")
    for pipeline in variants.values():
        if pipeline.schema.kind != "generation":
            raise ConfigError("Only written answers are measured here", fix="Use coldframe evaluate, or compare.")
        if pipeline.retriever is not None:
            _ = pipeline.retriever.index  # the store is indexed once, which is no question's time
    rows = []
    with Bar(len(variants) * len(questions), "ask", quiet) as bar:
        for name, pipeline in variants.items():
            predictions = dataclasses.replace(pipeline.predictions(questions), method=name)
            scores = {metric: score_interval([predictions], metric) for metric in METRICS}
            rows.append(Variant(name, scores, predictions.seconds / len(questions), predictions))
            bar.advance(len(questions))
    by_name = {row.name: row.predictions for row in rows}
    lost, cosine = None, None
    for name, pipeline in variants.items():
        if isinstance(pipeline.method, PassageAdapters) and name == pipeline.method.name:
            cosine = adapter_cosine(pipeline.method.adapters)
            if (swapped := by_name.get(f"{name}, swapped store")) is not None:
                lost = broken(by_name[name], swapped)
    retrieving = next((p for p in variants.values() if p.method.uses_retrieval), None)
    recall = None if retrieving is None else retrieval_recall(retrieving, questions)
    return VariantTable(tuple(rows), recall, len(questions), cosine, lost)


def broken(own: Predictions, swapped: Predictions) -> Interval | None:
    """Share of the right answers that are wrong with the adapters of other passages, percent with a 95% interval.

    Near 100 the answers come out of the adapters, near 0 from elsewhere. An answer is right that contains an accepted
    one; None where none is.
    """
    same_rows([own, swapped])
    right, still = (
        TEXT_METRICS["contains"].statistics(run.generated or (), run.references or ())[:, 0] for run in (own, swapped)
    )
    if not right.any():
        return None
    wrong = right * (1 - still)

    def share(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore"):  # a resample without a right answer is left out
            return np.asarray(100 * (weights @ wrong) / (weights @ right))

    return interval([share], len(right))


def retrieval_recall(pipeline: Pipeline, questions: Sequence[Example]) -> float | None:
    """Share of the questions whose passages were all retrieved; None where it is not known which they are."""
    known = [question for question in questions if question.gold]
    if not known:
        return None
    retrieved = pipeline.retrieve(known)
    hits = [{*row.gold} <= {entry.id for entry in retrieved.examples(i)} for i, row in enumerate(known)]
    return sum(hits) / len(hits)
