"""How passages mix the latent adapters of a bank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from coldframe.errors import ConfigError, nearest
from coldframe.methods.weight_deltas.adapters import Layout

Routing: TypeAlias = Literal["learned", "uniform", "random"]
EPSILON = 1e-12


def routing_weights(logits: Tensor, noise: Tensor | None = None) -> Tensor:
    """``w_s = z_s / (sum_s z_s + 1e-12)`` with ``z = sigmoid(logits)``: no softmax, and no top few.

    Args:
        logits: Rows of the routing table.
        noise: Uniform in (0, 1), for training: ``z = sigmoid(logits + log(u / (1 - u)))``, the relaxed
            Bernoulli at temperature 1.

    Shapes:
        ``[..., S]`` -> ``[..., S]``.
    """
    z = torch.sigmoid(logits if noise is None else logits + torch.logit(noise, eps=1e-6))
    return z / (z.sum(-1, keepdim=True) + EPSILON)


def compose(layout: Layout, bank: Tensor, weights: Tensor) -> Tensor:
    """Adapters mixed from a bank: ``A = sum_s w_s A_s`` and ``B = sum_s w_s B_s`` at every target, before they meet.

    Shapes:
        bank: ``[S, N]``; weights: ``[..., targets, S]`` -> ``[..., N]``.
    """
    pieces = layout.pieces
    chunks = bank.split([a + b for a, b in zip(pieces[::2], pieces[1::2], strict=True)], dim=1)
    return torch.cat([weights[..., m, :] @ chunk for m, chunk in enumerate(chunks)], dim=-1)


def routed(table: Tensor, rows: Sequence[int | None], routing: Routing = "learned", seed: int = 0) -> Tensor:
    """Weights of some passages, as trained or as a control.

    - ``learned``: the passage's own row.
    - ``uniform``: ``1 / S`` everywhere. A passage without a row has this too.
    - ``random``: the row of another passage, chosen by the seed; no passage keeps its own.

    Shapes:
        table: ``[T, targets, S]``; rows: n positions, None for a passage that is not in the table.
        Returns ``[n, targets, S]``, float32.
    """
    if routing not in get_args(Routing):
        raise ConfigError(f"{routing!r} is not a routing", fix=nearest(str(routing), get_args(Routing)))
    count, targets, adapters = table.shape
    weights = torch.full((len(rows), targets, adapters), 1 / adapters)
    if routing == "uniform":
        return weights
    source = {row: row for row in range(count)}
    if routing == "random":
        shuffled = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
        source = dict(zip(shuffled, shuffled[1:] + shuffled[:1], strict=True))
    for place, row in enumerate(rows):
        if row is not None:
            weights[place] = routing_weights(table[source[row]].float())
    return weights
