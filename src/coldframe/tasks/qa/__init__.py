"""Published sets of questions with passages, and how such a question is put to a model."""

from __future__ import annotations

from coldframe.tasks.qa.prompt import PromptText, QAPrompt
from coldframe.tasks.qa.question import Passage, Question, answered_by, questions_of, read_questions, write_questions
from coldframe.tasks.qa.read import READERS

__all__ = [
    "READERS",
    "Passage",
    "PromptText",
    "QAPrompt",
    "Question",
    "answered_by",
    "questions_of",
    "read_questions",
    "write_questions",
]
