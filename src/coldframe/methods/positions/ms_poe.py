"""Ms-PoE: every head reads positions on a scale of its own."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

import torch
from torch import Tensor

from coldframe.config import check
from coldframe.frozen.rotary import Heads, PositionScheme, for_each_query_head, rotate
from coldframe.methods.config import MethodConfig, MethodContext
from coldframe.methods.positions.scheme import PositionMethod


@dataclasses.dataclass(frozen=True)
class MsPoEConfig(MethodConfig):
    """Settings of Ms-PoE.

    Args:
        k: None: nothing is retrieved.
        lowest: Ratio of the most position-aware head, above 0; 1 leaves positions as they are.
        highest: Ratio of the least position-aware head, at least ``lowest``.
        first_layer: The layers before it keep their positions.
        outlier: A weight counts for a head's score where it is more than this many times its row's mean.
        assign: Which head gets which ratio. ``rank``: by its rank, as the paper says; ``order``: the list of heads
            sorted by score, read as if it were their ranks, as the authors' code does.
        keys: Ratio of a key that several query heads share. ``own``: that of the query head which looks at it;
            ``first``: that of the first query head of its group, as the authors' code does.
    """

    section = "Ms-PoE settings"
    at_least = {"first_layer": 0}
    above = {"lowest": 0, "outlier": 0}

    lowest: float = 1.2
    highest: float = 1.8
    first_layer: int = 2
    outlier: float = 3.0
    assign: Literal["rank", "order"] = "rank"
    keys: Literal["own", "first"] = "own"

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.lowest <= self.highest, "Ratios are out of order", got=(self.lowest, self.highest))


class MsPoE(PositionMethod):
    """Multi-scale positional encoding: head ``h`` takes position ``m`` for ``m / r_h``.

        A   = softmax(q_last K^T / sqrt(d)), without positions, once, on the first pass over a prompt
        S_h = - (share of the weights A_h above 3 mean(A_h))
        r_h = lowest + (highest - lowest) rank(S_h) / (H - 1)        the most aware head: the lowest ratio

    Layers 0 and 1 are left alone; in the others every prompt has an order of its own.

    Paper: Zhang et al. 2024, arXiv 2403.04797. Deviates: where query heads share a key (their models had none),
    each sees it on its own scale; with ``keys="first"`` a query's and a key's positions are on different scales,
    so that neighbours seem far apart, the more the longer the text. ``assign="order"`` and a highest ratio of
    ``highest - (highest - lowest) / H`` would be the authors' code.

    Cost: nothing trained; one row of attention weights more for each layer and prompt, and keys turned anew for every
    query head at every step. The text's states depend on it.

    Example:
        >>> MsPoE(lowest=1.0)
        MsPoE(lowest=1.0)
    """

    name: ClassVar[str] = "ms-poe"
    paper: ClassVar[str] = "arXiv 2403.04797"
    config_class = MsPoEConfig
    config: MsPoEConfig

    def build(self, context: MethodContext) -> None:
        """The model's own angles."""
        super().build(context)
        self.frequencies = [of_layer[0] for of_layer in self.rotary.frequencies()]

    def scheme(self) -> PositionScheme:
        """A scale for every head, which the batch's prompts choose."""
        return _Scales(self.config, self.frequencies)


class _Scales(PositionScheme):
    """Ratios of the prompts of one batch, by layer."""

    def __init__(self, config: MsPoEConfig, frequencies: list[Tensor]) -> None:
        self.config, self.frequencies = config, frequencies
        self.ratios: dict[int, Tensor] = {}

    def attend(self, at: Heads) -> Tensor:
        """Ordinary attention, queries and keys turned by their position over their head's ratio."""
        if at.begins:
            self.ratios[at.layer] = self._assigned(at)
        ratios, frequencies = self.ratios[at.layer], self.frequencies[at.layer]
        if self.config.keys == "own":
            keys, of_keys = for_each_query_head(at.k, at.q), ratios
        else:
            keys, of_keys = at.k, ratios[:, :: at.q.shape[1] // at.k.shape[1]]
        return at.mixed(
            rotate(at.q, at.q_at / ratios * frequencies),
            rotate(keys, at.k_at / of_keys * frequencies),
        )

    def _assigned(self, at: Heads) -> Tensor:
        """The ratio of every query head, ``[batch, heads, 1, 1]``."""
        batch, heads = at.q.shape[:2]
        if at.layer < self.config.first_layer:
            return torch.ones(batch, heads, 1, 1, device=at.q.device)
        order = awareness(at, self.config.outlier).argsort(dim=-1, stable=True)
        steps = order.argsort(dim=-1) if self.config.assign == "rank" else order
        ratios = torch.linspace(self.config.lowest, self.config.highest, heads, device=at.q.device)
        return ratios[steps][..., None, None]


def awareness(at: Heads, outlier: float) -> Tensor:
    """``S``: minus the share of columns that the last query looks at more than ``outlier`` times the mean.

    Shapes:
        Returns ``[batch, heads]``, float32; the lowest is the most position-aware head.
    """
    scores = (at.q[:, :, -1:].float() @ for_each_query_head(at.k, at.q).float().mT) * at.scale  # [batch, heads, 1, T]
    visible = torch.ones_like(scores, dtype=torch.bool) if at.mask is None else at.mask[:, :, -1:].expand_as(scores)
    weights = scores.masked_fill(~visible, -torch.inf).softmax(-1)
    columns = visible.sum(-1, keepdim=True)  # weights add up to 1, so their mean is 1 / columns
    return -(weights > outlier / columns).float().sum(-1).div(columns.squeeze(-1)).squeeze(-1)
