"""A log of questions and passages, diagnosed: does the retrieval do anything, for which question, by which passage?"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from coldframe.diagnosis.diagnose import diagnose
from coldframe.diagnosis.effects import (
    by_passage,
    by_rank,
    mean_estimates,
    question_effects,
    share_estimate,
)
from coldframe.diagnosis.endpoint import GREEDY, Endpoint, Mode
from coldframe.diagnosis.evidence import Estimate
from coldframe.diagnosis.grading import Grader, grader
from coldframe.diagnosis.memory import Memory
from coldframe.diagnosis.passages import PassageSubject
from coldframe.diagnosis.queries import Case
from coldframe.diagnosis.rag_evidence import SITUATIONS, RagDiagnosis, Rate, Situation, headline
from coldframe.diagnosis.retrieval_quality import retrieval_quality
from coldframe.diagnosis.shares import independent
from coldframe.diagnosis.text_rag import TextRAG
from coldframe.diagnosis.verdict import MIN_QUERIES
from coldframe.errors import ConfigError
from coldframe.evaluation.runs import sample
from coldframe.frozen.model import FrozenLM, load_lm
from coldframe.inference.intervals import RESAMPLES
from coldframe.progress import Bar, say
from coldframe.storage.folders import claims_out
from coldframe.tasks.rag_log import LogColumns, LogRow, RagLog, read_log
from coldframe.tasks.table import OnError
from coldframe.tasks.task import Example, text_key

_CHARACTERS = 4  # in a token, about


@claims_out
def diagnose_log(
    data: str | Path | RagLog | Iterable[Mapping[str, Any]],
    model: str | FrozenLM = "smollm2",
    *,
    endpoint: str | None = None,
    api_key: str | None = None,
    columns: LogColumns | Mapping[str, str | None] | None = None,
    mode: Mode = "auto",
    metric: str | Grader = "auto",
    max_tokens: int = 64,
    concurrency: int = 8,
    rows: int | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    out: str | Path | None = None,
    on_error: OnError = "raise",
    quiet: bool = False,
    command: str = "",
) -> RagDiagnosis:
    """Find out from a log of questions and passages whether the retrieval does anything.

    The questions are put to a model again: with the passages of the log, without any, with those of other questions,
    and with all but one. Nothing is retrieved again.

    Args:
        data: A log, see :func:`coldframe.tasks.rag_log.read_log`.
        model: A local model (a name, a folder, or one that is loaded); or as the server names it.
        endpoint: Address of a server that speaks OpenAI's protocol, such as ``http://localhost:8000/v1``.
        api_key: Of the server.
        columns: Columns of the log with unusual names.
        mode: ``"logprobs"`` measures the probability of the right answer, ``"answers"`` what the model writes,
            ``"auto"`` takes the first where the server can.
        metric: Of a written answer: ``contains``, ``exact_match``, ``token_f1`` or a
            :class:`coldframe.diagnosis.grading.Judge`. ``auto`` is ``contains``, and ``token_f1`` where the log has
            no right answers.
        max_tokens: Of a written answer, at most.
        concurrency: Requests at a time.
        rows: Questions, drawn at random; all if None.
        resamples: Of every bootstrap and permutation test.
        seed: Of everything drawn.
        out: A folder that stores what was measured, so that an interrupted diagnosis goes on.
        on_error: Stop at the first row that cannot be used, or skip such rows and count them.
        quiet: No progress.
        command: What makes this again, for the report.

    Raises:
        ColdframeError: ``out`` holds files that coldframe did not write, or another process writes to it.
        DataError: The log cannot be used.
        ModelError: The model or the server cannot be used.

    Cost:
        About 14 losses for every question and one for every passage; with log-probabilities three written answers for
        every question besides.

    Example:
        >>> import coldframe as cf
        >>> result = cf.diagnose_log("rag.jsonl", "smollm2")            # doctest: +SKIP
        >>> result.headline                                             # doctest: +SKIP
    """
    log = data if isinstance(data, RagLog) else read_log(data, columns, on_error=on_error)
    if rows is not None:
        log = sampled(log, rows, seed)
    subject = subject_of(
        log,
        model,
        endpoint=endpoint,
        api_key=api_key,
        mode=mode,
        metric=metric,
        max_tokens=max_tokens,
        concurrency=concurrency,
        out=out,
        quiet=quiet,
    )
    return diagnose_subject(log, subject, resamples=resamples, seed=seed, out=out, quiet=quiet, command=command)


def subject_of(
    log: RagLog,
    model: str | FrozenLM,
    *,
    endpoint: str | None = None,
    api_key: str | None = None,
    mode: Mode = "auto",
    metric: str | Grader = "auto",
    max_tokens: int = 64,
    concurrency: int = 8,
    out: str | Path | None = None,
    quiet: bool = False,
) -> Endpoint | TextRAG:
    """The pipeline of a log: its passages over a model; see :func:`diagnose_log`."""
    queries = [_example(row) for row in log.rows]
    options: dict[str, Any] = {
        "oracle": [row.gold for row in log.rows] if all(row.gold for row in log.rows) else None,
        "name": log.name,
        "task": "questions of the log",
        "resume": None if out is None else Path(out) / "losses.jsonl",
        "quiet": quiet,
    }
    passages = [row.passages for row in log.rows]
    score = _grader(metric, log)
    if endpoint is not None:
        if not isinstance(model, str):
            raise ConfigError("A server names its model by a word", got=type(model).__name__, expected="a str")
        generation = {**GREEDY, "max_tokens": max_tokens}
        options |= {"generation": generation, "concurrency": concurrency, "api_key": api_key}
        return Endpoint(endpoint, model, passages, queries, mode=mode, metric=score, **options)
    lm = load_lm(model) if isinstance(model, str) else model
    local: Literal["logprobs", "answers"] = "answers" if mode == "answers" else "logprobs"
    return TextRAG(lm, passages, queries, mode=local, metric=score, max_new_tokens=max_tokens, **options)


def diagnose_subject(
    log: RagLog,
    subject: Endpoint | TextRAG,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    out: str | Path | None = None,
    quiet: bool = False,
    command: str = "",
) -> RagDiagnosis:
    """The diagnosis of a log over a pipeline that :func:`subject_of` made."""
    quality = retrieval_quality(log.rows, subject.groups, seed=seed)
    if not quiet:
        say(cost(subject))
    diagnosis = diagnose(subject, resamples=resamples, seed=seed, quiet=quiet, command=command, notes=log.notes)
    questions = question_effects(subject)
    grading = subject.grader
    groups, resampling = subject.groups, {"resamples": resamples, "seed": seed}
    measured = zip(SITUATIONS, zip(*((q.loss, q.without, q.others) for q in questions), strict=True), strict=True)
    losses = {situation: np.array(values) for situation, values in measured}
    if subject.mode == "logprobs":
        scores = written_scores(subject, out)
        probability = tuple(
            Rate(situation, Estimate(*(math.exp(-loss) for loss in (mean.value, mean.high, mean.low))))
            for situation, mean in zip(losses, mean_estimates([*losses.values()], groups, **resampling), strict=True)
        )
    else:
        scores, probability = {name: 1 - loss for name, loss in losses.items()}, ()
    right = tuple(Rate(name, share_estimate(rows.tolist(), groups, **resampling)) for name, rows in scores.items())
    n = independent(len(subject), groups)
    return RagDiagnosis(
        log=log.name,
        headline=headline(diagnosis, right, log.is_gold, grading=grading.name, independent=n),
        warnings=quality.warnings,
        is_gold=log.is_gold,
        grading=grading.title,
        right=right,
        probability=probability,
        quality=quality,
        questions=questions,
        ranks=by_rank(questions, groups, **resampling),
        passages=by_passage(questions, groups, **resampling),
        diagnosis=diagnosis,
        notes=diagnosis.notes,
    )


def cost(subject: PassageSubject) -> str:
    """What a diagnosis will ask for, in a sentence."""
    n, passages = len(subject), sum(map(len, subject.retrieved))
    written = 3 * n if getattr(subject, "mode", "") == "logprobs" else 0
    answers = 14 * n + passages + written
    length = sum(len(q.text) + sum(map(len, own)) for q, own in zip(subject.queries, subject.retrieved, strict=True))
    tokens = (13 + (2 if written else 0)) * length // _CHARACTERS + passages * length // max(n, 1) // _CHARACTERS
    kind = "requests" if isinstance(subject, Endpoint) else "readings by the local model"
    return (
        f"{n:,} questions with {passages:,} passages: at most {answers:,} {kind}, about {tokens:,} tokens. What was "
        "measured before is not measured again."
    )


def sampled(log: RagLog, rows: int, seed: int = 0) -> RagLog:
    """A random part of a log."""
    if rows < 2:
        raise ConfigError("Too few rows", got=rows, expected=f"at least 2; {MIN_QUERIES} for a verdict")
    if rows >= len(log.rows):
        return log
    note = f"{rows} of {len(log.rows)} questions, drawn at random."
    return dataclasses.replace(log, rows=tuple(sample(log.rows, rows, seed)), notes=(*log.notes, note))


def written_scores(subject: Endpoint | TextRAG, out: str | Path | None = None) -> dict[Situation, NDArray[np.float64]]:
    """How right the written answers are, ``[n]`` in each situation; stored by the same names as losses."""
    score, path = subject.grader, None if out is None else Path(out) / "answers.jsonl"
    length = getattr(subject, "max_new_tokens", "")  # an endpoint's is in its fingerprint
    memory = Memory(path, f"{subject.fingerprint()} {score.name} {length}", subject.accepted)
    scores: dict[Situation, NDArray[np.float64]] = {}
    for situation, condition in zip(SITUATIONS, ("full", "empty", "swapped"), strict=True):
        cases = subject.cases(condition)  # type: ignore[arg-type]
        missing = [case for case in dict.fromkeys(cases) if case not in memory]
        with Bar(len(missing), f"{subject.name}: answers {situation}", subject.quiet) as bar:
            together: dict[Case, float] = {}
            for place, text in subject.write(missing) if missing else ():
                case = missing[place]
                together[case] = score(case.text, text, subject.accepted(case))
                if len(together) == subject.at_once:
                    memory.update(together)
                    together = {}
                bar.advance(1)
            memory.update(together)
        scores[situation] = np.array([memory[case] for case in cases])
    return scores


def _grader(metric: str | Grader, log: RagLog) -> Grader:
    return grader(("contains" if log.is_gold else "token_f1") if metric == "auto" else metric)


def _example(row: LogRow) -> Example:
    first, *others = row.answers
    key = text_key(row.question)
    return Example(row.question, first, row.id, key, references=tuple(others), group=row.group)
