"""Scores of labels and losses of answers, from log-probabilities that a server gives for single tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from coldframe.frozen.label_tree import Tokens, next_tokens
from coldframe.frozen.labels import label_tokens
from coldframe.frozen.ports import Conditioning, Prompt
from coldframe.frozen.scoring import answers_tokens
from coldframe.serving.wire import Question, Span

if TYPE_CHECKING:
    from coldframe.serving.remote import RemoteLM

MOST_SCORED = 128
"""Tokens whose log-probabilities vLLM gives for one position."""

#: For every beginning of an answer, the tokens that may follow it.
Nodes = Mapping[Tokens, Sequence[int]]


def label_scores(
    lm: RemoteLM, prompts: Sequence[Prompt], words: Sequence[str], conditioning: Conditioning, choices: bool
) -> Tensor:
    """Log-scores of the answer words, ``[batch, len(words)]``; see :meth:`FrozenLM.label_scores`.

    One question for every beginning of a label after which labels part; without ``choices``, for every one.
    """
    labels = label_tokens(lm, words, {prompt.end for prompt in prompts})
    ready = lm.spans(prompts, conditioning, max(map(len, labels)))
    nodes = next_tokens(labels)
    if choices:
        nodes = {start: tokens for start, tokens in nodes.items() if len(tokens) > 1}
    rows = []
    for known in next_log_probabilities(lm, ready, [nodes] * len(ready)):
        if choices and max(map(len, labels)) > 1:  # each against the others there
            known = {start: _among(values) for start, values in known.items()}
        rows.append([_summed(known, label) for label in labels])
    return torch.tensor(rows, dtype=torch.float32)


def losses(
    lm: RemoteLM,
    prompts: Sequence[Prompt],
    answers: Sequence[Sequence[str]],
    conditioning: Conditioning,
    reserve: int = 0,
) -> Tensor:
    """Negative log-likelihoods of several answers to each prompt, ``[batch, answers]``; see :meth:`FrozenLM.losses`."""
    tokens = answers_tokens(lm, prompts, answers)
    ready = lm.spans(prompts, conditioning, [max(reserve, *map(len, own)) for own in tokens])
    known = next_log_probabilities(lm, ready, [next_tokens(own) for own in tokens])
    sums = [[-_summed(values, answer) for answer in own] for values, own in zip(known, tokens, strict=True)]
    return torch.tensor(sums, dtype=torch.float32)


def next_log_probabilities(
    lm: RemoteLM, ready: Sequence[Span], nodes: Sequence[Nodes]
) -> list[dict[Tokens, dict[int, float]]]:
    """For every prompt and beginning of an answer, ``log p`` over the vocabulary of the tokens that may follow."""
    questions, places = [], []
    for query, (span, own) in enumerate(zip(ready, nodes, strict=True)):
        for start, tokens in own.items():
            for first in range(0, len(tokens), MOST_SCORED):
                scored = tuple(tokens[first : first + MOST_SCORED])
                questions.append(Question(span.then(start), query, scored))
                places.append((query, start))
    order = sorted(range(len(questions)), key=lambda i: questions[i].scored)  # those alike share a request
    known: list[dict[Tokens, dict[int, float]]] = [{start: {} for start in own} for own in nodes]
    for i, reply in zip(order, lm.backend.ask([questions[i] for i in order]), strict=True):
        query, start = places[i]
        known[query][start].update(reply.scores)
    return known


def _summed(known: Mapping[Tokens, Mapping[int, float]], label: Tokens) -> float:
    """The sum along the way to a label, over those of its tokens that were asked for."""
    return sum(known[label[:i]][token] for i, token in enumerate(label) if label[:i] in known)


def _among(values: Mapping[int, float]) -> dict[int, float]:
    """Log-probabilities of tokens against each other."""
    shares = torch.tensor(list(values.values()), dtype=torch.float64).log_softmax(-1)
    return dict(zip(values, shares.tolist(), strict=True))
