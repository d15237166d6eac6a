"""How right a written answer is: by its words, or as a model says that judges it."""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from typing import Protocol

from coldframe.errors import ConfigError, ModelError, nearest
from coldframe.inference.client import Client
from coldframe.tasks.text_metrics import TEXT_METRICS

#: Scores by words, each between 0 and 1 for a question.
METRICS = ("token_f1", "contains", "exact_match")

_THOUGHTS = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)
_JUDGE = """You grade an answer to a question against the right answers.

Question: {question}
Right answers: {accepted}
Answer to grade: {written}

Does the answer to grade say the same as one of the right answers? Reply with one word, yes or no."""


class Grader(Protocol):
    """Scores written answers.

    Attributes:
        name: Among others, it names what stored losses depend on.
        title: As reports show it.
    """

    name: str
    title: str

    def __call__(
        self, question: str, written: str, accepted: Sequence[str], stop: threading.Event | None = None
    ) -> float:
        """Between 0 (wrong) and 1 (right)."""
        ...


class WordGrader:
    """A score by words: ``"token_f1"``, ``"contains"`` or ``"exact_match"``.

    >>> grade = WordGrader("contains")
    >>> grade("Where?", "<think>Oslo?</think> In Rome.", ["Rome", "Roma"])
    1.0
    """

    def __init__(self, name: str) -> None:
        if name not in METRICS:
            raise ConfigError(f"Unknown metric {name!r}", fix=nearest(name, METRICS))
        self.name, self.title = name, TEXT_METRICS[name].title

    def __call__(
        self, question: str, written: str, accepted: Sequence[str], stop: threading.Event | None = None
    ) -> float:
        """The best score over the right answers; what a model thinks aloud is no answer."""
        return float(TEXT_METRICS[self.name].statistics([_THOUGHTS.sub("", written)], [accepted])[0, 0])


class Judge:
    """A model that says whether an answer is right: 1 or 0, from its first word, yes or no.

    Args:
        client: The server and model that judges.

    Raises:
        ModelError: It says neither yes nor no.
    """

    title = "judged right"

    def __init__(self, client: Client) -> None:
        self.client, self.name = client, f"judge {client.url} {client.model}"

    def __call__(
        self, question: str, written: str, accepted: Sequence[str], stop: threading.Event | None = None
    ) -> float:
        """Ask it once."""
        written = _THOUGHTS.sub("", written).strip()
        if not written:
            return 0.0
        prompt = _JUDGE.format(question=question, accepted="; ".join(accepted), written=written)
        reply = _THOUGHTS.sub("", self.client.chat(prompt, {"temperature": 0, "max_tokens": 512}, stop))
        word = re.search(r"[^\W\d_]+", reply)
        if word is None or word[0].casefold() not in ("yes", "no"):
            raise ModelError(
                "The judge says neither yes nor no", got=repr(reply[:80]), fix="Take a model that follows instructions."
            )
        return float(word[0].casefold() == "yes")


def grader(metric: str | Grader) -> Grader:
    """The grader of a name; a grader as it is."""
    return WordGrader(metric) if isinstance(metric, str) else metric
