"""Published sets of questions with passages, and how such a question is put to a model."""

from __future__ import annotations

from coldframe.tasks.qa.prompt import PromptText, QAPrompt
from coldframe.tasks.qa.read import READERS

__all__ = [
    "READERS",
    "PromptText",
    "QAPrompt",
]
