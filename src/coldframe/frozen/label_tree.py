"""Labels as a tree of their tokens: the prompt is read once for all of them, and so is what some of them share."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from coldframe.frozen.ports import Conditioning
from coldframe.frozen.prefill import branch, branches
from coldframe.frozen.scoring import next_logits, some_logits
from coldframe.frozen.states import Prefilled

if TYPE_CHECKING:
    from coldframe.frozen.model import FrozenLM
    from coldframe.frozen.rotary import PositionScheme

Tokens = tuple[int, ...]

_LOGITS = 256
"""Tokens whose logits over the whole vocabulary exist at one time; over 50,000 tokens they take 50 MB."""


@dataclasses.dataclass(frozen=True)
class LabelTree:
    """Where something goes on from. The root is the end of the prompt; a label is a way down from there.

    Shapes:
        nodes: The beginnings of labels after which states are needed, every one after its own beginnings; not the root.
        sees: ``[nodes, nodes]``, true for a node's ancestors and itself.
        parents: ``[edges]``, where an edge starts, in order: 0 for the root, else 1 + the place of a node.
        targets: ``[edges]``, the token that an edge adds.
        paths: ``[edges, labels]``, 1 where an edge is on the way to a label.
    """

    nodes: tuple[Tokens, ...]
    sees: Tensor
    parents: Tensor
    targets: Tensor
    paths: Tensor

    @classmethod
    @lru_cache(maxsize=64)
    def of(cls, labels: tuple[Tokens, ...]) -> LabelTree:
        """The tree of some labels.

        >>> tree = LabelTree.of(((5, 6), (5, 7, 8), (9,)))
        >>> tree.nodes, tree.parents.tolist(), tree.targets.tolist()
        (((5,), (5, 7)), [0, 0, 1, 1, 2], [5, 9, 6, 7, 8])
        """
        return cls._of_starts(labels, next_tokens(labels))

    @classmethod
    @lru_cache(maxsize=64)
    def of_choices(cls, labels: tuple[Tokens, ...], most: int) -> tuple[LabelTree, ...]:
        """The tree of those edges that have another one beside them.

        It comes in parts of at most so many nodes, or of one start.

        >>> [tree.nodes for tree in LabelTree.of_choices(((5, 6), (5, 7, 8), (9, 1), (9, 2)), most=1)]
        [((5,),), ((9,),)]
        """
        following = {start: tokens for start, tokens in next_tokens(labels).items() if len(tokens) > 1}
        parts: list[list[Tokens]] = []
        nodes: set[Tokens] = set()
        for start in sorted(following):
            way = {start[:length] for length in range(1, len(start) + 1)}
            if not parts or len(nodes | way) > most:
                parts.append([])
                nodes = set()
            parts[-1].append(start)
            nodes |= way
        return tuple(cls._of_starts(labels, {start: following[start] for start in part}) for part in parts)

    @classmethod
    def _of_starts(cls, labels: tuple[Tokens, ...], following: Mapping[Tokens, list[int]]) -> LabelTree:
        starts = sorted(following)
        nodes = tuple(sorted({start[:length] for start in starts for length in range(1, len(start) + 1)}))
        place = {start: i for i, start in enumerate(((), *nodes))}
        edges = [(start, token) for start in starts for token in following[start]]
        paths = [[float(label[: len(start) + 1] == (*start, token)) for label in labels] for start, token in edges]
        sees = [[node[: len(other)] == other for other in nodes] for node in nodes]
        return cls(
            nodes=nodes,
            sees=torch.tensor(sees, dtype=torch.bool).view(len(nodes), len(nodes)),
            parents=torch.tensor([place[start] for start, _ in edges]),
            targets=torch.tensor([token for _, token in edges]),
            paths=torch.tensor(paths),
        )


def next_tokens(labels: Sequence[Tokens]) -> Mapping[Tokens, list[int]]:
    """For every beginning of a label, the tokens with which some label goes on.

    >>> next_tokens([(5, 6), (5, 7)])
    {(): [5], (5,): [6, 7]}
    """
    following: dict[Tokens, dict[int, None]] = defaultdict(dict)
    for label in sorted(labels):
        for length, token in enumerate(label):
            following[label[:length]][token] = None
    return {start: list(tokens) for start, tokens in following.items()}


def node_states(lm: FrozenLM, ready: Prefilled, tree: LabelTree, conditioning: Conditioning) -> Tensor:
    """Final hidden states after the prompt and after each node, ``[batch, 1 + nodes, d_model]``."""
    states = [ready.last.unsqueeze(1)]
    with lm.ports(conditioning):
        if tree.nodes and branches(lm):
            tokens = torch.tensor([node[-1] for node in tree.nodes], device=lm.device)
            depths = torch.tensor([len(node) for node in tree.nodes], device=lm.device)
            embeds = lm.embed(tokens).expand(len(ready), -1, -1)
            states.append(branch(lm, ready, embeds, tree.sees.to(lm.device), depths))
        else:  # positions that the model counts itself: one way down after another
            below: dict[Tokens, Tensor] = {}
            for node in reversed(tree.nodes):
                if node not in below:
                    embeds = lm.embed(torch.tensor(node, device=lm.device)).expand(len(ready), -1, -1)
                    hidden = lm.follow(ready.repeat(1), embeds)[0]
                    below.update({node[: i + 1]: hidden[:, i : i + 1] for i in range(len(node))})
            states += [below[node] for node in tree.nodes]
    return torch.cat(states, dim=1)


def word_scores(lm: FrozenLM, ready: Prefilled, labels: tuple[Tokens, ...], conditioning: Conditioning) -> Tensor:
    """``sum_t log p(w_t | w_<t, prompt)`` over the whole vocabulary, ``[batch, labels]``."""
    tree, values = LabelTree.of(labels), []
    hidden, parents, targets = node_states(lm, ready, tree, conditioning), *_on(lm, tree.parents, tree.targets)
    size = max(1, _LOGITS // len(hidden))
    for start in range(0, hidden.shape[1], size):
        edges = (parents >= start) & (parents < start + size)
        inputs = lm, hidden[:, start : start + size], conditioning.positions, parents[edges] - start, targets[edges]
        again = torch.is_grad_enabled() and hidden.requires_grad
        values.append(checkpoint(_edges, *inputs, use_reentrant=False) if again else _edges(*inputs))
    return torch.cat(values, dim=1) @ tree.paths.to(lm.device)


def _edges(lm: FrozenLM, hidden: Tensor, positions: PositionScheme | None, parents: Tensor, targets: Tensor) -> Tensor:
    """``log p(target | parent)``, ``[batch, edges]``."""
    logits = next_logits(lm, hidden, positions)
    chosen = logits.flatten(1).index_select(1, parents * logits.shape[-1] + targets)
    # An embedding: on a GPU the gradient of index_select adds up repeated parents in any order.
    return chosen - nn.functional.embedding(parents, logits.logsumexp(-1).T).T


def choice_scores(lm: FrozenLM, ready: Prefilled, labels: tuple[Tokens, ...], conditioning: Conditioning) -> Tensor:
    """``sum_t log p(w_t | w_<t, prompt, a label goes on with w_t)``, ``[batch, labels]``: the exponents add up to 1."""
    scores: list[Tensor] = []
    for tree in LabelTree.of_choices(labels, max(1, lm.batch_tokens // len(ready))):
        values = []
        hidden = node_states(lm, ready, tree, conditioning)
        parents, counts = tree.parents.unique_consecutive(return_counts=True)
        (targets,) = _on(lm, tree.targets)
        for parent, tokens in zip(parents.tolist(), targets.split(counts.tolist()), strict=True):
            values.append(some_logits(lm, hidden[:, parent], tokens, conditioning.positions).log_softmax(-1))
        scores.append(torch.cat(values, dim=1) @ tree.paths.to(lm.device))
    return torch.stack(scores).sum(0)


def choice_losses(
    lm: FrozenLM, ready: Prefilled, labels: Sequence[Tokens], answers: Sequence[Tokens], conditioning: Conditioning
) -> Tensor:
    """Minus the :func:`choice_scores` of one label for each prompt, ``[batch]``: nothing beside its way is read."""
    following = {start: tokens for start, tokens in next_tokens(labels).items() if len(tokens) > 1}
    ways = [[start for start in following if answer[: len(start)] == start] for answer in answers]
    read = [answer[: max(map(len, way))] for answer, way in zip(answers, ways, strict=True)]
    hidden, copies = ready.last.unsqueeze(1), len(ready) // len(answers)
    if longest := max(map(len, read)):
        padded = torch.tensor([ids + (0,) * (longest - len(ids)) for ids in read], device=lm.device)
        real = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in read], device=lm.device)
        padded, real = padded.repeat_interleave(copies, 0), real.repeat_interleave(copies, 0)
        with lm.ports(conditioning):
            hidden = torch.cat((hidden, lm.follow(ready, lm.embed(padded), real)[0]), dim=1)
    losses = torch.zeros(len(answers), device=lm.device)
    for start, tokens in following.items():
        rows = [row for row, way in enumerate(ways) if start in way]
        if rows:
            ids, places = _on(lm, torch.tensor(tokens), torch.tensor(rows))
            states = hidden.unflatten(0, (-1, copies)).index_select(0, places)[:, :, len(start)].flatten(0, 1)
            choices = some_logits(lm, states, ids, conditioning.positions).log_softmax(-1)
            chosen = torch.tensor([[tokens.index(answers[row][len(start)])] for row in rows], device=lm.device)
            losses = losses.index_add(0, places, -choices.gather(1, chosen).squeeze(1))
    return losses


def _on(lm: FrozenLM, *tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.to(lm.device) for tensor in tensors)
