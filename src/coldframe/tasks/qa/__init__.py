"""Questions with accepted answers and passages beside them: their files, and how they are put to a model."""

from __future__ import annotations

from coldframe.tasks.qa.prompt import QAPrompt, Told
from coldframe.tasks.qa.question import Passage, Question, answered_by
from coldframe.tasks.qa.read import READERS, read_questions, write_questions

__all__ = ["READERS", "Passage", "QAPrompt", "Question", "Told", "answered_by", "read_questions", "write_questions"]
