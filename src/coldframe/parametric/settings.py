"""How questions are put to an encoded corpus."""

from __future__ import annotations

import dataclasses
from typing import Literal, TypeAlias

from coldframe.config import Config, check

Mode: TypeAlias = Literal["parameters", "passages", "both", "closed-book"]
Combination: TypeAlias = Literal["auto", "rows", "sum", "mean", "average-factors", "ties"]
Routing: TypeAlias = Literal["learned", "uniform", "random"]
Cut: TypeAlias = Literal["line", "published"]


@dataclasses.dataclass(frozen=True)
class AskConfig(Config):
    """How questions are answered.

    Args:
        mode: Where the retrieved passages go: into the ``parameters``, as ``passages`` into the prompt (text RAG),
            ``both``, or nowhere (``closed-book``).
        k: Passages retrieved per question, at least 1; the papers have 3. Adapters that were trained apart disturb each
            other when they are combined: three took PRAG from 73 to 32 (F1, 72 questions about invented facts).
        combine: How the adapters of several passages become one; ``auto`` is ``sum`` for PRAG, ``rows`` for Poly-PRAG
            and ``average-factors`` for DyPRAG.
        routing: ``learned``, or a control: ``uniform`` or ``random``.
        swapped: A control: every question gets the adapters of passages that were not retrieved for it, if possible
            another question's (the prompt is not touched). If answers are as good, they did not come from the weights.
        similarity: ``bm25``, or ``cosine`` of sentence vectors.
        cut: Where an answer ends: with its ``line``, or as ``published``; see
            :func:`coldframe.tasks.text_metrics.published_answer`, which damages answers with a full stop or a comma.
        max_new_tokens: Of an answer, at least 1.
        batch_size: Questions at a time, at least 1.
    """

    section = "settings of an answer"

    mode: Mode = "parameters"
    k: int = 1
    combine: Combination = "auto"
    routing: Routing = "learned"
    swapped: bool = False
    similarity: Literal["bm25", "cosine"] = "bm25"
    cut: Cut = "line"
    max_new_tokens: int = 20
    batch_size: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("k", "max_new_tokens", "batch_size"):
            check(getattr(self, name) >= 1, f"{name} must be positive", got=getattr(self, name), expected="at least 1")
