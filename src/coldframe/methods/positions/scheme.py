"""What the rivals of PEAR that change positions are: another attention in the same frozen model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import DynamicCache

from coldframe.config import Config, check
from coldframe.errors import ConfigError
from coldframe.frozen import generation
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Prompt
from coldframe.frozen.rotary import Heads, Rotary
from coldframe.frozen.states import Prefilled


class PositionScheme(ABC):
    """A frozen rotary model that is read with other positions. A subclass is one file: a config and ``attend``.

    The model is changed only while a call runs: between calls it is the base model, to the bit. Nothing is kept from
    one call to the next either.

    Args:
        lm: The model.
        config: Settings; or pass them by name.

    Raises:
        ModelError: If the model's positions are not rotary.

    Class attributes:
        paper: Where it comes from.
        config_class: Its settings.
    """

    paper: ClassVar[str]
    config_class: ClassVar[type[Config]]
    config: Any
    copies: int = 1  # rows that every prompt is read as

    def __init__(self, lm: FrozenLM, config: Config | None = None, **settings: Any) -> None:
        if config is not None and settings:
            raise ConfigError("Pass a config or settings by name, not both", got=sorted(settings))
        self.lm, self.rotary = lm, Rotary(lm.anatomy)
        self.config = config if config is not None else self.config_class.from_dict(settings)

    @abstractmethod
    def attend(self, at: Heads) -> Tensor:
        """The output of a layer's heads, ``[batch, heads, Q, d]``."""

    def mix(self, logits: Tensor) -> Tensor:
        """Logits of a prompt out of those of its copies: ``[batch * copies, ..., vocab] -> [batch, ..., vocab]``."""
        return logits

    @torch.no_grad()
    def generate(self, prompts: Sequence[str], max_new_tokens: int = 64) -> list[str]:
        """Continue prompts greedily, with a cache.

        Args:
            prompts: Texts; the tokenizer's BOS is put first, as everywhere.
            max_new_tokens: At most this many tokens, at least 1.
        """
        check(max_new_tokens >= 1, "max_new_tokens must be at least 1", got=max_new_tokens)
        if not prompts:
            return []

        def choose(logits: Tensor) -> Tensor:  # one token for all copies of a prompt
            return self.mix(logits).argmax(-1).repeat_interleave(self.copies)

        with self.rotary.taken_over(self.attend):
            ready = self._read(prompts, max_new_tokens)
            copied = [Prompt(text) for text in prompts for _ in range(self.copies)]
            return generation.write(self.lm, ready, max_new_tokens, choose, copied)[:: self.copies]

    @torch.no_grad()
    def loss(self, prompts: Sequence[str], answers: Sequence[str]) -> Tensor:
        """Negative log-likelihood of each answer's tokens, summed, as :meth:`FrozenLM.loss` has it.

        Shapes:
            Returns ``[batch]``, float32.
        """
        tokens = [self.lm.answer_tokens(answer) for answer in answers]
        longest = max(map(len, tokens))
        ids = torch.tensor([row + (0,) * (longest - len(row)) for row in tokens], device=self.lm.device)
        real = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in tokens], device=self.lm.device)
        with self.rotary.taken_over(self.attend):
            ready = self._read(prompts, longest)
            hidden = ready.last.unsqueeze(1)
            if longest > 1:
                given, mask = (x.repeat_interleave(self.copies, dim=0) for x in (ids[:, :-1], real[:, 1:]))
                hidden = torch.cat((hidden, self.lm.follow(ready, self.lm.embed(given), mask)[0]), dim=1)
            found = self.mix(self.lm.head(hidden)).log_softmax(-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)
        return -(found * real).sum(-1)

    @torch.no_grad()
    def next_logits(self, prompts: Sequence[str]) -> Tensor:
        """Logits of the token after each prompt.

        Shapes:
            Returns ``[batch, vocab]``, float32.
        """
        with self.rotary.taken_over(self.attend):
            return self.mix(self.lm.head(self._read(prompts).last))

    def logits(self, ids: Tensor) -> Tensor:
        """Logits at every token of rows of the same length, with a gradient where something is trained.

        Shapes:
            ids: ``[batch, tokens]``. Returns ``[batch, tokens, vocab]``, float32.
        """
        with self.rotary.taken_over(self.attend):
            ids = ids.to(self.lm.device).repeat_interleave(self.copies, dim=0)
            hidden = self.lm.body(inputs_embeds=self.lm.embed(ids), use_cache=False).last_hidden_state
            return self.mix(self.lm.head(hidden))

    def _read(self, prompts: Sequence[str], reserve: int = 0) -> Prefilled:
        """Each prompt in one pass, its copies beside each other, padded on the left."""
        rows = [row.shared + row.own for row in self.lm.rows([Prompt(text) for text in prompts], reserve=reserve)]
        rows = [row for row in rows for _ in range(self.copies)]
        lengths = torch.tensor([len(row) for row in rows], device=self.lm.device)
        longest = int(lengths.max())
        ids = torch.tensor([(0,) * (longest - len(row)) + row for row in rows], device=self.lm.device)
        mask = (torch.arange(longest, device=self.lm.device) >= longest - lengths[:, None]).long()
        embeds = self.lm.embed(ids)
        nothing = Prefilled(embeds[:, 0], DynamicCache(), mask[:, :0], torch.zeros_like(lengths))
        return self.lm.follow(nothing, embeds, mask)[1]
