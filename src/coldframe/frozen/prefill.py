"""Reading prompts up to where their answers begin: from kept states where these are the base model's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from coldframe.errors import ConfigError
from coldframe.frozen.ports import Conditioning, broadcast_rows
from coldframe.frozen.states import Prefilled, Row, TextState, assemble, split

if TYPE_CHECKING:
    from coldframe.frozen.model import FrozenLM

# Tokens from which a processor reads rows one by one: without pads and their mask attention takes half the time.
_ALONE = 640


def forward(lm: FrozenLM, embeds: Tensor, mask: Tensor, past: DynamicCache | None) -> tuple[Tensor, DynamicCache]:
    """Final hidden states of ``embeds``, whose columns are the last ones of ``mask``."""
    inputs: dict[str, Any] = {"inputs_embeds": embeds.to(lm.dtype), "attention_mask": mask}
    if lm.takes_positions:
        # Pads get position 0; they are masked, so any value does.
        inputs["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -embeds.shape[1] :]
    output = lm.body(**inputs, past_key_values=past, use_cache=past is not None)
    return output.last_hidden_state, output.past_key_values


def follow(lm: FrozenLM, ready: Prefilled, embeds: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Prefilled]:
    """Hidden states of columns that follow a prefilled batch, and the batch with them."""
    added = torch.ones(embeds.shape[:2], dtype=torch.long, device=lm.device) if mask is None else mask
    whole = torch.cat((ready.mask, added), dim=1)
    hidden, cache = forward(lm, embeds, whole, ready.cache)
    return hidden, Prefilled(hidden[:, -1], cache, whole, ready.lengths + added.sum(-1))


# ---- trees ------------------------------------------------------------------------------------------------


def branches(lm: FrozenLM) -> bool:
    """Whether tokens can follow a prompt as a tree: positions have to be told to the model, not counted by it."""
    return lm.takes_positions and lm.anatomy.position != "alibi"


def branch(lm: FrozenLM, ready: Prefilled, embeds: Tensor, sees: Tensor, depths: Tensor) -> Tensor:
    """Hidden states of tokens that follow a prefilled batch as a tree; the batch stays as it is.

    Shapes:
        embeds: ``[batch, nodes, d_model]``; sees: ``[nodes, nodes]``, true for a node's ancestors and itself;
        depths: ``[nodes]``, 1 for what follows the prompt at once. Returns as ``embeds``.
    """
    positions = ready.lengths[:, None] + depths - 1
    before = ready.mask.bool()[:, None, :].expand(-1, len(depths), -1)
    mask = torch.cat((before, sees.expand(len(ready), -1, -1)), dim=2).unsqueeze(1)
    columns = torch.cat((ready.mask.cumsum(-1) - 1, positions), dim=1)
    distance = positions[:, None, :, None] - columns[:, None, None, :]
    output = lm.body(
        inputs_embeds=embeds.to(lm.dtype),
        attention_mask=_by_kind_of_layer(lm, mask, distance),
        position_ids=positions,
        past_key_values=ready.repeat(1).cache,
        use_cache=True,
    )
    hidden: Tensor = output.last_hidden_state
    return hidden


def _by_kind_of_layer(lm: FrozenLM, mask: Tensor, distance: Tensor) -> Tensor | dict[str, Tensor]:
    """A mask ``[batch, 1, queries, columns]`` as the layers of a model take it: within its sliding window, if any."""
    config = lm.anatomy.config
    window = getattr(config, "sliding_window", None)
    near = mask if window is None else mask & (distance < window)
    if lm.model.config._attn_implementation == "eager":  # it is added to the scores there
        mask, near = (
            torch.zeros_like(m, dtype=lm.dtype).masked_fill(~m, torch.finfo(lm.dtype).min) for m in (mask, near)
        )
    if window is not None and getattr(config, "layer_types", None):
        return {"full_attention": mask, "sliding_attention": near}
    return near


# ---- states of text ---------------------------------------------------------------------------------------


def text_states(lm: FrozenLM, rows: Sequence[Row], remember: bool = True) -> list[TextState]:
    """States of each row's own tokens, from the cache or computed in batches of like length."""
    states = [lm.states.get(row.shared, row.own) for row in rows]
    missing = sorted((i for i, state in enumerate(states) if state is None), key=lambda i: len(rows[i]))
    batch: list[int] = []
    for position, i in enumerate(missing):
        batch.append(i)
        following = rows[missing[position + 1]] if position + 1 < len(missing) else None
        full = lm.exact or following is None or (len(batch) + 1) * len(following.own) > lm.batch_tokens
        if full or (following is not None and following.shared != rows[i].shared):
            for j, state in zip(batch, _read(lm, [rows[j] for j in batch]), strict=True):
                states[j] = state
                if remember:
                    lm.states.put(rows[j].shared, rows[j].own, state)
            batch = []
    return [state for state in states if state is not None]


