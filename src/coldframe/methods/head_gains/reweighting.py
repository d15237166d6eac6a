"""The result of a reweighting: which heads, by how much, and how they were found."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from coldframe.methods.head_gains.discovery import Effects


@dataclasses.dataclass(frozen=True)
class Reweighting:
    """A model's gains, and how they were found.

    Attributes:
        heads: The chosen heads, ``(layer, head)``, those of the highest effect first.
        effects: Of all heads.
        gains: ``[layers, query_heads]``, 1 for a head that was not chosen.
        history: One record for each look at the held-out sequences: ``step`` (0 is the base model),
            ``validation_loss`` in nats a token, and the mean ``train_loss`` since the last look. There is none for
            gains that were given and not trained.
    """

    heads: tuple[tuple[int, int], ...]
    effects: Effects
    gains: Tensor
    history: tuple[dict[str, float], ...] = ()

    @property
    def loss_before(self) -> float | None:
        """Held-out loss of the base model."""
        return self.history[0]["validation_loss"] if self.history else None

    @property
    def loss_after(self) -> float | None:
        """Held-out loss with the gains."""
        return min(record["validation_loss"] for record in self.history[1:]) if self.history[1:] else None
