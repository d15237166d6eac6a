"""A text as a turn of a chat."""

from __future__ import annotations

from coldframe.frozen.model import FrozenLM


def in_chat(lm: FrozenLM, text: str) -> str:
    """A user's turn in the tokenizer's chat template, up to where the model's turn begins.

    A BOS token at the front is left out only where the model puts it there itself: it may be the template's own mark
    (SmolLM2), which nothing would put back.
    """
    turns = [{"role": "user", "content": text}]
    prompt = str(lm.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    return prompt.removeprefix(lm.tokenizer.bos_token or "") if lm.bos else prompt
