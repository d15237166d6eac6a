"""From hidden states to logits, and to the losses of answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from coldframe.config import check
from coldframe.errors import NotFiniteError
from coldframe.frozen.ports import Conditioning, Prompt
from coldframe.frozen.states import Prefilled

if TYPE_CHECKING:
    from coldframe.frozen.model import FrozenLM


def head(lm: FrozenLM, hidden: Tensor, token_ids: Tensor | None = None) -> Tensor:
    """Logits in float32, for the whole vocabulary or for some tokens only."""
    output = lm.anatomy.lm_head
    if token_ids is None:
        # Rows in one piece: of a slice, torch would make a copy of the whole matrix for every sequence.
        logits = output(hidden.reshape(-1, hidden.shape[-1])).unflatten(0, hidden.shape[:-1])
    else:
        # Few rows, so float32 costs nothing, and bf16 would round scores to steps of 0.06.
        bias = None if output.bias is None else output.bias[token_ids].float()
        logits = nn.functional.linear(hidden.float(), output.weight[token_ids].float(), bias)
    cap = lm.anatomy.logit_softcap
    logits = logits.float()
    return cap * torch.tanh(logits / cap) if cap else logits


def check_finite(values: Tensor, what: str) -> None:
    """Raise unless all values are finite.

    Raises:
        NotFiniteError: Some are infinite or no numbers.
    """
    if not bool(torch.isfinite(values).all()):
        raise NotFiniteError(
            f"The {what} are not finite",
            got=f"{int((~torch.isfinite(values)).sum())} of {values.numel()}",
            fix="Weights of the model or of the method are damaged, or too large for its dtype: load or fit it again, "
            "with dtype='float32'.",
        )


def losses(
    lm: FrozenLM,
    prompts: Sequence[Prompt],
    answers: Sequence[Sequence[str]],
    conditioning: Conditioning,
    reserve: int = 0,
) -> tuple[Tensor, Prefilled]:
    """Losses of several answers to each prompt, ``[batch, answers]``, and the prompts as they were read."""
    counts = {len(several) for several in answers}
    check(len(counts) == 1 and 0 not in counts, "Every prompt needs as many answers as the next", got=sorted(counts))
    tokens = [
        lm.answer_tokens(answer, prompt.end)
        for prompt, several in zip(prompts, answers, strict=True)
        for answer in several
    ]
    longest = max(map(len, tokens))
    rows = lm.rows(prompts, conditioning, reserve=max(reserve, longest))
    with lm.ports(conditioning):
        ready = lm.prefill(rows, conditioning, keep=max(reserve, longest) > 1)
        # Answers are added to the keys and values in place: on a copy, unless nothing is to follow the prompts.
        copy = ready.repeat(*counts) if reserve or counts != {1} else ready
        return -log_probabilities(lm, copy, tokens).view(len(rows), -1), ready


def log_probabilities(lm: FrozenLM, ready: Prefilled, answers: Sequence[tuple[int, ...]]) -> Tensor:
    """Summed log-probability of each row's answer tokens, ``[batch]``."""
    longest = max(map(len, answers))
    padded = torch.tensor([ids + (0,) * (longest - len(ids)) for ids in answers], device=lm.device)
    real = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in answers], device=lm.device)
    hidden = ready.last.unsqueeze(1)
    if longest > 1:
        rest, _ = lm.follow(ready, lm.embed(padded[:, :-1]), real[:, 1:])
        hidden = torch.cat((hidden, rest), dim=1)
    log_probabilities = lm.head(hidden).log_softmax(-1).gather(-1, padded.unsqueeze(-1)).squeeze(-1)
    return (log_probabilities * real).sum(-1)
