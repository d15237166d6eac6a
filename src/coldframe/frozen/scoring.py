"""Losses of answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from coldframe.config import check
from coldframe.errors import NotFiniteError
from coldframe.frozen.ports import Conditioning, Prompt
from coldframe.frozen.states import Prefilled

if TYPE_CHECKING:
    from coldframe.frozen.model import FrozenLM
    from coldframe.frozen.rotary import PositionScheme


def check_finite(values: Tensor, what: str, queries: Sequence[int] = ()) -> None:
    """Raise unless all values are finite.

    Args:
        values: Numbers, those of one query in a row.
        what: Which they are.
        queries: Positions of the queries, to name the first that has none.
    """
    finite = torch.isfinite(values)
    if not bool(finite.all()):
        first = int((~finite).flatten(1).any(1).nonzero()[0]) if queries else 0
        where = f", the first of query {queries[first] + 1}" if queries else ""
        raise NotFiniteError(
            f"The {what} are not finite",
            got=f"{int((~finite).sum())} of {values.numel()}{where}",
            fix="Weights of the model or of the method are damaged, or too large for its dtype: load or fit it again, "
            "with dtype='float32'.",
        )


def answers_tokens(
    lm: FrozenLM, prompts: Sequence[Prompt], answers: Sequence[Sequence[str]]
) -> list[list[tuple[int, ...]]]:
    """Token ids of equally many answers to each prompt, with what ends them."""
    counts = set(map(len, answers))
    check(len(counts) == 1 and 0 not in counts, "Every prompt needs as many answers as the next", got=sorted(counts))
    return [
        [lm.answer_tokens(answer, prompt.end) for answer in own] for prompt, own in zip(prompts, answers, strict=True)
    ]


def losses(
    lm: FrozenLM,
    prompts: Sequence[Prompt],
    answers: Sequence[Sequence[str]],
    conditioning: Conditioning,
    reserve: int = 0,
) -> tuple[Tensor, Prefilled]:
    """Losses of several answers to each prompt, ``[batch, answers]``, and the prompts as they were read."""
    own = answers_tokens(lm, prompts, answers)
    count, tokens = len(own[0]), [ids for answers_ids in own for ids in answers_ids]
    longest = max(map(len, tokens))
    # For each its own longest answer: what of a prompt fits does not depend on the batch.
    rows = lm.rows(prompts, conditioning, reserve=[max(reserve, *map(len, answers_ids)) for answers_ids in own])
    positions = conditioning.positions
    with lm.ports(conditioning):
        ready = lm.prefill(rows, conditioning, keep=max(reserve, longest) > 1)
        if positions is not None:  # they belong to the rows as they are
            columns = [log_probabilities(lm, ready.repeat(1), tokens[i::count], positions) for i in range(count)]
            return -torch.stack(columns, dim=1), ready
        # Answers are added to the keys and values in place: on a copy, unless nothing is to follow the prompts.
        copy = ready.repeat(count) if reserve or count > 1 else ready
        return -log_probabilities(lm, copy, tokens).view(len(rows), -1), ready


def log_probabilities(
    lm: FrozenLM, ready: Prefilled, answers: Sequence[tuple[int, ...]], positions: PositionScheme | None = None
) -> Tensor:
    """Summed log-probability of the tokens of each prompt's answer, ``[batch]``."""
    longest = max(map(len, answers))
    padded = torch.tensor([ids + (0,) * (longest - len(ids)) for ids in answers], device=lm.device)
    real = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in answers], device=lm.device)
    hidden = ready.last.unsqueeze(1)
    if longest > 1:
        copies = len(ready) // len(answers)
        ids, mask = (x if copies == 1 else x.repeat_interleave(copies, 0) for x in (padded[:, :-1], real[:, 1:]))
        hidden = torch.cat((hidden, lm.follow(ready, lm.embed(ids), mask)[0]), dim=1)
    log_probabilities = next_logits(lm, hidden, positions).log_softmax(-1)
    return (log_probabilities.gather(-1, padded.unsqueeze(-1)).squeeze(-1) * real).sum(-1)


def some_logits(lm: FrozenLM, hidden: Tensor, token_ids: Tensor, positions: PositionScheme | None) -> Tensor:
    """Logits of some tokens only, of prompts and not of their copies."""
    if positions is None:
        return lm.head(hidden, token_ids)
    return next_logits(lm, hidden, positions).index_select(-1, token_ids)  # they may be mixed by what all tokens have


def next_logits(lm: FrozenLM, hidden: Tensor, positions: PositionScheme | None) -> Tensor:
    """Logits over the whole vocabulary, of prompts and not of their copies."""
    logits = lm.head(hidden)
    return logits if positions is None else positions.mix(logits)
