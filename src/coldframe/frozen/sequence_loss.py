"""The loss of whole sequences under a conditioning: what an adapter of a text is trained with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Conditioning

CHUNK = 512
"""Tokens whose logits exist at one time; over a vocabulary of 50,000 they take 100 MB."""


@dataclasses.dataclass(frozen=True, slots=True)
class Counted:
    """Token ids, of which those from ``start`` on are predicted and counted; the first token never is.

    >>> len(Counted((5, 6, 7), start=2))
    3
    """

    ids: tuple[int, ...]
    start: int = 1

    def __len__(self) -> int:
        return len(self.ids)


def mean_nll(lm: FrozenLM, sequences: Sequence[Counted], conditioning: Conditioning) -> Tensor:
    """Mean negative log-likelihood of each sequence's counted tokens: ``-1/T sum_t log p(x_t | x_<t)``.

    The logits are made and thrown away in chunks, once forward and once backward: those of a whole batch would take
    more memory than everything else.

    Args:
        lm: The model.
        sequences: The batch, each with at least one counted token.
        conditioning: Head gains and weight deltas; the text is in the sequences, soft tokens have no place in them.

    Shapes:
        Returns ``[batch]``, float32, nats, differentiable in the conditioning.
    """
    longest = max(map(len, sequences))
    # Pads at the end: a causal model never looks there, and positions need no mending.
    ids = torch.tensor([one.ids + (0,) * (longest - len(one)) for one in sequences], device=lm.device)
    mask = torch.tensor([[1] * len(one) + [0] * (longest - len(one)) for one in sequences], device=lm.device)
    counted = mask.bool()
    for row, one in enumerate(sequences):
        counted[row, : max(one.start, 1)] = False
    with lm.ports(conditioning):
        hidden = lm.body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    before, target = hidden[:, :-1][counted[:, 1:]], ids[:, 1:][counted[:, 1:]]

    def nll(some: Tensor, wanted: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(lm.head(some), wanted, reduction="none")

    parts = zip(before.split(CHUNK), target.split(CHUNK), strict=True)
    each = torch.cat([checkpoint(nll, some, wanted, use_reentrant=False) for some, wanted in parts])
    per_row = counted.sum(-1)
    rows = torch.arange(len(sequences), device=lm.device).repeat_interleave(per_row)
    return torch.zeros(len(sequences), device=lm.device).index_add(0, rows, each) / per_row
