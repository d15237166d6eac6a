"""Writing answers token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from coldframe.errors import ConfigError
from coldframe.frozen.ports import Prompt
from coldframe.frozen.scoring import check_finite, next_logits
from coldframe.frozen.states import Prefilled
from coldframe.frozen.tokens import end_tokens
from coldframe.tasks.task import end_text

if TYPE_CHECKING:
    from coldframe.frozen.model import FrozenLM
    from coldframe.frozen.rotary import PositionScheme

Choose = Callable[[Tensor], Tensor]

_LIKELY = 256
"""The likeliest tokens, among which those that hold ``top_p`` are looked for first."""


def write(
    lm: FrozenLM,
    ready: Prefilled,
    max_new_tokens: int,
    choose: Choose,
    prompts: Sequence[Prompt],
    stop: Sequence[str] = (),
    positions: PositionScheme | None = None,
) -> list[str]:
    """Continue prompts that were read, token by token, until each answer has ended; to be called within ``ports``.

    A model's own end tokens end an answer, and so do the prompt's end and the texts of ``stop``, which are cut off.
    Blanks before the first word do not belong to an answer that a text may end: a line break there ends nothing.
    ``positions`` is how the prompts were read, if not as the model does: the chosen token goes to all their copies.
    """
    ends = end_tokens(lm, (prompt.end for prompt in prompts))
    marks = [end_marks(prompt, stop) for prompt in prompts]
    written: list[list[int]] = [[] for _ in prompts]
    texts = [""] * len(prompts)
    open_rows = set(range(len(prompts)))
    for step in range(max_new_tokens):
        logits = next_logits(lm, ready.last, positions)
        if not step:  # broken weights show at once
            check_finite(logits.amax(-1), "scores of the first token")
        chosen = choose(logits)
        tokens = chosen.tolist()  # of a GPU at once: each number taken alone would wait for it anew
        for i in sorted(open_rows):
            if tokens[i] in ends:
                open_rows.discard(i)
                continue
            written[i].append(tokens[i])
            texts[i] = lm.decode(written[i])
            if marks[i]:
                texts[i], ended = before_marks(texts[i].lstrip(), marks[i])
                open_rows -= {i} if ended else set()
        if not open_rows or step + 1 == max_new_tokens:
            break
        following = chosen.repeat_interleave(len(ready) // len(prompts))
        ready = lm.follow(ready, lm.embed(following.unsqueeze(1)))[1]
    return texts


def greedy(logits: Tensor) -> Tensor:
    """The likeliest token of each row."""
    return logits.argmax(-1)


def sampler(temperature: float, top_p: float, seed: int, device: torch.device) -> Choose:
    """How the next tokens are drawn: the likeliest ones at temperature 0, else at random."""
    check_sampling(temperature, top_p)
    generator = torch.Generator(device).manual_seed(seed)
    return greedy if temperature == 0 else lambda logits: sample(logits, temperature, top_p, generator)


def check_sampling(temperature: float, top_p: float) -> None:
    """Raise unless there is something to draw from."""
    if temperature < 0 or not 0 < top_p <= 1:
        raise ConfigError(
            "Generation settings are out of range",
            got=f"temperature={temperature}, top_p={top_p}",
            expected="temperature >= 0, 0 < top_p <= 1",
        )


def sample(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> Tensor:
    """The next token of each row, drawn from the smallest set of tokens that holds ``top_p``."""
    probabilities = (logits.float() / temperature).softmax(-1)
    for count in (_LIKELY, probabilities.shape[-1]):  # sorting them all takes longer than a pass of a small model
        likeliest, order = probabilities.topk(min(count, probabilities.shape[-1]))
        if bool((likeliest.sum(-1) >= top_p).all()):
            break
    shares = likeliest * (likeliest.cumsum(-1) - likeliest < top_p)
    return order.gather(-1, torch.multinomial(shares, 1, generator=generator)).squeeze(-1)


def end_marks(prompt: Prompt, stop: Sequence[str]) -> tuple[str, ...]:
    """Texts that end an answer to a prompt."""
    return tuple(filter(None, (*stop, end_text(prompt.end))))


def before_marks(text: str, marks: Sequence[str]) -> tuple[str, bool]:
    """What stands before the first of the marks, and whether there is one."""
    places = [text.find(mark) for mark in marks if mark in text]
    return (text[: min(places)], True) if places else (text, False)
