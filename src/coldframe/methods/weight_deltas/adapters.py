"""Low-rank adapters as flat vectors: how they are laid out, how they start, how several become one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Literal, Self, TypeAlias, get_args

import torch
from torch import Tensor, nn

from coldframe.config import check
from coldframe.errors import ConfigError, nearest
from coldframe.frozen.anatomy import BoundAnatomy, LinearKind
from coldframe.frozen.ports import LowRank

Combine: TypeAlias = Literal["sum", "mean", "average-factors", "ties"]
Factors: TypeAlias = list[tuple[Tensor, Tensor]]


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where factors lie in an adapter's vector of N parameters: A and B of the first target, then of the next.

    An adapter is then one row of a matrix, read from a file in one piece.

    Attributes:
        names: Module paths of the targets.
        sizes: ``(in, out)`` of each.
        rank: r.
    """

    names: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    rank: int

    @classmethod
    def of(cls, anatomy: BoundAnatomy, rank: int, targets: LinearKind) -> Self:
        """The layout for a model's linears."""
        linears = anatomy.linears(targets)
        sizes = tuple((linear.d_in, linear.d_out) for linear in linears)
        return cls(tuple(linear.name for linear in linears), sizes, rank)

    @property
    def parameters(self) -> int:
        """N, how many parameters an adapter has: ``sum of r (in + out)``."""
        return sum(self.pieces)

    @property
    def pieces(self) -> list[int]:
        """Parameters of A and B of every target, in order."""
        return [self.rank * width for size in self.sizes for width in size]

    @property
    def layers(self) -> list[int]:
        """The layer of every target: the first number in its name."""
        return [next(int(part) for part in name.split(".") if part.isdigit()) for name in self.names]

    def factors(self, flat: Tensor) -> Factors:
        """A and B of every target, as views.

        Shapes:
            flat: ``[..., N]`` -> A ``[..., r, in]`` and B ``[..., out, r]``.
        """
        # One split: its gradient is one concatenation, where slices would each make a gradient of full size.
        pieces = flat.split(self.pieces, dim=-1)
        return [
            (a.unflatten(-1, (self.rank, d_in)), b.unflatten(-1, (d_out, self.rank)))
            for a, b, (d_in, d_out) in zip(pieces[::2], pieces[1::2], self.sizes, strict=True)
        ]

    def deltas(self, factors: Factors, scale: float) -> dict[str, LowRank]:
        """The weight-delta port: ``y = W x + scale B A x`` at every target."""
        return {name: LowRank(a, b, scale) for name, (a, b) in zip(self.names, factors, strict=True)}

    def start(self, seed: int) -> Tensor:
        """The one start of all adapters, ``[N]``: A Kaiming-uniform, B zero, so that it changes nothing.

        It is shared: adapters that started apart would not lie in one space, and adding them up would mean little.
        """
        flat = torch.zeros(self.parameters)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for a, _ in self.factors(flat):
                nn.init.kaiming_uniform_(a, a=math.sqrt(5))
        return flat


def trained_factors(sizes: Iterable[tuple[int, int]], rank: int) -> tuple[nn.ParameterList, nn.ParameterList]:
    """A, Kaiming-uniform, and B, zero, of linears of sizes ``(in, out)``: an update that starts at nothing."""
    sizes = list(sizes)
    a = nn.ParameterList(torch.empty(rank, d_in) for d_in, _ in sizes)
    b = nn.ParameterList(torch.zeros(d_out, rank) for _, d_out in sizes)
    for factor in a:
        nn.init.kaiming_uniform_(factor, a=math.sqrt(5))
    return a, b


