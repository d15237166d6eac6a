"""Scores of labels, and their losses."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from coldframe.errors import ConfigError
from coldframe.frozen.label_tree import Tokens, choice_losses, choice_scores, word_scores
from coldframe.frozen.ports import Conditioning, Prompt
from coldframe.frozen.scoring import some_logits
from coldframe.frozen.states import Prefilled

if TYPE_CHECKING:
    from coldframe.frozen.model import FrozenLM

_WITH_GRADIENT = 1024
"""Tokens of labels, over all rows, that are read with a gradient at one time; some GB of activations."""


def label_scores(
    lm: FrozenLM, prompts: Sequence[Prompt], words: Sequence[str], conditioning: Conditioning, choices: bool
) -> Tensor:
    """Log-scores of the answer words, ``[batch, len(words)]``; see :meth:`FrozenLM.label_scores`."""
    tokens, ready = _read(lm, prompts, words, conditioning)
    if max(map(len, tokens)) == 1:
        ids = torch.tensor([ids[0] for ids in tokens], device=lm.device)
        return some_logits(lm, ready.last, ids, conditioning.positions)
    if choices:
        return choice_scores(lm, ready, tuple(tokens), conditioning)
    return _word_scores(lm, ready, tokens, conditioning)


def label_losses(
    lm: FrozenLM,
    prompts: Sequence[Prompt],
    words: Sequence[str],
    targets: Sequence[int],
    conditioning: Conditioning,
    choices: bool,
) -> Tensor:
    """Cross-entropies of the right labels, ``[batch]``; see :meth:`FrozenLM.label_losses`."""
    if choices:
        tokens, ready = _read(lm, prompts, words, conditioning)
        return choice_losses(lm, ready, tokens, [tokens[i] for i in targets], conditioning)
    scores = lm.label_scores(prompts, words, conditioning)
    return torch.nn.functional.cross_entropy(scores, torch.tensor(targets, device=scores.device), reduction="none")


def _read(
    lm: FrozenLM, prompts: Sequence[Prompt], words: Sequence[str], conditioning: Conditioning
) -> tuple[list[Tokens], Prefilled]:
    """The labels' tokens, and the prompts as they were read."""
    tokens = label_tokens(lm, words, {prompt.end for prompt in prompts})
    longest = max(map(len, tokens))
    rows = lm.rows(prompts, conditioning, reserve=longest)
    with lm.ports(conditioning):
        return tokens, lm.prefill(rows, conditioning, keep=longest > 1)


def label_tokens(lm: FrozenLM, words: Sequence[str], ends: Collection[str]) -> list[Tokens]:
    """Tokens that stand for each label: with what ends an answer, where one of them begins another.

    A score that nothing ends is never lower for a label than for one that goes on from it.
    """
    tokens = [lm.answer_tokens(word) for word in words]
    if len(set(tokens)) < len(tokens):
        raise ConfigError("Two labels have the same tokens", got=list(words), fix="Choose different words.")
    ordered = sorted(tokens)
    if not any(after[: len(before)] == before for before, after in pairwise(ordered)):
        return tokens
    if len(ends) > 1:
        raise ConfigError("Prompts of one batch end differently", got=sorted(ends), expected="one end for all")
    tokens = [lm.answer_tokens(word, *ends) for word in words]
    named = sorted(zip(tokens, words, strict=True))
    for (before, word), (after, other) in pairwise(named):
        if after[: len(before)] == before:
            raise ConfigError(
                f"The label {word!r} begins the label {other!r}, and nothing ends an answer",
                fix="Say what ends one: end='\\n' (--end on the command line).",
            )
    return tokens


def _word_scores(lm: FrozenLM, ready: Prefilled, labels: Sequence[Tokens], conditioning: Conditioning) -> Tensor:
    """Scores in groups of labels that bound the memory; for its gradient a group is computed again."""
    gradient = torch.is_grad_enabled() and (ready.last.requires_grad or conditioning.changes_backbone)
    most = (_WITH_GRADIENT if gradient else lm.batch_tokens) // len(ready)
    order = sorted(range(len(labels)), key=labels.__getitem__)
    groups = list(_groups([labels[i] for i in order], most))
    columns = [
        checkpoint(word_scores, lm, ready, group, conditioning, use_reentrant=False)
        if gradient and len(groups) > 1
        else word_scores(lm, ready, group, conditioning)
        for group in groups
    ]
    back = torch.tensor(sorted(range(len(labels)), key=order.__getitem__), device=lm.device)
    return torch.cat(columns, dim=1).index_select(1, back)


def _groups(labels: Sequence[Tokens], most: int) -> Iterator[tuple[Tokens, ...]]:
    """Neighbours in groups of at most so many inner nodes, or of one label."""
    group: list[Tokens] = []
    size, before = 0, Tokens()
    for label in labels:
        nodes = len(label) - 1
        size += nodes - min(len(os.path.commonprefix([before, label])), nodes)
        if group and size > most:
            yield tuple(group)
            group, size = [], nodes
        group.append(label)
        before = label
    yield tuple(group)
