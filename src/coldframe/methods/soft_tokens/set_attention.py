"""Attention over a set of exemplars: its scores, its entropy, its gradient."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

ScoreKind = Literal["cosine", "dot"]
Similarity = Literal["standard", "raw", "none"]

#: From this share of the greatest entropy on, attention is said to average.
AVERAGES = 0.95


class SetAttention(nn.Module):
    """``a_ik = softmax_k(score_i(e_x, e_k) + g_i s_k)`` for heads i = 1..H of full width d, over a set of exemplars.

    With ``q_i = W_i^Q e_x`` and ``k_ik = W_i^K e_k``::

        dot:     score_i = q_i . k_ik / sqrt(d)
        cosine:  score_i = t_i cos(q_i, k_ik)              t_i learned, sqrt(d) at the start

    Cosines of random directions have variance ``1 / d``, so cosine scores start with a spread of order one. Dot
    products of encoder vectors through torch's default initialisation start near 1e-3, and their gradient is as small:
    the softmax over them stays even.

    ``s_k`` is the retriever's similarity: as it is (``raw``), with mean 0 and variance 1 within the set (``standard``,
    of the same reach whatever the similarity is), or absent (``none``).

    Args:
        widths: Of ``e_x`` and of ``e_k``.
        heads: H.
        d: Width of a head.
        scores: Which score.
        similarity: Which ``s_k``.
        slope: ``g_i`` at the start.

    Cost:
        ``H d (d_x + d_k + 2)`` parameters, and up to two for each head.
    """

    def __init__(
        self, widths: tuple[int, int], heads: int, d: int, scores: ScoreKind, similarity: Similarity, slope: float
    ) -> None:
        super().__init__()
        self.heads, self.d, self.standard = heads, d, similarity == "standard"
        self.query, self.key = (nn.Linear(width, heads * d) for width in widths)
        start = torch.full((heads,), 0.5 * math.log(d))
        self.log_temperature = nn.Parameter(start) if scores == "cosine" else None
        self.slope = None if similarity == "none" else nn.Parameter(torch.full((heads,), float(slope)))

    def forward(self, e_x: Tensor, e_k: Tensor, present: Tensor, similarity: Tensor) -> Tensor:
        """Attention ``[n, H, k]`` of queries ``[n, d_x]`` to exemplars ``[n, k, d_k]``; zero for those not present."""
        n = len(e_x)
        q = self.query(e_x).view(n, self.heads, self.d)
        k = self.key(e_k).view(n, -1, self.heads, self.d)
        if self.log_temperature is None:
            scores = torch.einsum("bhd,bkhd->bhk", q, k) / self.d**0.5
        else:
            q, k = nn.functional.normalize(q, dim=-1), nn.functional.normalize(k, dim=-1)
            scores = torch.einsum("bhd,bkhd->bhk", q, k) * self.log_temperature.exp()[:, None]
        if self.slope is not None:
            s = standardised(similarity, present) if self.standard else similarity
            scores = scores + self.slope[:, None] * s[:, None, :]
        scores = scores.masked_fill(~present[:, None, :], float("-inf"))
        # A query without any exemplar attends to nothing instead of dividing zero by zero.
        return torch.softmax(scores, -1) if present.any(1).all() else torch.softmax(scores, -1).nan_to_num(0.0)


def standardised(values: Tensor, present: Tensor) -> Tensor:
    """Values with mean 0 and variance 1 over those present in each row; zero where all are equal, or absent.

    >>> standardised(torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([[True, True, False]])).tolist()
    [[1.0, -1.0, 0.0]]
    """
    count = present.sum(-1, keepdim=True).clamp(min=1)
    centred = torch.where(present, values, 0.0)
    centred = torch.where(present, centred - centred.sum(-1, keepdim=True) / count, 0.0)
    spread = (centred.square().sum(-1, keepdim=True) / count).sqrt()
    return centred / torch.where(spread > 1e-6, spread, 1.0)


def attention_entropy(attention: Tensor, present: Tensor) -> float | None:
    """Mean entropy of attention over sets of two exemplars and more, as a share of the greatest possible.

    ``mean_(x,i) [-sum_k a_ik ln a_ik / ln K_x]`` over heads i and queries x with ``K_x >= 2`` exemplars: 1 where every
    head takes the mean of its exemplars, 0 where every head takes one of them. None if no query has two.

    Args:
        attention: ``[n, heads, keys]``; several keys to an exemplar count by themselves.
        present: ``[n, keys]``.

    Example:
        >>> present = torch.ones(1, 2, dtype=torch.bool)
        >>> attention_entropy(torch.tensor([[[0.5, 0.5], [1.0, 0.0]]]), present)
        0.5
    """
    count = present.sum(-1)
    chosen = count >= 2
    if not bool(chosen.any()):
        return None
    entropies = torch.special.entr(attention.detach()[chosen].double()).sum(-1)
    return float((entropies / count[chosen].double().log()[:, None]).mean())


def attends(entropy: float) -> str:
    """Whether attention with this entropy chooses among exemplars or takes their mean.

    >>> attends(0.612), attends(0.998)
    ('attends (entropy 0.612)', 'averages (entropy 0.998)')
    """
    return f"{'averages' if entropy > AVERAGES else 'attends'} (entropy {entropy:.3f})"