def _shared_state(lm: FrozenLM, shared: tuple[int, ...]) -> TextState | None:
    """State of text that many rows begin with, computed once."""
    if not shared:
        return None
    state = lm.states.get((), shared)
    if state is None:
        state = _read(lm, [Row((), shared)])[0]
        lm.states.put((), shared, state)
    return state


@torch.no_grad()
def _read(lm: FrozenLM, rows: Sequence[Row]) -> list[TextState]:
    """Run rows with one common ``shared`` part and return the states of their own tokens."""
    shared = _shared_state(lm, rows[0].shared)
    start = 0 if shared is None else shared.kv.shape[3]
    lengths = [len(row.own) for row in rows]
    longest = max(lengths)
    # Pads at the end, so that own text follows the shared text at once, as a sliding window wants it.
    ids = torch.tensor([row.own + (0,) * (longest - len(row.own)) for row in rows], device=lm.device)
    mask = torch.tensor([[1] * (start + n) + [0] * (longest - n) for n in lengths], device=lm.device)
    past = DynamicCache()
    if shared is not None:
        past = DynamicCache([(k.expand(len(rows), *k.shape), v.expand(len(rows), *v.shape)) for k, v in shared.kv])
    hidden, cache = forward(lm, lm.embed(ids), mask, past)
    return split(cache, start, lengths, hidden)


# ---- prompts ----------------------------------------------------------------------------------------------


def prefill(lm: FrozenLM, rows: Sequence[Row], conditioning: Conditioning, keep: bool = True) -> Prefilled:
    """Read the prompts up to where their answers begin; see :meth:`FrozenLM.prefill`."""
    soft = _soft_tokens(lm, len(rows), conditioning)
    # Exemplars in the prompt and nothing trained: read once, so several times a query's states for nothing, unless
    # most of the prompt is the same for all.
    only_text = conditioning.contexts is not None and soft is None
    before_text = soft is not None and conditioning.placement == "prefix"
    if conditioning.changes_backbone or before_text or (only_text and not _mostly_shared(rows)):
        return _whole(lm, rows, soft, conditioning, keep)
    if soft is not None and len(rows) == 1 and not torch.is_grad_enabled() and not lm.exact:
        if lm.states.get(rows[0].shared, rows[0].own) is None:
            return _alone(lm, rows[0], soft)
    if len({row.shared for row in rows}) > 1:  # different headers in one batch: nothing is shared
        rows = [Row((), row.shared + row.own) for row in rows]
    ready = assemble(_shared_state(lm, rows[0].shared), text_states(lm, rows, not only_text))
    return ready if soft is None else follow(lm, ready, soft)[1]


def _mostly_shared(rows: Sequence[Row]) -> bool:
    """Whether the rows begin with one text that is longer than what follows it on average."""
    shared = len(rows[0].shared)
    return len({row.shared for row in rows}) == 1 and 0 < sum(len(row.own) for row in rows) <= shared * len(rows)


