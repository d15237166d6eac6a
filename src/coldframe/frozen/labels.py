"""Scores of labels: the prompt is read once for all of them, and so is every beginning that some of them share."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from coldframe.errors import ConfigError
from coldframe.frozen.ports import Conditioning, Prompt
from coldframe.frozen.prefill import branch, branches
from coldframe.frozen.scoring import log_probabilities
from coldframe.frozen.states import Prefilled

if TYPE_CHECKING:
    from coldframe.frozen.model import FrozenLM

Tokens = tuple[int, ...]

_WITH_GRADIENT = 1024
"""Tokens of labels, over all rows, that are read with a gradient at one time; some GB of activations."""

_LOGITS = 256
"""Tokens whose logits exist at one time; over a vocabulary of 50,000 they take 50 MB."""


def label_scores(lm: FrozenLM, prompts: Sequence[Prompt], words: Sequence[str], conditioning: Conditioning) -> Tensor:
    """Log-scores of the answer words, ``[batch, len(words)]``; see :meth:`FrozenLM.label_scores`."""
    tokens = label_tokens(lm, words, {prompt.end for prompt in prompts})
    longest = max(map(len, tokens))
    rows = lm.rows(prompts, conditioning, reserve=longest)
    with lm.ports(conditioning):
        ready = lm.prefill(rows, conditioning, keep=longest > 1)
    if longest == 1:
        return lm.head(ready.last, torch.tensor([ids[0] for ids in tokens], device=lm.device))
    return _log_probabilities(lm, ready, tokens, conditioning)


def label_tokens(lm: FrozenLM, words: Sequence[str], ends: Collection[str]) -> list[tuple[int, ...]]:
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
    return [lm.answer_tokens(word, *ends) for word in words]


@dataclasses.dataclass(frozen=True)
class LabelTree:
    """Labels as a tree of their tokens. Its root is the end of the prompt; a label is a way down from there.

    Shapes:
        tokens: ``[nodes]``, of the inner nodes below the root, every one after its parent.
        depths: ``[nodes]``, from 1.
        sees: ``[nodes, nodes]``, true for a node's ancestors and itself.
        parents: ``[edges]``, where an edge starts, in order: 0 for the root, else 1 + the place of a node.
        targets: ``[edges]``, the token that an edge adds.
        paths: ``[edges, labels]``, 1 where an edge is on the way to a label.
    """

    tokens: Tensor
    depths: Tensor
    sees: Tensor
    parents: Tensor
    targets: Tensor
    paths: Tensor

    @classmethod
    @lru_cache(maxsize=64)
    def of(cls, labels: tuple[Tokens, ...]) -> LabelTree:
        """The tree of some labels.

        >>> tree = LabelTree.of(((5, 6), (5, 7, 8), (9,)))
        >>> tree.tokens.tolist(), tree.depths.tolist(), tree.parents.tolist(), tree.targets.tolist()
        ([5, 7], [1, 2], [0, 0, 1, 1, 2], [5, 9, 6, 7, 8])
        """
        nodes = sorted({label[:length] for label in labels for length in range(1, len(label))})
        place = {(): 0, **{node: i for i, node in enumerate(nodes, 1)}}
        edges = sorted({label[:length] for label in labels for length in range(1, len(label) + 1)})
        edges.sort(key=lambda edge: place[edge[:-1]])
        sees = [[node[: len(other)] == other for other in nodes] for node in nodes]
        paths = [[float(label[: len(edge)] == edge) for label in labels] for edge in edges]
        return cls(
            tokens=torch.tensor([node[-1] for node in nodes], dtype=torch.long),
            depths=torch.tensor([len(node) for node in nodes], dtype=torch.long),
            sees=torch.tensor(sees, dtype=torch.bool).view(len(nodes), len(nodes)),
            parents=torch.tensor([place[edge[:-1]] for edge in edges]),
            targets=torch.tensor([edge[-1] for edge in edges]),
            paths=torch.tensor(paths),
        )

    def to(self, device: torch.device) -> LabelTree:
        """The tree on a device."""
        return LabelTree(**{name: tensor.to(device) for name, tensor in vars(self).items()})


def _log_probabilities(lm: FrozenLM, ready: Prefilled, labels: Sequence[Tokens], conditioning: Conditioning) -> Tensor:
    """``sum_t log p(w_t | w_<t, prompt)`` of every label, in parts that bound the memory.

    Every part opens :meth:`FrozenLM.ports` itself, again where it is computed anew for its gradient.

    Shapes:
        Returns ``[batch, labels]``, float32.
    """
    gradient = torch.is_grad_enabled() and (ready.last.requires_grad or conditioning.changes_backbone)
    most = _WITH_GRADIENT * (lm.batch_tokens // 4096) if gradient else lm.batch_tokens
    score, copied = (_of_tree, 0) if branches(lm) else (_of_copies, ready.mask.shape[1])
    columns, order = [], sorted(range(len(labels)), key=labels.__getitem__)
    groups = list(_groups([labels[i] for i in order], copied, most))
    for group in groups:
        tokens = sum(copied + len(label) for label in group) if copied else len(LabelTree.of(group).tokens)
        starts = range(0, len(ready), max(1, most // max(1, tokens)))
        parts = [slice(start, start + starts.step) for start in starts]
        rows = []
        for part in parts:
            inputs = lm, ready.part(part), group, conditioning.part(part)
            again = gradient and len(groups) * len(parts) > 1
            rows.append(checkpoint(score, *inputs, use_reentrant=False) if again else score(*inputs))
        columns.append(torch.cat(rows))
    back = torch.tensor(sorted(range(len(labels)), key=order.__getitem__), device=lm.device)
    return torch.cat(columns, dim=1).index_select(1, back)


def _groups(labels: Sequence[Tokens], copied: int, most: int) -> Iterator[tuple[Tokens, ...]]:
    """Neighbours in groups of at most so many tokens, those that are copied for each of them included."""
    group: list[Tokens] = []
    size = 0
    for label in labels:
        size += copied + len(label)
        if group and size > most:
            yield tuple(group)
            group, size = [], copied + len(label)
        group.append(label)
    yield tuple(group)


def _of_tree(lm: FrozenLM, ready: Prefilled, labels: tuple[Tokens, ...], conditioning: Conditioning) -> Tensor:
    """One pass over the inner nodes of the labels' tree."""
    tree = LabelTree.of(labels).to(lm.device)
    hidden = ready.last.unsqueeze(1)
    if len(tree.tokens):
        embeds = lm.embed(tree.tokens).expand(len(ready), -1, -1)
        with lm.ports(conditioning):
            hidden = torch.cat((hidden, branch(lm, ready, embeds, tree.sees, tree.depths)), dim=1)
    return _edges(lm, hidden, tree) @ tree.paths


