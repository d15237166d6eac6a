"""Run a method over queries: the one place where predictions come from."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from coldframe.frozen.ports import LanguageModel
from coldframe.frozen.scoring import check_finite
from coldframe.inference.predictions import Predictions
from coldframe.methods.base import Method, prompts
from coldframe.retrieval.store import Retrieved
from coldframe.tasks.task import Example, Schema


def by_length(texts: Sequence[str], batch_size: int) -> Iterator[list[int]]:
    """Positions of all texts in batches of like length, the same batches whatever is done with them.

    >>> list(by_length(["ccc", "a", "bb"], 2))
    [[1, 2], [0]]
    """
    order = sorted(range(len(texts)), key=lambda i: (len(texts[i]), i))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Raw results of a batch of queries, in their order.

    Shapes:
        probabilities: ``[n, labels]``; attention: ``[n, m, k]`` or None; generated: n texts or None;
        losses: ``[n]`` or None, of the gold answers where they are known, nats a token.
    """

    probabilities: NDArray[np.float64]
    attention: NDArray[np.float32] | None
    generated: tuple[str, ...] | None
    losses: NDArray[np.float64] | None = None


@torch.no_grad()
def run(
    method: Method,
    lm: LanguageModel,
    schema: Schema,
    texts: Sequence[str],
    retrieved: Retrieved,
    *,
    gold: Sequence[str] | None = None,
    batch_size: int = 64,
    max_new_tokens: int | None = None,
    advance: Callable[[int], None] | None = None,
) -> Outcome:
    """Score (or write) an answer for every query, in batches of like length.

    Args:
        method: Built, and trained if it trains.
        lm: The model, here or on a server.
        schema: The task's schema.
        texts: The queries.
        retrieved: What was retrieved for each, in the same order.
        gold: Answers whose losses are measured beside what is written; for generation tasks.
        batch_size: Queries per forward pass, at least 1; one, where the model is ``exact``.
        max_new_tokens: Longest written answer of a generation task; the schema's, if None.
        advance: Called with the number of queries done, for a progress bar.

    Raises:
        NotFiniteError: Scores or losses are not numbers: the weights are damaged.
    """
    classify = schema.kind == "classification"
    length = schema.max_new_tokens if max_new_tokens is None else max_new_tokens
    losses = None if classify or gold is None else np.zeros(len(texts))
    scores = np.zeros((len(texts), len(schema.labels)))
    attention: list[NDArray[np.float32]] = []
    written = [""] * len(texts)
    was_training = method.training
    method.eval()
    order: list[int] = []
    for batch in by_length(texts, lm.at_once(batch_size)):
        order += batch
        sets, queries = retrieved.rows(np.array(batch)), [texts[i] for i in batch]
        conditioning = method.condition(queries, sets)
        questions = prompts(schema, queries)
        if classify:
            logits = method.label_scores(lm, questions, schema.words, conditioning)
            check_finite(logits, "scores of the labels", batch)
            scores[batch] = logits.double().softmax(-1).cpu().numpy()
        else:
            if losses is None or gold is None:
                answers = lm.generate(questions, conditioning, max_new_tokens=length)
            else:
                targets = [[schema.template.answer(gold[i])] for i in batch]
                sums, answers = lm.answer(questions, targets, conditioning, max_new_tokens=length)
                check_finite(sums, "losses of the answers", batch)
                tokens = [len(lm.answer_tokens(target, schema.template.end)) for (target,) in targets]
                losses[batch] = sums[:, 0].double().cpu().numpy() / np.array(tokens)
            for i, answer in zip(batch, answers, strict=True):
                written[i] = answer.strip()
        if conditioning.attention is not None:
            attention.append(as_given(conditioning.attention.float().cpu().numpy(), sets))
        if advance is not None:
            advance(len(batch))
    method.train(was_training)
    back = np.argsort(order)
    return Outcome(
        probabilities=scores,
        attention=np.concatenate(attention)[back] if attention else None,
        generated=None if classify else tuple(written),
        losses=losses,
    )


def predict(
    method: Method,
    lm: LanguageModel,
    schema: Schema,
    examples: Sequence[Example],
    retrieved: Retrieved,
    *,
    seed: int = 0,
    batch_size: int = 64,
    max_new_tokens: int | None = None,
    advance: Callable[[int], None] | None = None,
) -> Predictions:
    """:func:`run` over labelled examples, with all that evaluation needs to know of them.

    Args:
        method: Built, and trained if it trains.
        lm: The model.
        schema: The task's schema.
        examples: The queries; their targets are only copied into the result.
        retrieved: What was retrieved for each, in the same order.
        seed: The training seed, for the record.
        batch_size: Queries per forward pass, at least 1; one, where the model is ``exact``.
        max_new_tokens: Longest written answer of a generation task; the schema's, if None.
        advance: Called with the number of queries done, for a progress bar.
    """
    started = time.perf_counter()
    classify = schema.kind == "classification"
    outcome = run(
        method,
        lm,
        schema,
        [e.text for e in examples],
        retrieved,
        gold=None if classify else [e.target for e in examples],
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        advance=advance,
    )
    names = np.array([*(e.id for e in retrieved.store.examples), ""])
    return Predictions(
        method=method.name,
        seed=seed,
        task=schema.name,
        ids=tuple(e.id for e in examples),
        texts=tuple(e.text for e in examples),
        labels=schema.labels,
        targets=np.array([schema.index(e.target) if classify else -1 for e in examples], dtype=np.int64),
        probabilities=outcome.probabilities,
        neighbours=names[retrieved.indices].reshape(retrieved.indices.shape),
        similarities=retrieved.scores,
        attention=outcome.attention,
        references=None if classify else tuple((e.target, *e.references) for e in examples),
        generated=outcome.generated,
        losses=outcome.losses,
        seconds=time.perf_counter() - started,
    )


def as_given(attention: NDArray[np.float32], retrieved: Retrieved) -> NDArray[np.float32]:
    """Attention over the canonical order of a set, back in the order the set was given in.

    Several windows of one exemplar are added up; exemplars beyond those a method looks at get zero.
    """
    n, tokens, keys = attention.shape
    if not keys:
        return np.zeros((n, tokens, retrieved.k), dtype=np.float32)
    used = min(retrieved.k, keys)
    while used and keys % used:
        used -= 1
    looked = attention.reshape(n, tokens, used, -1).sum(-1)
    nearest = retrieved.top(used)
    order = np.argsort(np.where(nearest.indices < 0, np.iinfo(np.int64).max, nearest.indices), axis=1, kind="stable")
    out = np.zeros((n, tokens, retrieved.k), dtype=np.float32)
    np.put_along_axis(out, np.repeat(order[:, None, :], tokens, axis=1), looked, axis=2)
    return out
