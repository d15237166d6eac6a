"""The four ports of a frozen model, and the one thing that is put into them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Protocol

from torch import Tensor

from coldframe.errors import ConfigError

if TYPE_CHECKING:
    from coldframe.frozen.rotary import PositionScheme

Placement = Literal["prefix", "suffix"]


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A query as text: a header that many queries share, then the query itself.

    Attributes:
        query: Up to where the answer begins.
        header: Stands first.
        end: What ends an answer: a text (a line break), ``"<end of turn>"`` or ``"<end of text>"`` for the model's own
            token, or nothing.
    """

    query: str
    header: str = ""
    end: str = ""


@dataclasses.dataclass(frozen=True)
class LowRank:
    """A low-rank update of one linear: ``y = x W^T + scale * (x A^T) B^T``.

    Shapes:
        a: ``[r, in]`` for every row alike, or ``[batch, r, in]`` for one update per row.
        b: ``[out, r]`` or ``[batch, out, r]``.
    """

    a: Tensor
    b: Tensor
    scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class Conditioning:
    """What a method puts into a frozen model, for one batch of queries. Empty means the base model.

    Attributes:
        contexts: Text port. For every query the rendered exemplars or passages, *farthest first*; when the
            model's context is too short the first ones are dropped (and counted).
        soft_tokens: Soft-token port, ``[batch, m, d_model]``.
        placement: ``"prefix"`` puts the soft tokens after BOS and before all text; ``"suffix"`` after all
            text and before the answer.
        head_gains: Head-gain port, ``[layers, query_heads]``; 1 leaves a head as it is.
        deltas: Weight-delta port: module path (as in ``model.named_modules()``) to its low-rank update.
        positions: No port: rivals that read positions otherwise.
        attention: No port: how strongly each soft token looked at each exemplar, ``[batch, m, k]``, in the
            order the exemplars were given; for reports.
        scores: No port: log-scores of the labels, ``[batch, labels]``, of a method that asks no model.
    """

    contexts: tuple[tuple[str, ...], ...] | None = None
    soft_tokens: Tensor | None = None
    placement: Placement = "suffix"
    head_gains: Tensor | None = None
    deltas: Mapping[str, LowRank] = dataclasses.field(default_factory=dict)
    positions: PositionScheme | None = None
    attention: Tensor | None = None
    scores: Tensor | None = None

    @property
    def changes_backbone(self) -> bool:
        """Whether states of the text depend on this conditioning (so they cannot be shared)."""
        return self.head_gains is not None or bool(self.deltas) or self.positions is not None

    @property
    def copies(self) -> int:
        """Rows that every prompt is read as."""
        return 1 if self.positions is None else self.positions.copies

    def merge(self, other: Conditioning) -> Conditioning:
        """Ports of both; the same port filled twice is an error."""
        for port in ("contexts", "soft_tokens", "head_gains", "positions"):
            if getattr(self, port) is not None and getattr(other, port) is not None:
                raise ConfigError(f"Both conditionings fill the port {port!r}", fix="Compose different ports.")
        if both := set(self.deltas) & set(other.deltas):
            raise ConfigError("Both conditionings change the same weights", got=sorted(both)[0])
        soft = self if self.soft_tokens is not None else other
        return dataclasses.replace(
            soft,
            contexts=self.contexts if self.contexts is not None else other.contexts,
            head_gains=self.head_gains if self.head_gains is not None else other.head_gains,
            deltas={**self.deltas, **other.deltas},
            positions=self.positions if self.positions is not None else other.positions,
        )


class LanguageModel(Protocol):
    """What prediction needs of a model; ``FrozenLM`` is one here, a client of a server may be another."""

    def at_once(self, most: int) -> int:
        """How many queries may be read together, of at most so many."""
        ...

    def label_scores(
        self, prompts: Sequence[Prompt], words: Sequence[str], conditioning: Conditioning, *, choices: bool = False
    ) -> Tensor:
        """Log-scores of the answer words, ``[batch, len(words)]``, float32."""
        ...

    def generate(self, prompts: Sequence[Prompt], conditioning: Conditioning, *, max_new_tokens: int = 64) -> list[str]:
        """Greedy continuations, one string per prompt."""
        ...

    def answer(
        self,
        prompts: Sequence[Prompt],
        answers: Sequence[Sequence[str]],
        conditioning: Conditioning,
        *,
        max_new_tokens: int = 64,
    ) -> tuple[Tensor, list[str]]:
        """Losses of given answers, ``[batch, answers]``, and greedy continuations."""
        ...

    def answer_tokens(self, answer: str, end: str = "") -> tuple[int, ...]:
        """Token ids of an answer with what ends it, as its loss counts them."""
        ...


EMPTY = Conditioning()


def broadcast_rows(tensor: Tensor, batch: int) -> Tensor:
    """``[m, d]`` or ``[batch, m, d]`` to ``[batch, m, d]``, without copying."""
    return tensor.expand(batch, *tensor.shape) if tensor.dim() == 2 else tensor
