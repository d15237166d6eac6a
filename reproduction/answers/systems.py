"""What answers: a frozen model with or without gains on its heads, or anything that continues prompts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from coldframe.errors import DataError
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Conditioning, Prompt
from coldframe.tasks.task import content_hash

STOP = "\n"  # ends an answer
Targets: TypeAlias = Sequence[Sequence[str]]  # of each prompt the right answer, and as many wrong ones as of the next


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a system said, and how likely it found the right answer.

    Attributes:
        text: Its first line that is not blank; None if nothing was to be written.
        loss: ``-1/T sum_t log p(a_t | a_<t, prompt)`` of the right answer's T tokens, nats; None if it cannot be had.
        among: ``sum_t log p(a_t | a_<t, prompt)`` of the right answer and of the wrong ones beside it; None if there
            are none, or if it cannot be had.
    """

    text: str | None
    loss: float | None
    among: list[float] | None = None


class System(Protocol):
    """Something that answers prompts.

    Attributes:
        name: In tables; several with one name are several seeds of it.
        seed: Which of these.
        fingerprint: Changes with everything that its answers depend on.
        copies: How often it reads every prompt at once.
    """

    name: str
    seed: int
    fingerprint: str
    copies: int

    def answer(self, prompts: Sequence[str], targets: Targets, max_new_tokens: int) -> list[Answer]:
        """Answers to prompts of like length; with ``max_new_tokens`` 0 only the losses of the targets."""
        ...


class LMSystem:
    """A frozen model, with gains on its heads if given.

    Args:
        lm: The model.
        name: In tables.
        gains: ``[layers, query_heads]``.
        seed: Which seed the gains are of.
    """

    copies = 1

    def __init__(self, lm: FrozenLM, name: str = "base", gains: Tensor | None = None, seed: int = 0) -> None:
        self.lm, self.name, self.seed = lm, name, seed
        self.gains = None if gains is None else gains.float().to(lm.device)
        values = "" if gains is None else repr(gains.float().flatten().tolist())
        self.fingerprint = content_hash(lm.weight_hash, str(lm.dtype), values)

    @torch.no_grad()
    def answer(self, prompts: Sequence[str], targets: Targets, max_new_tokens: int) -> list[Answer]:
        """Every prompt is read once, for the answer and for the losses of the targets."""
        empty, put = [Prompt("")] * len(prompts), self.put(prompts)
        dropped = self.lm.dropped_contexts
        losses, texts = self.lm.answer(empty, targets, put, max_new_tokens=max_new_tokens, stop=(STOP,))
        if self.lm.dropped_contexts > dropped:
            limit = self.lm.anatomy.max_positions
            raise DataError("A prompt is longer than the model's context", expected=f"at most {limit} with its answer")
        sizes = [len(self.lm.answer_tokens(target[0])) for target in targets]
        return [
            Answer(text.strip() if max_new_tokens else None, row[0] / n, [-loss for loss in row] if row[1:] else None)
            for text, row, n in zip(texts, losses.tolist(), sizes, strict=True)
        ]

    def put(self, prompts: Sequence[str]) -> Conditioning:
        """Prompts as the text port takes them: read whole and not kept, which for long ones would fill the memory."""
        return Conditioning(contexts=tuple((prompt,) for prompt in prompts), head_gains=self.gains)


class CallableSystem:
    """Anything that continues prompts greedily, such as a rival method.

    Args:
        name: In tables.
        generate: From prompts and the most new tokens to one text each.
        fingerprint: Of the model and all settings: answers kept under it are not asked for again.
        seed: Which seed it is.
        loss: From prompts and right answers to the mean loss of an answer's tokens, if that can be had.
        copies: How often it reads every prompt at once; batches are so much smaller.
    """

    def __init__(
        self,
        name: str,
        generate: Callable[[list[str], int], list[str]],
        fingerprint: str,
        seed: int = 0,
        loss: Callable[[list[str], list[str]], list[float]] | None = None,
        copies: int = 1,
    ) -> None:
        self.name, self.generate, self.fingerprint, self.seed = name, generate, fingerprint, seed
        self.loss, self.copies = loss, copies

    def answer(self, prompts: Sequence[str], targets: Targets, max_new_tokens: int) -> list[Answer]:
        """The first line of each text that is not blank; wrong answers are not asked about.

        Raises:
            DataError: If there is not one text for each prompt.
        """
        inputs = list(prompts)
        losses: Sequence[float | None] = [None] * len(inputs)
        if self.loss is not None:
            losses = self.loss(inputs, [target[0] for target in targets])
        if not max_new_tokens:
            return [Answer(None, loss) for loss in losses]
        texts: Any = self.generate(inputs, max_new_tokens)
        if len(texts) != len(prompts) or not all(isinstance(text, str) for text in texts):
            problem = f"{self.name} does not give one text for each prompt"
            raise DataError(problem, got=len(texts), expected=len(prompts))
        lines = [text.lstrip().split(STOP)[0].strip() for text in texts]
        return [Answer(line, loss) for line, loss in zip(lines, losses, strict=True)]
