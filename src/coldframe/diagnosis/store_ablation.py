"""Diagnostic 1: what is lost when something else is put where the retrieved entries were."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from coldframe.config import check
from coldframe.diagnosis.evidence import Ablation, StoreAblation
from coldframe.diagnosis.outcomes import store_ablation_outcome
from coldframe.diagnosis.perturbations import DRAWN, UninformativeVectors, shuffled_contents
from coldframe.diagnosis.pipeline_subject import PipelineSubject
from coldframe.diagnosis.shares import Shares
from coldframe.diagnosis.subject import CONDITIONS, Condition, Subject
from coldframe.errors import ConfigError, DataError
from coldframe.inference.intervals import RESAMPLES
from coldframe.methods.registry import create
from coldframe.pipeline.fit import fit
from coldframe.progress import duration, say
from coldframe.tasks.task import Task

#: Conditions that a method can be trained under.
RETRAINABLE: tuple[Condition, ...] = ("random", "fixed", "shuffled", "gaussian", "mean")
#: Draws of a random condition, at most, and losses over queries and draws from which no more are drawn: the mean of so
#: many moves by less than the queries themselves do.
DRAWS, ENOUGH = 3, 600


def store_ablation(
    subjects: Sequence[Subject],
    retrained: Mapping[Condition, NDArray[np.float64]] | None = None,
    *,
    resamples: int = RESAMPLES,
    draws: int | None = None,
    seed: int = 0,
) -> StoreAblation:
    """Losses under every condition, set against the gain that the whole pipeline brings.

    With the losses l_F of the pipeline, l_0 of the model alone and l_A under a condition A::

        rho_A = mean(l_A - l_F) / mean(l_0 - l_F)

    A condition that draws at random counts with the mean of each query's losses over ``draws`` draws. What the shares
    mean: :func:`coldframe.diagnosis.outcomes.store_ablation_outcome`.

    Paper: Min et al. 2022 (shuffled labels); Krishna et al. 2021 (random entries).

    Args:
        subjects: The pipeline; several are the same pipeline trained with several seeds, on the same queries.
        retrained: Losses ``[S, n]`` (or ``[n]``) of the method trained again under a condition, see
            :func:`retrain_under`.
        resamples: Of the bootstrap and the permutation test.
        draws: Draws of each random condition, at least 1; None takes ``DRAWS``, or fewer where ``ENOUGH`` losses are
            reached before: not of ``fixed``, whose one set stands for all queries.
        seed: Of the resampling.

    Raises:
        DataError: The subjects have different numbers of queries, or a loss is not finite.

    Cost: up to ``draws`` passes over the queries for six conditions, one for the others, per subject; then a tenth
    of a second per condition.
    """
    check(draws is None or draws >= 1, "A random condition must be drawn", got=draws, expected="at least 1")
    if not subjects or len({len(subject) for subject in subjects}) > 1:
        raise DataError("All subjects must have the same queries", got=[len(subject) for subject in subjects])
    missing = {condition: reason for subject in subjects for condition, reason in subject.missing().items()}
    full, empty = _losses(subjects, "full", 1), _losses(subjects, "empty", 1)
    shares = Shares(full, empty, subjects[0].groups, resamples=resamples, seed=seed)
    enough = min(DRAWS, math.ceil(ENOUGH / shares.n))

    def draws_of(condition: Condition) -> int:
        return 1 if condition not in DRAWN else draws or (DRAWS if condition == "fixed" else enough)

    ablations = []
    for condition in CONDITIONS:
        if condition not in missing and condition not in ("full", "empty"):
            losses = _losses(subjects, condition, draws_of(condition))
            measured = shares.of(losses)
            ablations.append(Ablation(condition, False, measured.loss, measured.rise, measured.share))
    for training, (condition, losses) in enumerate((retrained or {}).items(), start=1):
        measured = shares.of(losses, training=training)
        ablations.append(Ablation(condition, True, measured.loss, measured.rise, measured.share))
    outcome, reason = store_ablation_outcome(shares.gain, ablations)
    return StoreAblation(shares.gain, tuple(ablations), tuple(missing.items()), outcome, reason)


def _losses(subjects: Sequence[Subject], condition: Condition, draws: int) -> NDArray[np.float64]:
    """``[S, n]``, the mean over draws."""
    drawn = np.array([[subject.losses(condition, draw) for draw in range(draws)] for subject in subjects])
    # As differences, because the mean of equal floats need not be that float.
    return np.asarray(drawn[:, 0] + (drawn - drawn[:, :1]).mean(axis=1))


def retrain_under(condition: Condition, subject: PipelineSubject, task: Task) -> NDArray[np.float64]:
    """Losses of a pipeline's method, trained again under a condition and evaluated under it, ``[n]``, in nats.

    Everything else stays: settings, training rows, seed. Training under a condition tells what the method would have
    reached without what it retrieves; at evaluation alone the condition is also something that the method has never
    seen. Unless the subject is quiet, the time is printed beforehand.

    Args:
        condition: One of ``RETRAINABLE``. Stand-ins for vectors have the moments that the store's vectors have
            before training.
        subject: The trained pipeline, and the queries.
        task: What it was trained on.

    Raises:
        ConfigError: The method cannot be trained under this condition.

    Cost: as much as the pipeline's own training (``pipeline.seconds``); none for a method that is trained without what
    it retrieves.
    """
    pipeline, method = subject.pipeline, subject.pipeline.method
    if condition not in RETRAINABLE:
        raise ConfigError(f"Nothing is trained under the condition {condition!r}", expected=", ".join(RETRAINABLE))
    if (reason := subject.missing().get(condition)) is not None:
        raise ConfigError(f"{method.name} cannot be trained under the condition {condition!r}: {reason}")
    if not method.trainable:
        raise ConfigError(f"{method.name} has nothing to train", fix="Ask for its ablations at evaluation only.")
    if not method.trains_on_retrieved:
        return subject.losses(condition)
    if not subject.quiet:
        say(f"training {method.name} again with {CONDITIONS[condition]}: about {duration(pipeline.seconds)}")
    seed, store, retrieval = pipeline.training.seed, pipeline.store, pipeline.retrieval
    fresh = create(method.name, method.config.to_dict())
    if condition == "shuffled":
        store = shuffled_contents(store, seed)
    elif condition == "random" or condition == "fixed":
        retrieval = retrieval.replace(strategy=condition, seed=seed)
    elif condition == "gaussian" or condition == "mean":
        fresh = fresh.with_entry_vectors(UninformativeVectors(condition, seed))
    quiet, training = subject.quiet, pipeline.training
    fitted = fit(fresh, pipeline.lm, task, retrieval=retrieval, training=training, store=store, quiet=quiet)
    return PipelineSubject(fitted, subject.examples, quiet=quiet).losses("full")
