"""Text to tokens: prompts as rows of token ids, answers as what follows them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import takewhile
from typing import TYPE_CHECKING

from transformers import PreTrainedTokenizerBase

from coldframe.errors import ConfigError, DataError
from coldframe.frozen.ports import Conditioning, Prompt
from coldframe.frozen.states import Row
from coldframe.tasks.task import END_OF_TEXT, END_OF_TURN, end_text

if TYPE_CHECKING:
    from coldframe.frozen.model import FrozenLM

Contexts = tuple[tuple[str, ...], ...]


def tokenize(lm: FrozenLM, text: str) -> tuple[int, ...]:
    """Token ids of a piece of text, without special tokens."""
    return tuple(lm.tokenizer(text, add_special_tokens=False).input_ids) if text else ()


def bos_of(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The token that stands before every prompt of a model; none, where it has none."""
    empty = tokenizer("").input_ids
    return tuple(empty[:1]) if empty and empty[0] == tokenizer.bos_token_id else ()


def prompt_rows(
    lm: FrozenLM, prompts: Sequence[Prompt], conditioning: Conditioning, reserves: Sequence[int]
) -> list[Row]:
    """Prompts (with their text contexts) as token ids; see :meth:`FrozenLM.rows`."""
    contexts = conditioning.contexts
    if contexts is not None and len(contexts) != len(prompts):
        raise ConfigError("Every prompt needs its contexts", got=len(contexts), expected=len(prompts))
    soft = 0 if conditioning.soft_tokens is None else conditioning.soft_tokens.shape[-2]
    room = lm.max_positions - soft - len(lm.bos)
    blocks = [list(texts) for texts in contexts] if contexts is not None else [[] for _ in prompts]
    texts, common = list(map(_text, prompts, blocks)), "".join(first_for_all(contexts))
    rows = []
    tokens = lm.tokenizer(texts, add_special_tokens=False).input_ids
    for prompt, context, ids, reserve in zip(prompts, blocks, tokens, reserves, strict=True):
        limit = room - reserve
        if len(ids) > limit:
            ids = _without_farthest(lm, prompt, context, limit)
        if len(ids) > limit:
            raise DataError(
                "A row is longer than the model's context",
                got=f"{len(ids) + lm.max_positions - limit} tokens in {prompt.query[:60]!r}",
                expected=f"at most {lm.max_positions}",
                fix="Shorten it, or skip such rows with --on-error skip.",
            )
        if not ids and not lm.bos:
            raise DataError("A prompt has no tokens", got=repr(prompt))
        rows.append(_row(lm, prompt.header + common, tuple(ids)))
    return rows


def _text(prompt: Prompt, blocks: Sequence[str]) -> str:
    return prompt.header + "".join(blocks) + prompt.query


def _without_farthest(lm: FrozenLM, prompt: Prompt, blocks: list[str], limit: int) -> tuple[int, ...]:
    """Tokens of a prompt without as many of its first blocks as it takes to fit; they are taken out of the list."""

    def tokens(dropped: int) -> tuple[int, ...]:
        return lm.tokenize(_text(prompt, blocks[dropped:]))

    dropped = bisect_left(range(len(blocks)), True, key=lambda dropped: len(tokens(dropped)) <= limit)
    ids = tokens(dropped)
    del blocks[:dropped]
    lm.dropped_contexts += dropped
    return ids


def _row(lm: FrozenLM, shared_text: str, ids: tuple[int, ...]) -> Row:
    """Tokens of a whole prompt, cut behind those that its shared text begins with whatever follows."""
    shared = _stable(lm.tokenizer, shared_text) if shared_text else ()
    if len(ids) > len(shared) and ids[: len(shared)] == shared:
        return Row(lm.bos + shared, ids[len(shared) :])
    return Row((), lm.bos + ids)  # the last token read is always a row's own


_GOES_ON = ("a", "1", ".", "\n", " a", "\u6771")
"""What may follow a text: a tokenizer may draw the text's last characters into a token with any of these."""


@lru_cache(maxsize=256)
def _stable(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    """The tokens that a text begins with whatever goes on from it."""
    rows = tokenizer([text + following for following in _GOES_ON], add_special_tokens=False).input_ids
    return tuple(ids[0] for ids in takewhile(lambda ids: len(set(ids)) == 1, zip(*rows, strict=False)))


def first_for_all(contexts: Contexts | None) -> tuple[str, ...]:
    """What several queries have in common at the beginning of their contexts, so that it is shared text.

    >>> first_for_all((("solved", "a", "b"), ("solved", "c")))
    ('solved',)
    """
    if contexts is None or len(contexts) < 2:
        return ()
    return tuple(blocks[0] for blocks in takewhile(lambda blocks: len({*blocks}) == 1, zip(*contexts, strict=False)))


# ---- answers and what ends them ---------------------------------------------------------------------------


def answer_tokens(lm: FrozenLM, answer: str, end: str = "") -> tuple[int, ...]:
    """Token ids of an answer and of what ends it; see :meth:`FrozenLM.answer_tokens`."""
    if not answer.strip():
        raise DataError("An answer has no tokens", got=repr(answer))
    text = (answer if answer[:1].isspace() else " " + answer) + end_text(end)
    # As it goes on from a word: some tokenizers put a blank before whatever stands first.
    word, both = lm.tokenize("a"), lm.tokenize("a" + text)
    ids = both[len(word) :] if both[: len(word)] == word else lm.tokenize(text)
    return ids + _own_end(lm, end)


def end_tokens(lm: FrozenLM, ends: Iterable[str] = ()) -> set[int]:
    """The model's own tokens that end an answer, and those that ``ends`` name beside them."""
    listed = lm.generation_config.eos_token_id if lm.generation_config else None
    tokens = {*(listed if isinstance(listed, list) else [listed]), lm.tokenizer.eos_token_id} - {None}
    return {int(token) for token in tokens}.union(*(_own_end(lm, end) for end in set(ends)))


def _own_end(lm: FrozenLM, end: str) -> tuple[int, ...]:
    """The model's own token that ``end`` names; none, where a text ends an answer."""
    if end == END_OF_TURN:
        return (_turn_end(lm.tokenizer),)
    if end != END_OF_TEXT:
        return ()
    if lm.tokenizer.eos_token_id is None:
        raise ConfigError(
            "This model's tokenizer has no end of text", fix="End answers with a text, such as a line break."
        )
    return (int(lm.tokenizer.eos_token_id),)


@lru_cache(maxsize=8)
def _turn_end(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that the chat template puts after the model's turn."""
    fix = "End answers with a text, such as a line break, or with '<end of text>'."
    if not tokenizer.chat_template:
        raise ConfigError("This model has no chat template, so nothing ends its turn", fix=fix)
    answer = "coldframe"
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}]
    after = str(tokenizer.apply_chat_template(turns, tokenize=False)).rpartition(answer)[2]
    ids = tokenizer(after.lstrip(), add_special_tokens=False).input_ids
    if not ids:
        raise ConfigError("This model's chat template does not end its turns", fix=fix)
    return int(ids[0])


def in_chat(lm: FrozenLM, text: str) -> str:
    """A user's turn in the tokenizer's chat template, up to where the model's turn begins.

    A BOS token at the front is left out only where the model puts it there itself: it may be the template's own mark
    (SmolLM2), which nothing would put back.
    """
    turns = [{"role": "user", "content": text}]
    prompt = str(lm.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    return prompt.removeprefix(lm.tokenizer.bos_token or "") if lm.bos else prompt
