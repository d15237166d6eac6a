"""The settings that all methods share that turn passages into adapters."""

from __future__ import annotations

import dataclasses
from typing import Literal, TypeAlias

from coldframe.methods.config import MethodConfig
from coldframe.methods.weight_deltas.passage_sequences import Form, Loss

Combination: TypeAlias = Literal["auto", "rows", "sum", "mean", "average-factors", "ties"]


@dataclasses.dataclass(frozen=True)
class AdapterConfig(MethodConfig):
    """Adapters of passages: their shape, what they are trained on, and how several become one.

    Args:
        k: Passages whose adapters are put into the model for a query, at least 1; the papers have 3. Adapters that were
            trained apart disturb each other when they are combined: three took PRAG from 73 to 32 (F1, 72 questions
            about invented facts).
        rank: r, at least 1.
        alpha: Scale numerator, above 0: updates are scaled by ``alpha / r``.
        targets: Which linears: ``"mlp"`` (the papers'), ``"attention"`` or ``"all"``.
        form: Of the sequences: ``"published"``, or ``"closed-book"``; see
            :class:`coldframe.methods.weight_deltas.passage_sequences.PassageSequences`.
        loss: Tokens that count: of the whole ``"sequence"`` (the papers'), or of the ``"answer"``.
        full_answers: Train on whole sentences as answers, where there are some.
        combine: How the adapters of several passages become one; ``auto`` is ``sum`` for PRAG, ``rows`` for Poly-PRAG
            and ``average-factors`` for DyPRAG.
        source: Which adapters a query gets: those of passages ``retrieved`` for it, or as a control those of as many
            ``others`` of the store, drawn by the query's text.
        stored: dtype of the stored adapters; training is in float32.
        skip_unusable: Leave out passages that have no questions or do not fit into the context; else they are errors,
            unless the task was loaded with ``on_error="skip"``.
    """

    section = "adapter settings"
    at_least = {"k": 1, "rank": 1}
    above = {"alpha": 0}

    k: int = 1
    rank: int = 2
    alpha: float = 32.0
    targets: Literal["all", "attention", "mlp"] = "mlp"
    form: Form = "closed-book"
    loss: Loss = "answer"
    full_answers: bool = False
    combine: Combination = "auto"
    source: Literal["retrieved", "others"] = "retrieved"
    stored: Literal["bfloat16", "float32"] = "bfloat16"
    skip_unusable: bool = False

    @property
    def scale(self) -> float:
        """``alpha / r``."""
        return self.alpha / self.rank