def _edges(lm: FrozenLM, hidden: Tensor, tree: LabelTree) -> Tensor:
    """Log-probability of every edge, ``[batch, edges]``; logits exist for some of the nodes at a time."""
    values = []
    size = max(1, _LOGITS // len(hidden))
    for start in range(0, hidden.shape[1], size):
        edges = (tree.parents >= start) & (tree.parents < start + size)
        inputs = lm, hidden[:, start : start + size], tree.parents[edges] - start, tree.targets[edges]
        again = torch.is_grad_enabled() and hidden.requires_grad
        values.append(checkpoint(_next, *inputs, use_reentrant=False) if again else _next(*inputs))
    return torch.cat(values, dim=1)


def _next(lm: FrozenLM, hidden: Tensor, parents: Tensor, targets: Tensor) -> Tensor:
    """``log p(target | parent)``, ``[batch, edges]``."""
    logits = lm.head(hidden)
    chosen = logits.flatten(1).index_select(1, parents * logits.shape[-1] + targets)
    # An embedding: on a GPU the gradient of index_select adds up repeated parents in any order.
    return chosen - nn.functional.embedding(parents, logits.logsumexp(-1).T).T


def _of_copies(lm: FrozenLM, ready: Prefilled, labels: tuple[Tokens, ...], conditioning: Conditioning) -> Tensor:
    """A copy of the prompt for every label: for positions that only know columns in a row."""
    with lm.ports(conditioning):
        return log_probabilities(lm, ready.repeat(len(labels)), labels * len(ready)).view(len(ready), -1)
