"""The whole diagnosis of a retrieval pipeline, from its losses to the verdict."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from coldframe.config import check
from coldframe.diagnosis.evidence import Diagnosis, Ladder, StoreHealth, TokenVariance
from coldframe.diagnosis.ladder import ladder as train_ladder
from coldframe.diagnosis.ladder_plan import FACTORS, RUNGS, count_tokens
from coldframe.diagnosis.passages import PassageSubject
from coldframe.diagnosis.pipeline_subject import PipelineSubject, SoftTokenSubject
from coldframe.diagnosis.savings import savings_of
from coldframe.diagnosis.store_ablation import RETRAINABLE, retrain_under, store_ablation
from coldframe.diagnosis.store_health import Searched, health_of, store_health
from coldframe.diagnosis.subject import Condition, Subject, TokenSubject
from coldframe.diagnosis.token_variance import reference_note, token_variance
from coldframe.diagnosis.verdict import verdict
from coldframe.errors import ConfigError, DataError, nearest
from coldframe.evaluation.intervals import RESAMPLES
from coldframe.evaluation.runs import duration
from coldframe.pipeline.pipeline import Pipeline
from coldframe.progress import say
from coldframe.tasks.origin import load_again
from coldframe.tasks.task import Example, Task

#: Fewer queries are too few to say how tokens vary.
MIN_TOKEN_QUERIES = 10

#: Losses asked for twice that are closer than this are the same: float additions in another order.
SAME = 1e-4


def diagnose(
    subject: Pipeline | Subject | Sequence[Pipeline | Subject],
    queries: Sequence[Example] | None = None,
    *,
    task: Task | None = None,
    retrain: Sequence[Condition] = (),
    ladder: Ladder | bool = False,
    ladder_seeds: Sequence[int] = (0, 1, 2, 3, 4),
    resamples: int = RESAMPLES,
    seed: int = 0,
    out: str | Path | None = None,
    notes: Sequence[str] = (),
    quiet: bool = False,
    command: str = "",
) -> Diagnosis:
    """Find out whether a pipeline's gain comes from what it retrieves.

    Three diagnostics, each with an outcome of its own, and a verdict over them:

    1. The store ablation: what is lost when something else stands where the retrieved entries were.
    2. The variance of the soft tokens, where there are any: what is lost when they no longer follow the query.
    3. The prompt-tuning ladder, if asked for: how far a static prompt gets, and one from the query alone.

    Beside them the health of the store, where it is known. ``docs/concepts/diagnosis.md`` says what the verdicts
    mean and how they are reached.

    Args:
        subject: A fitted pipeline or method; several, trained with different seeds (the intervals then hold over
            seeds too); or any :class:`coldframe.diagnosis.subject.Subject`.
        queries: Labelled queries, for a pipeline; the test rows of its own task if None.
        task: What a pipeline was fitted on, if it was made by hand; loaded again from where it came if None.
        retrain: Conditions (random, fixed, shuffled, gaussian, mean) under which a pipeline's method is trained
            again as well.
        ladder: Whether to train the ladder; or one that was trained on the same queries.
        ladder_seeds: Training seeds of each of its rungs.
        resamples: Of every bootstrap and permutation test.
        seed: Of everything drawn.
        out: Folder where the ladder keeps its runs, to be found again.
        notes: What a reader should know besides.
        quiet: No progress, and no word on what training will take.
        command: What makes this again, for the report.

    Raises:
        ConfigError: What is asked for cannot be done with this subject.
        DataError: Queries or losses that cannot be used.

    Cost:
        About 25 passes over the queries for a pipeline with soft tokens; a pass is what evaluating takes. What is
        trained is said, with its time, before anything else is done.

    Example:
        >>> import coldframe as cf
        >>> found = cf.diagnose(cf.load("runs/b3db"))               # doctest: +SKIP
        >>> found.verdict.outcome, found.verdict.headline           # doctest: +SKIP
    """
    started = time.perf_counter()
    given = list(subject) if isinstance(subject, Sequence) else [subject]
    pipelines = [subject for subject in given if isinstance(subject, Pipeline)]
    training = bool(retrain) or ladder is True
    said = list(notes)
    if pipelines:
        _check_pipelines(pipelines, len(given), retrain)
        if task is None and (training or queries is None):
            task = load_again(pipelines[0].task)
            said += [] if queries is not None else task.notes
        if queries is None:
            assert task is not None  # loaded above
            queries = task.test
        subjects: list[Subject] = [PipelineSubject(one, queries, quiet=quiet) for one in pipelines]
    else:
        subjects = _check_subjects(given)
        check(queries is None, "Queries are for a pipeline; this subject has its own", got=type(given[0]).__name__)
        check(not training, "Only a coldframe pipeline can be trained again", got=type(given[0]).__name__)
    first = subjects[0]
    if ladder is True and task is not None:
        count_tokens(
            pipelines[0].method, pipelines[0].lm, task, pipelines[0].retrieval
        )  # an error now, not hours later
    if training and not quiet:
        _announce(pipelines, retrain, ladder is True, len(ladder_seeds))
    said += _noise(subjects)
    retrained: dict[Condition, NDArray[np.float64]] = {}
    for condition in retrain:
        assert task is not None  # loaded above
        retrained[condition] = np.stack(
            [retrain_under(condition, cast(PipelineSubject, one), task) for one in subjects]
        )
    ablation = store_ablation(subjects, retrained, resamples=resamples, seed=seed)
    tokens = _tokens(subjects, resamples, seed, said)
    health = _health(first, seed)
    if ladder is True:
        assert task is not None and queries is not None  # a pipeline has both
        asked = dataclasses.replace(task, test=tuple(queries))
        ladder = train_ladder(pipelines[0], pipelines[0].lm, asked, seeds=ladder_seeds, out=out, quiet=quiet)
    rungs = ladder if isinstance(ladder, Ladder) else None
    said += getattr(first, "notes", ())
    if len(subjects) == 1 and pipelines and pipelines[0].method.trainable:
        said.append("One training seed: what another training would have given is not in the intervals.")
    found = verdict(
        first.name,
        ablation,
        tokens,
        rungs,
        health,
        n=len(first),
        savings=savings_of(first) if isinstance(first, PipelineSubject) else None,
    )
    return Diagnosis(
        subject=first.name,
        task=first.task,
        model=first.model,
        unit=first.unit,
        n=len(first),
        seeds=len(subjects),
        verdict=found,
        store_ablation=ablation,
        token_variance=tokens,
        ladder=rungs,
        store_health=health,
        notes=tuple(dict.fromkeys(said)),
        command=command,
        seconds=round(time.perf_counter() - started, 2),
    )


def _check_pipelines(pipelines: Sequence[Pipeline], given: int, retrain: Sequence[Condition]) -> None:
    first = pipelines[0]
    check(len(pipelines) == given, "Pipelines and other subjects cannot be diagnosed together")
    for other in pipelines[1:]:
        same = (
            other.method.name == first.method.name
            and other.method.config == first.method.config
            and other.schema == first.schema
            and other.lm.weight_hash == first.lm.weight_hash
        )
        check(
            same,
            "Only the training seed may differ between pipelines that are diagnosed together",
            got=f"{first.method.name} on {first.schema.name} and {other.method.name} on {other.schema.name}",
            expected="the same method, settings, task and model",
        )
    seeds = [one.training.seed for one in pipelines]
    check(len(set(seeds)) == len(seeds), "Pipelines that are diagnosed together need different seeds", got=seeds)
    for condition in retrain:
        if condition not in RETRAINABLE:
            raise ConfigError(
                f"Nothing can be trained again under the condition {condition!r}", fix=nearest(condition, RETRAINABLE)
            )


def _check_subjects(given: Sequence[object]) -> list[Subject]:
    if not given:
        raise DataError("There is nothing to diagnose", got="an empty sequence")
    for one in given:
        if not isinstance(one, Subject):
            raise ConfigError(
                "This cannot be diagnosed",
                got=type(one).__name__,
                expected="a fitted pipeline or method, or a Subject",
                fix="Wrap your own pipeline: coldframe.diagnosis.contexts.ContextSubject(queries, retrieve, loss).",
            )
    return cast(list[Subject], list(given))


def _announce(pipelines: Sequence[Pipeline], retrain: Sequence[Condition], climb: bool, seeds: int) -> None:
    """What will be trained, and about how long that takes, before anything is done."""
    runs = {"trained again": len(retrain) * len(pipelines)}
    runs["for the ladder, at most"] = len(RUNGS) * (len(FACTORS) + seeds - 1) if climb else 0
    count, each = sum(runs.values()), pipelines[0].seconds
    parts = ", ".join(f"{count} {what}" for what, count in runs.items() if count)
    say(f"diagnose: {count} runs to train ({parts}): about {duration(count * each)}, as long as the pipeline took each")


def _noise(subjects: Sequence[Subject]) -> list[str]:
    """Ask every subject twice for the same losses; what differs is noise, which the reader is told of."""
    found = []
    for one in subjects:
        losses = one.losses("full")
        if len(losses) != len(one):
            raise DataError("There is not one loss per query", got=len(losses), expected=len(one))
        off = np.abs(one.losses("full") - losses)
        if np.isfinite(off).all() and off.max() > SAME:
            found.append(
                f"Not deterministic: the same losses asked for twice differ by {off.mean():.3g} {one.unit} on average "
                f"and {off.max():.3g} at most. This noise is part of the intervals."
            )
    return found


def _tokens(subjects: Sequence[Subject], resamples: int, seed: int, notes: list[str]) -> TokenVariance | None:
    seen = [one for one in subjects if isinstance(one, TokenSubject)]
    if len(seen) < len(subjects):
        return None
    if len(subjects[0]) < MIN_TOKEN_QUERIES:
        notes.append(f"Fewer than {MIN_TOKEN_QUERIES} queries: how the soft tokens vary was not looked at.")
        return None
    first = subjects[0]
    if isinstance(first, SoftTokenSubject) and first.pipeline.method.trainable:
        notes.append(reference_note(first))
    return token_variance(seen, resamples=resamples, seed=seed)


def _health(subject: Subject, seed: int) -> StoreHealth | None:
    """The state of the store; None where there is none, or it is not known."""
    if isinstance(subject, PipelineSubject):
        uses = subject.pipeline.method.uses_retrieval and subject.pipeline.retriever is not None
        return store_health(subject.pipeline, subject.examples, seed=seed) if uses else None
    if not isinstance(subject, PassageSubject) or subject.store is None:
        return None
    place = {passage: i for i, passage in enumerate(subject.store)}
    sets = [list(dict.fromkeys(passages)) for passages in subject.retrieved]
    ids = np.full((len(sets), max(map(len, sets))), -1, np.int64)
    for row, passages in enumerate(sets):
        ids[row, : len(passages)] = [place.get(passage, -1) for passage in passages]
    if not (ids >= 0).any():
        return None
    return health_of(
        Searched(
            entries=len(subject.store),
            found=ids,
            similarities=np.full(ids.shape, np.nan, np.float32),  # the retriever does not say
            keys=subject.store,
            query_keys=[query.text for query in subject.queries],
        ),
        seed=seed,
    )
