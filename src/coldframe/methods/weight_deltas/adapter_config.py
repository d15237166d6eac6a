"""What all methods that turn passages into adapters are told."""

from __future__ import annotations

import dataclasses
from typing import Literal

from coldframe.config import Config, check
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.sequence_loss import TokenSequence
from coldframe.methods.weight_deltas.passage_prompts import Form, Loss, PassagePrompts
from coldframe.tasks.corpus import Augmentation, Passage


@dataclasses.dataclass(frozen=True)
class AdapterConfig(Config):
    """Adapters of passages: their shape, what they are trained on, and how fast.

    Args:
        rank: r, at least 1.
        alpha: Scale numerator, above 0: updates are scaled by ``alpha / r``.
        targets: Which linears: ``"mlp"`` (the papers'), ``"attention"`` or ``"all"``.
        learning_rate: Of AdamW, above 0.
        weight_decay: Of AdamW, at least 0.
        epochs: Passes over the sequences, at least 1.
        form: Of the sequences: ``"published"``, or ``"closed-book"``; see :class:`PassagePrompts`.
        loss: Tokens that count: of the whole ``"sequence"`` (the papers'), or of the ``"answer"``.
        full_answers: Train on whole sentences as answers, where there are some.
        seed: Of all that is drawn.
    """

    rank: int = 2
    alpha: float = 32.0
    targets: Literal["all", "attention", "mlp"] = "mlp"
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    epochs: int = 6
    form: Form = "closed-book"
    loss: Loss = "answer"
    full_answers: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rank", "epochs"):
            check(getattr(self, name) >= 1, f"{name} must be positive", got=getattr(self, name), expected="at least 1")
        for name in ("alpha", "learning_rate"):
            check(getattr(self, name) > 0, f"{name} must be positive", got=getattr(self, name))
        check(self.weight_decay >= 0, "weight_decay cannot be negative", got=self.weight_decay)

    @property
    def scale(self) -> float:
        """``alpha / r``."""
        return self.alpha / self.rank

    @property
    def prompts(self) -> PassagePrompts:
        """How passages become sequences."""
        return PassagePrompts(self.form, self.loss, self.full_answers)

    def sequences_of(self, lm: FrozenLM, passage: Passage, augmentation: Augmentation) -> list[TokenSequence]:
        """What is trained on for a passage."""
        return self.prompts.of(lm, passage, augmentation)
