"""The whole diagnosis of a retrieval pipeline, from its losses to the verdict."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coldframe.config import check
from coldframe.diagnosis.evidence import Diagnosis, Ladder, StoreHealth, TokenVariance
from coldframe.diagnosis.ladder import ladder as train_ladder
from coldframe.diagnosis.ladder_plan import FACTORS, RUNGS, count_tokens
from coldframe.diagnosis.passages import PassageSubject
from coldframe.diagnosis.pipeline_subject import PipelineSubject
from coldframe.diagnosis.savings import savings_of
from coldframe.diagnosis.shares import independent
from coldframe.diagnosis.soft_token_subject import SoftTokenSubject, subject_of
from coldframe.diagnosis.store_ablation import RETRAINABLE, retrain_under, store_ablation
from coldframe.diagnosis.store_health import health_of, store_health
from coldframe.diagnosis.subject import Condition, Subject, TokenSubject, noise_note
from coldframe.diagnosis.token_variance import reference_note, token_variance
from coldframe.diagnosis.verdict import verdict
from coldframe.errors import ConfigError, DataError, nearest
from coldframe.inference.intervals import RESAMPLES
from coldframe.pipeline.pipeline import Pipeline
from coldframe.progress import duration, say, working
from coldframe.storage.folders import claims_out
from coldframe.tasks.origin import load_again
from coldframe.tasks.task import Example, Task

#: Fewer queries are too few to say how tokens vary.
MIN_TOKEN_QUERIES = 10


@claims_out
def diagnose(
    subject: Pipeline | Subject | Sequence[Pipeline | Subject],
    queries: Sequence[Example] | None = None,
    *,
    task: Task | None = None,
    retrain: Sequence[str] = (),
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

    1. The store ablation: what is lost when something else takes the place of the retrieved entries.
    2. The variance of the soft tokens, where there are any: what is lost when they no longer follow the query.
    3. The prompt-tuning ladder, on request: how far a static prompt gets, and one from the query alone.

    The health of the store stands beside them, where it is known. ``docs/concepts/diagnosis.md`` explains the verdicts.

    Args:
        subject: A fitted pipeline of any method; several, trained with different seeds (the intervals then hold over
            seeds too); or any :class:`coldframe.diagnosis.subject.Subject`.
        queries: Labelled queries, for a pipeline; the test rows of its own task if None.
        task: What a pipeline was fitted on, if it was made by hand; loaded again from where it came if None.
        retrain: Conditions (random, fixed, shuffled, gaussian, mean) under which a pipeline's method is trained
            again as well.
        ladder: Whether to train the ladder; or a ladder that was trained on the same queries.
        ladder_seeds: Training seeds of each of its rungs.
        resamples: Of every bootstrap and permutation test.
        seed: Of everything drawn.
        out: Folder where the ladder stores its runs; they are not made again.
        notes: What a reader should know besides.
        quiet: No progress, and no estimate of the time that training will take.
        command: What makes this again, for the report.

    Raises:
        ConfigError: This subject cannot be diagnosed in this way.
        ColdframeError: ``out`` holds files that coldframe did not write, or another process writes to it.
        DataError: Queries or losses that cannot be used.

    Cost:
        About 14 passes over 600 queries or more for a pipeline with soft tokens, up to 25 over fewer; a pass takes as
        long as evaluating. What is to be trained is printed first, with its time.

    Example:
        >>> import coldframe as cf
        >>> diagnosis = cf.diagnose(cf.load("runs/b3db"))               # doctest: +SKIP
        >>> diagnosis.verdict.outcome, diagnosis.verdict.headline       # doctest: +SKIP
    """
    started = time.perf_counter()
    entries = list(subject) if isinstance(subject, Sequence) else [subject]
    pipelines = [entry for entry in entries if isinstance(entry, Pipeline)]
    training, remarks = bool(retrain) or ladder is True, list(notes)
    own: list[PipelineSubject] = []
    if pipelines:
        _check_pipelines(pipelines, len(entries), retrain)
        if task is None and (training or queries is None):
            task = load_again(pipelines[0].task)
            remarks += [] if queries is not None else task.notes
        if queries is None:
            assert task is not None  # loaded above
            queries = task.test
        own = [subject_of(pipeline, queries, quiet=quiet) for pipeline in pipelines]
    subjects: Sequence[Subject] = own or _checked(entries)
    if not own:
        check(queries is None, "Queries are for a pipeline; this subject has its own", got=type(entries[0]).__name__)
        check(not training, "Only a coldframe pipeline can be trained again", got=type(entries[0]).__name__)
    first = subjects[0]
    if ladder is True and task is not None:  # an error now, not hours later
        count_tokens(pipelines[0].method, pipelines[0].lm, task.schema)
    if training and not quiet:
        _announce(pipelines, retrain, ladder is True, len(ladder_seeds))
    for own_subject in subjects:
        losses = own_subject.losses("full")
        if len(losses) != len(own_subject):
            raise DataError("There is not one loss per query", got=len(losses), expected=len(own_subject))
        remarks.append(noise_note(losses, own_subject.losses("full"), own_subject.unit))
    retrained: dict[Condition, NDArray[np.float64]] = {}
    for condition in (name for name in RETRAINABLE if name in retrain):
        assert task is not None  # loaded above
        retrained[condition] = np.stack([retrain_under(condition, trained, task) for trained in own])
    ablation = store_ablation(subjects, retrained, resamples=resamples, seed=seed)
    tokens = _tokens(subjects, resamples, seed, remarks)
    with working("look at the store", quiet):
        health = _health(first, seed)
    if ladder is True:
        assert task is not None and queries is not None  # a pipeline has both
        rows = dataclasses.replace(task, test=tuple(queries))
        ladder = train_ladder(pipelines[0], pipelines[0].lm, rows, seeds=ladder_seeds, out=out, quiet=quiet)
    rungs = ladder if isinstance(ladder, Ladder) else None
    remarks += getattr(first, "notes", ())
    if len(own) == 1 and pipelines[0].method.trainable:
        remarks.append("One training seed: what another training would have given is not in the intervals.")
    n = independent(len(first), first.groups)
    savings = savings_of(own[0]) if own else None
    return Diagnosis(
        subject=first.name,
        task=first.task,
        model=first.model,
        unit=first.unit,
        n=len(first),
        seeds=len(subjects),
        verdict=verdict(first.name, ablation, tokens, rungs, health, n=n, savings=savings),
        store_ablation=ablation,
        token_variance=tokens,
        ladder=rungs,
        store_health=health,
        notes=tuple(remark for remark in dict.fromkeys(remarks) if remark),
        command=command,
        seconds=round(time.perf_counter() - started, 2),
    )


