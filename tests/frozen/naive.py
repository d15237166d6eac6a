"""One row at a time, plain transformers, ``inputs_embeds``: what FrozenLM must agree with, written the slow way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import LowRank, Prompt


def tokens_of(lm: FrozenLM, prompt: Prompt, context: Sequence[str] = ()) -> list[int]:
    text = prompt.header + "".join(context) + prompt.query
    return [lm.tokenizer.bos_token_id, *lm.tokenizer(text, add_special_tokens=False).input_ids]


def embeds_of(model: Any, ids: Sequence[int], soft: Tensor | None, placement: str, answer: Sequence[int]) -> Tensor:
    """``[BOS][soft][text][answer]`` or ``[BOS][text][soft][answer]``, ``[1, n, d]``."""
    embed = model.get_input_embeddings()

    def vectors(some: Sequence[int]) -> Tensor:
        found: Tensor = embed(torch.tensor(some, dtype=torch.long))
        return found

    if soft is None:
        parts = [vectors([*ids, *answer])]
    elif placement == "prefix":
        parts = [vectors(ids[:1]), soft, vectors([*ids[1:], *answer])]
    else:
        parts = [vectors(ids), soft, vectors(answer)]
    return torch.cat(parts)[None]


def loss(
    model: Any, ids: Sequence[int], answer: Sequence[int], soft: Tensor | None = None, placement: str = ""
) -> Tensor:
    embeds = embeds_of(model, ids, soft, placement, answer)
    logits = model(inputs_embeds=embeds, use_cache=False).logits[0].float().log_softmax(-1)
    first = embeds.shape[1] - len(answer)
    return -sum((logits[first - 1 + i, token] for i, token in enumerate(answer)), torch.zeros(()))


@torch.no_grad()
def greedy(
    model: Any,
    ids: Sequence[int],
    count: int,
    soft: Tensor | None = None,
    placement: str = "",
    ends: Sequence[int] = (),
) -> list[int]:
    """Without any cache: the whole row again for every token."""
    written: list[int] = []
    for _ in range(count):
        embeds = embeds_of(model, ids, soft, placement, written)
        token = int(model(inputs_embeds=embeds, use_cache=False).logits[0, -1].argmax())
        if token in ends:
            break
        written.append(token)
    return written


@torch.no_grad()
def merged(model: Any, deltas: dict[str, LowRank]) -> Any:
    """The model with ``scale B A`` added to its weights, in place."""
    for name, delta in deltas.items():
        module = model.get_submodule(name)
        update = delta.scale * delta.b @ delta.a
        module.weight += update if isinstance(module, nn.Linear) else update.T  # Conv1D is transposed
    return model


@torch.no_grad()
def folded(model: Any, lm: FrozenLM, gains: Tensor) -> Any:
    """The model with the columns of ``o_proj`` that belong to head h multiplied by the head's gain, in place."""
    dim = lm.anatomy.head_dim
    for layer in range(lm.anatomy.n_layers):
        module = model.get_submodule(next(n for n, m in lm.model.named_modules() if m is lm.anatomy.o_proj(layer)))
        for head in range(lm.anatomy.n_heads):
            columns = slice(head * dim, (head + 1) * dim)
            if isinstance(module, nn.Linear):
                module.weight[:, columns] *= gains[layer, head]
            else:
                module.weight[columns] *= gains[layer, head]
    return model
