"""Attention for short queries over long frozen contexts, when a gradient is wanted on a CPU.

The fused CPU kernel is fast forwards but slow backwards: it expands grouped key/value heads and computes
gradients for the whole frozen context. With a handful of soft tokens as the only queries, three small
batched matrix products do the same work several times faster. Everywhere else the fused kernel stays, so
the base model's own results are untouched bit for bit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "coldframe"
_LONGEST = 1024  # beyond this the score matrix costs more memory than the fused kernel's backward costs time


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Softmax attention; grouped-query heads are matched without copying keys and values.

    Shapes:
        query: ``[batch, heads, q, d]``; key, value: ``[batch, kv_heads, s, d]``; mask broadcasts to
        ``[batch, 1, q, s]``, boolean (True attends) or additive. Returns ``[batch, q, heads, d]``.
    """
    batch, heads, q, d = query.shape
    kv_heads, s = key.shape[1], key.shape[2]
    slow_backward = query.requires_grad and query.device.type == "cpu" and s <= _LONGEST
    unusual = dropout or any(kwargs.get(name) is not None for name in ("softcap", "position_bias"))
    if not slow_backward or attention_mask is None or unusual:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    groups = heads // kv_heads
    scale = scaling if scaling is not None else d**-0.5
    # [batch * kv_heads, groups * q, d] against [batch * kv_heads, s, d]
    folded = (query * scale).reshape(batch * kv_heads, groups * q, d)
    scores = torch.bmm(folded, key.reshape(batch * kv_heads, s, d).transpose(1, 2)).float()
    scores = scores.view(batch, kv_heads, groups, q, s)
    attends = attention_mask[:, :, None, :, :s]
    if attends.dtype == torch.bool:
        scores = scores.masked_fill(~attends, torch.finfo(scores.dtype).min)
    else:
        scores = scores + attends
    weights = torch.softmax(scores, dim=-1).to(value.dtype).view(batch * kv_heads, groups * q, s)
    mixed = torch.bmm(weights, value.reshape(batch * kv_heads, s, d)).view(batch, heads, q, d)
    return mixed.transpose(1, 2), None


def mask(*args: Any, **kwargs: Any) -> Tensor | None:
    """The mask of torch's attention, and on a GPU without rows that attend to nothing: there they come out as NaN."""
    attends: Tensor | None = sdpa_mask(*args, **kwargs)
    return attends if attends is None or attends.device.type == "cpu" else without_empty_rows(attends)


def without_empty_rows(mask: Tensor) -> Tensor:
    """Rows that attend to nothing attend to everything: they are pads before a text, and nothing reads their states.

    >>> without_empty_rows(torch.tensor([[False, False], [False, True]])).tolist()
    [[True, True], [False, True]]
    """
    return mask | ~mask.any(-1, keepdim=True)


def register() -> str:
    """Make the kernel known to transformers (idempotent) and return its name."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, mask)
    return NAME