def _check_pipelines(pipelines: Sequence[Pipeline], count: int, retrain: Sequence[str]) -> None:
    first = pipelines[0]
    check(len(pipelines) == count, "Pipelines and other subjects cannot be diagnosed together")
    for other in pipelines[1:]:
        fitted = [(p.method.name, p.method.config, p.schema, p.lm.weight_hash) for p in (first, other)]
        check(
            fitted[0] == fitted[1],
            "Only the training seed may differ between pipelines that are diagnosed together",
            got=f"{first.method.name} on {first.schema.name} and {other.method.name} on {other.schema.name}",
            expected="the same method, settings, task and model",
        )
    seeds = [pipeline.training.seed for pipeline in pipelines]
    check(len(set(seeds)) == len(seeds), "Pipelines that are diagnosed together need different seeds", got=seeds)
    for condition in retrain:
        if condition not in RETRAINABLE:
            raise ConfigError(
                f"Nothing can be trained again under the condition {condition!r}", fix=nearest(condition, RETRAINABLE)
            )


def _checked(entries: Sequence[object]) -> list[Subject]:
    if not entries:
        raise DataError("There is nothing to diagnose", got="an empty sequence")
    subjects = [entry for entry in entries if isinstance(entry, Subject)]
    if others := [type(entry).__name__ for entry in entries if not isinstance(entry, Subject)]:
        raise ConfigError(
            "This cannot be diagnosed",
            got=others[0],
            expected="a fitted pipeline, or a Subject",
            fix="Wrap your own pipeline: coldframe.diagnosis.contexts.ContextSubject(queries, retrieve, loss).",
        )
    return subjects


def _announce(pipelines: Sequence[Pipeline], retrain: Sequence[str], climb: bool, seeds: int) -> None:
    """Print what will be trained, and about how long that takes."""
    runs = {"trained again": len(retrain) * len(pipelines)}
    runs["for the ladder, at most"] = len(RUNGS) * (len(FACTORS) + seeds - 1) if climb else 0
    count, seconds = sum(runs.values()), pipelines[0].seconds
    parts = ", ".join(f"{number} {purpose}" for purpose, number in runs.items() if number)
    total = duration(count * seconds)
    say(f"diagnose: {count} runs to train ({parts}): about {total}, if all take as long as the pipeline took")


def _tokens(subjects: Sequence[Subject], resamples: int, seed: int, notes: list[str]) -> TokenVariance | None:
    with_tokens = [subject for subject in subjects if isinstance(subject, TokenSubject)]
    if len(with_tokens) < len(subjects):
        return None
    first = with_tokens[0]
    if len(first) < MIN_TOKEN_QUERIES:
        notes.append(f"Fewer than {MIN_TOKEN_QUERIES} queries: the variance of the soft tokens was not measured.")
        return None
    if isinstance(first, SoftTokenSubject) and (note := reference_note(first)):
        notes.append(note)
    return token_variance(with_tokens, resamples=resamples, seed=seed)


def _health(subject: Subject, seed: int) -> StoreHealth | None:
    """The state of the store, if it is known."""
    if isinstance(subject, PipelineSubject):
        return store_health(subject.pipeline, subject.examples, seed=seed) if subject.pipeline.retriever else None
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
        len(subject.store),
        ids,
        np.full(ids.shape, np.nan, np.float32),  # the retriever does not tell similarities
        keys=subject.store,
        query_keys=[query.text for query in subject.queries],
        seed=seed,
    )
