"""Text to tokens: prompts as rows of token ids, answers as what follows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from coldframe.errors import ConfigError, DataError
from coldframe.frozen.ports import Conditioning, Prompt
from coldframe.frozen.states import Row

if TYPE_CHECKING:
    from coldframe.frozen.model import FrozenLM

Contexts = tuple[tuple[str, ...], ...]


def tokenize(lm: FrozenLM, text: str) -> tuple[int, ...]:
    """Token ids of a piece of text, without special tokens."""
    return tuple(lm.tokenizer(text, add_special_tokens=False).input_ids) if text else ()


def prompt_rows(lm: FrozenLM, prompts: Sequence[Prompt], conditioning: Conditioning, reserve: int = 0) -> list[Row]:
    """Prompts (with their text contexts) as token ids; see :meth:`FrozenLM.rows`."""
    contexts = conditioning.contexts
    if contexts is not None and len(contexts) != len(prompts):
        raise ConfigError("Every prompt needs its contexts", got=len(contexts), expected=len(prompts))
    soft = 0 if conditioning.soft_tokens is None else conditioning.soft_tokens.shape[-2]
    limit = lm.anatomy.max_positions - soft - reserve
    shared_contexts = same_for_all(contexts)
    rows = []
    for i, prompt in enumerate(prompts):
        header, query = lm.bos + lm.tokenize(prompt.header), lm.tokenize(prompt.query)
        if len(header) + len(query) > limit:
            raise DataError(
                "A row is longer than the model's context",
                got=f"{len(header) + len(query) + soft + reserve} tokens in {prompt.query[:60]!r}",
                expected=f"at most {lm.anatomy.max_positions}",
                fix="Shorten it, or skip such rows with --on-error skip.",
            )
        blocks = [lm.tokenize(block) for block in contexts[i]] if contexts is not None else []
        while blocks and len(header) + sum(map(len, blocks)) + len(query) > limit:
            blocks.pop(0)
            lm.dropped_contexts += 1
        context = tuple(token for block in blocks for token in block)
        shared, own = (header + context, query) if shared_contexts else (header, context + query)
        rows.append(Row(shared, own) if own else Row((), shared))  # the last token read is always a row's own
        if not rows[-1]:
            raise DataError("A prompt has no tokens", got=repr(prompt))
    return rows


def same_for_all(contexts: Contexts | None) -> bool:
    """Whether several queries have the very same exemplars, so that these are shared text."""
    return contexts is not None and len(contexts) > 1 and len(set(contexts)) == 1


def answer_tokens(lm: FrozenLM, answer: str) -> tuple[int, ...]:
    """Token ids of an answer; see :meth:`FrozenLM.answer_tokens`."""
    tokens = lm.tokenize(answer if answer[:1].isspace() else " " + answer)
    if not tokens or not answer.strip():
        raise DataError("An answer has no tokens", got=repr(answer))
    return tokens


def end_tokens(lm: FrozenLM) -> set[int]:
    """The model's own tokens that end an answer."""
    ends = lm.model.generation_config.eos_token_id if lm.model.generation_config else None
    listed = ends if isinstance(ends, list) else [ends]
    return {int(end) for end in [*listed, lm.tokenizer.eos_token_id] if end is not None}