def combined(layout: Layout, adapters: Tensor, present: Tensor, rule: Combine, density: float = 0.5) -> Factors:
    """One update for each query from the adapters of its k passages, as factors.

    - ``sum``: ``dW = sum_i B_i A_i``, exactly: the factors stand side by side, so the rank is ``k r`` (peft calls it
      "cat", and so do PRAG's authors).
    - ``mean``: the sum divided by the number of passages.
    - ``average-factors``: ``dW = (mean B_i) (mean A_i)``, as DyPRAG does. Not the mean: B_i meets A_j.
    - ``ties``: of every factor keep the share ``density`` of its parameters that are largest, let each place elect its
      sign by the sum, average those that agree (arXiv 2306.01708); of A and of B apart, as peft does.

    Args:
        layout: Of the adapters.
        adapters: ``[queries, k, N]``.
        present: ``[queries, k]``, False where a query has fewer passages.
        rule: See above.
        density: For ``ties``, in (0, 1].

    Shapes:
        Returns A ``[queries, r', in]`` and B ``[queries, out, r']`` of every target; ``r'`` is ``k r`` for the first
        two, else ``r``.
    """
    if rule not in get_args(Combine):
        raise ConfigError(f"Adapters cannot be combined by {rule!r}", fix=nearest(str(rule), get_args(Combine)))
    weight = present.to(adapters)
    count = weight.sum(1).clamp(min=1)
    if rule == "ties":
        return [(_ties(a, weight, density), _ties(b, weight, density)) for a, b in layout.factors(adapters)]
    if rule == "average-factors":
        return layout.factors(torch.einsum("qkn,qk->qn", adapters, weight / count[:, None]))
    share = weight if rule == "sum" else weight / count[:, None]
    return [
        (a.flatten(1, 2), (b * share[:, :, None, None]).transpose(1, 2).flatten(2))  # [q, k r, in], [q, out, k r]
        for a, b in layout.factors(adapters)
    ]


def mean_cosine(layout: Layout, adapters: Tensor) -> float:
    """Mean cosine between the updates of different passages: 1 where all are the same, so that retrieval is idle.

    An update is ``B A`` of all targets, as one vector. It is never computed: ``<B A, B' A'>`` is the sum of the
    products of ``B^T B'`` and ``A A'^T``, which are ``r x r``.

    Args:
        layout: Of the adapters.
        adapters: ``[n, N]``, at least two; an update of zero counts as cosine 0.

    Example:
        >>> layout = Layout(("one",), ((2, 2),), rank=1)
        >>> same, opposite = torch.tensor([1.0, 0, 0, 1]), torch.tensor([-1.0, 0, 0, 1])
        >>> mean_cosine(layout, torch.stack([same, 2 * same])), mean_cosine(layout, torch.stack([same, opposite]))
        (1.0, -1.0)
    """
    count = len(adapters)
    check(count >= 2, "A cosine takes two adapters", got=count, expected="at least 2")
    inner = torch.zeros(count, count)
    for a, b in layout.factors(adapters.float()):
        inner += (torch.einsum("nri,msi->nmrs", a, a) * torch.einsum("nor,mos->nmrs", b, b)).sum((-1, -2))
    norm = inner.diagonal().sqrt().clamp(min=1e-15)
    cosines = inner / (norm[:, None] * norm)
    return float((cosines.sum() - cosines.diagonal().sum()) / (count * (count - 1)))


def _ties(factors: Tensor, present: Tensor, density: float) -> Tensor:
    """TIES over dimension 1 of ``[queries, k, ., .]``."""
    flat = factors.flatten(2) * present[..., None]
    count = int(density * flat.shape[-1])
    trimmed = torch.zeros_like(flat)
    largest = flat.abs().topk(count, dim=-1).indices
    trimmed.scatter_(-1, largest, flat.gather(-1, largest))
    elected = torch.where(trimmed.sum(1, keepdim=True) >= 0, 1.0, -1.0)
    agree = trimmed.sign() == elected
    merged: Tensor = (trimmed * agree).sum(1) / agree.sum(1).clamp(min=1)
    return merged.view(-1, *factors.shape[2:])


def stacked(adapters: Sequence[Sequence[Tensor]], parameters: int) -> tuple[Tensor, Tensor]:
    """Lists of adapters as ``[queries, k, N]``, padded with zeros, and which are present, ``[queries, k]``."""
    k = max(1, *map(len, adapters)) if adapters else 1
    flat, present = torch.zeros(len(adapters), k, parameters), torch.zeros(len(adapters), k, dtype=torch.bool)
    for query, row in enumerate(adapters):
        for place, adapter in enumerate(row):
            flat[query, place], present[query, place] = adapter.float(), True
    return flat, present
