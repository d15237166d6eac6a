"""Published sets of questions with passages, and how such a question is put to a model."""

from __future__ import annotations

from reproduction.question_sets.prompt import PromptText, QAPrompt
from reproduction.question_sets.read import READERS

__all__ = [
    "READERS",
    "PromptText",
    "QAPrompt",
]
