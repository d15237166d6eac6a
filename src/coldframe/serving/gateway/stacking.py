"""Rows of many adapters in one forward pass, where what is put into the model can be stacked.

Soft tokens and texts in the prompt are a row's own, so rows of different adapters stand in one batch. Labels of one
token each are scored by the logits of all their words at once, of which each row takes its own. Labels of several
tokens are scored with those of the same words.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from coldframe.frozen.ports import Conditioning, Prompt, broadcast_rows
from coldframe.frozen.scoring import check_finite
from coldframe.inference.run import as_given, by_length
from coldframe.methods.base import prompts
from coldframe.retrieval.store import Retrieved
from coldframe.serving.gateway.adapters import Adapter
from coldframe.serving.gateway.jobs import Answers, Share
from coldframe.serving.gateway.store_edits import retrieve

AT_ONCE = 64
"""Rows of a forward pass, at most."""


def stacks(adapter: Adapter) -> bool:
    """Whether rows of an adapter may stand beside those of others: nothing is changed but what stands in its rows."""
    return bool(adapter.word_tokens) and adapter.pipeline.method.ports <= {"text", "soft tokens"}


@dataclasses.dataclass(frozen=True)
class Rows:
    """A share, ready to be put into the model."""

    share: Share
    prompts: list[Prompt]
    retrieved: Retrieved
    conditioning: Conditioning

    @classmethod
    def of(cls, share: Share) -> Rows:
        """What the method makes of queries and of what is retrieved for them."""
        pipeline = share.adapter.pipeline
        texts = [example.text for example in share.queries]
        retrieved = retrieve(pipeline, share.queries, share.jobs[0].overrides)
        conditioning = pipeline.method.condition(texts, retrieved)
        return cls(share, prompts(pipeline.schema, texts), retrieved, conditioning)

    @property
    def group(self) -> tuple[Any, ...]:
        """What rows of one batch have in common."""
        soft, tokens = self.conditioning.soft_tokens, self.share.adapter.word_tokens
        schema = self.share.adapter.pipeline.schema
        words = () if _single(tokens) else (schema.words, schema.template.end)
        count = None if soft is None else soft.shape[-2]
        return count, self.conditioning.placement, self.conditioning.contexts is None, words


def scored(group: Sequence[Rows]) -> list[Answers]:
    """The answers to the rows of a group, share by share."""
    lm = group[0].share.adapter.pipeline.lm
    words, columns = _vocabulary([rows.share.adapter for rows in group])
    questions = [prompt for rows in group for prompt in rows.prompts]
    conditioning = _together(group)
    scores = torch.zeros(len(questions), len(words))
    for batch in by_length([prompt.query for prompt in questions], lm.at_once(AT_ONCE)):
        part = _those(conditioning, batch)
        scores[batch] = lm.label_scores([questions[i] for i in batch], words, part, choices=True).float().cpu()
    parts = scores.split([len(rows.prompts) for rows in group])
    return [_answers(rows, part[:, own]) for rows, part, own in zip(group, parts, columns, strict=True)]


def tokens_read(adapter: Adapter, questions: Sequence[Prompt], conditioning: Conditioning) -> tuple[int, ...]:
    """Positions that the model reads of each prompt."""
    lm, soft = adapter.pipeline.lm, conditioning.soft_tokens
    around = len(lm.bos) + (0 if soft is None else int(soft.shape[-2]))
    contexts = conditioning.contexts or [()] * len(questions)
    texts = (q.header + "".join(c) + q.query for q, c in zip(questions, contexts, strict=True))
    return tuple(min(around + len(lm.tokenize(text)), lm.max_positions) for text in texts)


def _single(tokens: Sequence[tuple[int, ...]]) -> bool:
    return max(map(len, tokens)) == 1


def _vocabulary(adapters: Sequence[Adapter]) -> tuple[list[str], list[list[int]]]:
    """The words of all adapters, each token once, and the places of every adapter's own among them."""
    words = list(adapters[0].pipeline.schema.words)
    if not _single(adapters[0].word_tokens):  # then those of all are the same
        return words, [[*range(len(words))]] * len(adapters)
    places: dict[tuple[int, ...], int] = {}
    words = []
    for adapter in adapters:
        for word, token in zip(adapter.pipeline.schema.words, adapter.word_tokens, strict=True):
            if token not in places:
                places[token] = len(words)
                words.append(word)
    return words, [[places[token] for token in adapter.word_tokens] for adapter in adapters]


def _together(group: Sequence[Rows]) -> Conditioning:
    """What is put into the model for all rows of a group."""
    first, contexts, soft = group[0].conditioning, None, None
    if first.contexts is not None:
        contexts = tuple(texts for rows in group for texts in rows.conditioning.contexts or ())
    if first.soft_tokens is not None:
        pairs = ((rows.conditioning.soft_tokens, len(rows.prompts)) for rows in group)
        soft = torch.cat([broadcast_rows(tokens, count) for tokens, count in pairs if tokens is not None])
    return Conditioning(contexts=contexts, soft_tokens=soft, placement=first.placement)


def _those(conditioning: Conditioning, batch: Sequence[int]) -> Conditioning:
    """The part that belongs to some rows."""
    contexts, soft = conditioning.contexts, conditioning.soft_tokens
    return dataclasses.replace(
        conditioning,
        contexts=None if contexts is None else tuple(contexts[i] for i in batch),
        soft_tokens=None if soft is None else soft[list(batch)],
    )


def _answers(rows: Rows, scores: Tensor) -> Answers:
    adapter, attention = rows.share.adapter, rows.conditioning.attention
    scores = adapter.pipeline.method.biased(scores)
    check_finite(scores, "scores of the labels", range(len(scores)))
    return Answers(
        adapter,
        scores.double().softmax(-1).numpy(),
        None if attention is None else as_given(attention.float().cpu().numpy(), rows.retrieved),
        None,
        rows.retrieved,
        tokens_read(adapter, rows.prompts, rows.conditioning),
    )