def _soft_tokens(lm: FrozenLM, rows: int, conditioning: Conditioning) -> Tensor | None:
    """The soft tokens of every row, ``[rows, m, d_model]``, if there are any."""
    if conditioning.soft_tokens is None:
        return None
    soft = broadcast_rows(conditioning.soft_tokens, rows)
    if soft.shape[0] != rows or soft.shape[2] != lm.d_model:
        raise ConfigError(
            "Soft tokens do not fit the batch", got=tuple(soft.shape), expected=f"({rows}, m, {lm.d_model})"
        )
    return soft


def _whole(lm: FrozenLM, rows: Sequence[Row], soft: Tensor | None, conditioning: Conditioning, keep: bool) -> Prefilled:
    """One pass over text and soft tokens together, for when the text's states are not the base model's."""
    copies = conditioning.copies
    ids = [row.shared + row.own for row in rows for _ in range(copies)]
    soft = None if soft is None else soft.repeat_interleave(copies, 0)
    embeds, lengths = _embedded(lm, ids, soft, conditioning.placement)
    mask = torch.tensor([[0] * (embeds.shape[1] - n) + [1] * n for n in lengths], device=lm.device)
    # A delta may be a row's own, and so may positions be.
    together = torch.is_grad_enabled() or bool(conditioning.deltas) or conditioning.positions is not None
    if keep and not together and not lm.on_gpu and len(rows) > 1 and min(lengths) >= _ALONE:
        states = []
        for i, n in enumerate(lengths):
            hidden, own = forward(lm, embeds[i : i + 1, -n:], mask[i : i + 1, -n:], DynamicCache())
            states += split(own, 0, [n], hidden)
        return assemble(None, states)
    if keep or together:
        hidden, cache = forward(lm, embeds, mask, DynamicCache() if keep else None)
        last = hidden[:, -1]
    else:  # long rows in small batches: what passes from layer to layer stays in the processor's cache
        size, cache = max(1, lm.batch_tokens // embeds.shape[1]), None
        parts = zip(embeds.split(size), mask.split(size), strict=True)
        last = torch.cat([forward(lm, part, real, None)[0][:, -1] for part, real in parts])
    return Prefilled(last, cache, mask, torch.tensor(lengths, device=lm.device))


def _embedded(
    lm: FrozenLM, ids: Sequence[tuple[int, ...]], soft: Tensor | None, placement: str
) -> tuple[Tensor, list[int]]:
    """Embeddings of rows with their soft tokens, padded on the left, and each row's length."""
    if soft is None:
        longest = max(map(len, ids))
        padded = torch.tensor([(0,) * (longest - len(row)) + row for row in ids], device=lm.device)
        return lm.embed(padded), [len(row) for row in ids]
    pieces = []
    for row, vectors in zip(ids, soft, strict=True):
        at = len(lm.bos) if placement == "prefix" else len(row)
        text = lm.embed(torch.tensor(row, device=lm.device))
        pieces.append(torch.cat((text[:at], vectors.to(text.dtype), text[at:])))
    lengths = [len(piece) for piece in pieces]
    longest = max(lengths)
    embeds = torch.stack([nn.functional.pad(piece, (0, 0, longest - len(piece), 0)) for piece in pieces])
    return embeds, lengths


def _alone(lm: FrozenLM, row: Row, soft: Tensor) -> Prefilled:
    """A lone new query and the soft tokens after it in one pass: two passes would read the weights twice."""
    shared = _shared_state(lm, row.shared)
    past = None if shared is None else [(k.unsqueeze(0), v.unsqueeze(0)) for k, v in shared.kv]
    text = lm.embed(torch.tensor([row.own], device=lm.device))
    mask = torch.ones(1, len(row) + soft.shape[1], dtype=torch.long, device=lm.device)
    hidden, cache = forward(lm, torch.cat((text, soft.to(text.dtype)), dim=1), mask, DynamicCache(past))
    return Prefilled(hidden[:, -1], cache, mask, mask.sum(-1))
