"""Texts that a server writes, ended where :func:`coldframe.frozen.generation.write` ends them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from coldframe.config import check
from coldframe.frozen.generation import before_marks, check_sampling, end_marks
from coldframe.frozen.ports import Conditioning, Prompt
from coldframe.frozen.tokens import end_tokens
from coldframe.serving.wire import Question, Span

if TYPE_CHECKING:
    from coldframe.serving.remote import RemoteLM


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a text is written; see :meth:`FrozenLM.generate`."""

    max_new_tokens: int
    temperature: float
    top_p: float
    stop: tuple[str, ...]
    seed: int

    def __post_init__(self) -> None:
        check(
            self.max_new_tokens >= 1, "max_new_tokens is out of range", got=self.max_new_tokens, expected="at least 1"
        )
        check_sampling(self.temperature, self.top_p)


@dataclasses.dataclass
class _Text:
    """A text while it is written.

    A mark in the blanks before the first word ends nothing, but the server stops at it: then it is asked to go on.
    """

    lm: RemoteLM
    span: Span
    query: int
    settings: Settings
    ends: frozenset[int]
    marks: tuple[str, ...]
    tokens: list[int] = dataclasses.field(default_factory=list)
    text: str = ""
    done: bool = False

    def question(self) -> Question:
        settings = self.settings
        return Question(
            self.span.then(self.tokens), self.query, (), settings.max_new_tokens - len(self.tokens),
            settings.temperature, settings.top_p, settings.seed + self.query, self.marks, tuple(sorted(self.ends)),
        )  # fmt: skip

    def add(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            if self.done or token in self.ends:
                self.done = True
                return
            self.tokens.append(token)
            self.text = self.lm.decode(self.tokens)
            if self.marks:
                self.text, self.done = before_marks(self.text.lstrip(), self.marks)
            self.done = self.done or len(self.tokens) >= self.settings.max_new_tokens

    def certain(self) -> str:
        """The text without what the tokens to come may change: half a character, half a mark."""
        if self.done:
            return self.text
        text = self.text.rstrip("\ufffd")
        held = [n for mark in self.marks for n in range(1, len(mark)) if text.endswith(mark[:n])]
        return text[: len(text) - max(held, default=0)]


def generate(lm: RemoteLM, prompts: Sequence[Prompt], conditioning: Conditioning, settings: Settings) -> list[str]:
    """Continuations of prompts; see :meth:`FrozenLM.generate`."""
    texts = _begun(lm, prompts, conditioning, settings)
    while still := [text for text in texts if not text.done]:
        for text, reply in zip(still, lm.backend.ask([text.question() for text in still]), strict=True):
            before = len(text.tokens)
            text.add(reply.tokens)
            text.done = text.done or len(text.tokens) == before  # nothing more will come
    return [text.text for text in texts]


def stream(lm: RemoteLM, prompt: Prompt, conditioning: Conditioning, settings: Settings) -> Iterator[str]:
    """The same for one prompt, piece by piece."""
    (text,) = _begun(lm, [prompt], conditioning, settings)
    sent = 0
    while not text.done:
        before = len(text.tokens)
        with closing(lm.backend.stream(text.question())) as pieces:
            for tokens in pieces:
                text.add(tokens)
                if piece := text.certain()[sent:]:
                    sent += len(piece)
                    yield piece
                if text.done:
                    break
        text.done = text.done or len(text.tokens) == before
    if piece := text.text[sent:]:
        yield piece


def _begun(lm: RemoteLM, prompts: Sequence[Prompt], conditioning: Conditioning, settings: Settings) -> list[_Text]:
    ready = lm.spans(prompts, conditioning, settings.max_new_tokens)
    ends = frozenset(end_tokens(lm, (prompt.end for prompt in prompts)))
    return [
        _Text(lm, span, query, settings, ends, end_marks(prompt, settings.stop))
        for query, (span, prompt) in enumerate(zip(ready, prompts, strict=True))
    ]
