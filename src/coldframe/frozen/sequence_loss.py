"""The loss of whole sequences under a conditioning: what an adapter of a text is trained with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Conditioning

CHUNK = 512
"""Tokens whose logits exist at one time; over a vocabulary of 50,000 they take 100 MB."""


@dataclasses.dataclass(frozen=True, slots=True)
class TokenSequence:
    """Token ids, of which those from ``start`` on are predicted and counted; the first token never is.

    >>> len(TokenSequence((5, 6, 7), start=2))
    3
    """

    ids: tuple[int, ...]
    start: int = 1

    def __len__(self) -> int:
        return len(self.ids)


def mean_nll(lm: FrozenLM, sequences: Sequence[TokenSequence], conditioning: Conditioning) -> Tensor:
    """Mean negative log-likelihood of each sequence's counted tokens: ``-1/T sum_t log p(x_t | x_<t)``.

    The logits are made and thrown away in chunks, once forward and once backward: those of a whole batch would take
    more memory than everything else. Soft tokens have no place in the sequences.

    Shapes:
        Returns ``[batch]``, float32, nats, differentiable in the conditioning.
    """
    before, target, per_row = counted_states(lm, sequences, conditioning)

    def nll(states: Tensor, targets: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(lm.head(states), targets, reduction="none")

    return _row_sums(nll, (before, target), per_row) / per_row


def nll_and_kl(
    lm: FrozenLM, sequences: Sequence[TokenSequence], conditioning: Conditioning, teacher: Tensor
) -> tuple[Tensor, Tensor]:
    """Beside :func:`mean_nll`, how far a teacher's distributions are: ``sum_t KL(teacher_t || student_t)``.

    Logits exist in chunks alone, the teacher's too: what is kept of it are its hidden states.

    Shapes:
        teacher: ``[counted tokens, d_model]``. Returns two ``[batch]``, float32, nats.
    """
    before, target, per_row = counted_states(lm, sequences, conditioning)

    def losses(states: Tensor, targets: Tensor, teacher_states: Tensor) -> Tensor:
        student, goal = lm.head(states).log_softmax(-1), lm.head(teacher_states).log_softmax(-1)
        nll = -student.gather(-1, targets[:, None]).squeeze(-1)
        return torch.stack((nll, (goal.exp() * (goal - student)).sum(-1)), dim=-1)

    sums = _row_sums(losses, (before, target, teacher), per_row)
    return sums[:, 0] / per_row, sums[:, 1]


def counted_states(
    lm: FrozenLM, sequences: Sequence[TokenSequence], conditioning: Conditioning
) -> tuple[Tensor, Tensor, Tensor]:
    """What the counted tokens are predicted from: one pass over a batch of sequences.

    Shapes:
        Returns final hidden states before the counted tokens of all rows, ``[counted tokens, d_model]``, those tokens,
        and how many of them each row has, ``[batch]``.
    """
    longest = max(map(len, sequences))
    # Pads at the end: a causal model never looks there, and positions need no mending.
    ids = torch.tensor([row.ids + (0,) * (longest - len(row)) for row in sequences], device=lm.device)
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in sequences], device=lm.device)
    first = torch.tensor([max(row.start, 1) for row in sequences], device=lm.device)
    counted = mask.bool() & (torch.arange(longest, device=lm.device) >= first[:, None])
    with lm.ports(conditioning):
        hidden = lm.body(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    return hidden[:, :-1][counted[:, 1:]], ids[:, 1:][counted[:, 1:]], counted.sum(-1)


def _row_sums(loss: Callable[..., Tensor], inputs: tuple[Tensor, ...], per_row: Tensor) -> Tensor:
    """Sums of ``loss`` over each row's tokens; it is computed chunk by chunk, and again in the backward pass."""
    chunks = zip(*(values.split(CHUNK) for values in inputs), strict=True)
    values = torch.cat([checkpoint(loss, *chunk, use_reentrant=False) for chunk in chunks])
    # Row by row: a GPU's index_add adds up in any order.
    return torch.stack([row.sum(0) for row in values.split(per_row.tolist())])
