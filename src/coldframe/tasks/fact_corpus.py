"""LEFTOVER: the invented corpus in the old classes, for packages that do not read tasks yet."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from coldframe.errors import ConfigError
from coldframe.tasks.builtin.fact_corpus import RELATIONS, fact_source, numbers_of
from coldframe.tasks.corpus import QA, Augmentation, Corpus, Passage, Question, source_of


@dataclasses.dataclass(frozen=True)
class FactCorpus:
    """A corpus, and the questions that it answers."""

    corpus: Corpus
    questions: tuple[Question, ...]


def fact_corpus(passages: int = 200, seed: int = 0, *, distractors: int = 0, two_facts: bool = True) -> FactCorpus:
    """See :func:`coldframe.tasks.builtin.fact_corpus.fact_source`."""
    source = fact_source(passages, seed, distractors=distractors, two_facts=two_facts)
    texts = [Passage.of(row.values["text"], row.values["title"]) for row in source.table.rows]
    ids = {passage.title: passage.id for passage in texts}
    given = {
        passage.id: Augmentation(row.values["rewrite"], tuple(QA(**qa) for qa in row.values["qa"]))
        for passage, row in zip(texts, source.table.rows, strict=True)
    }
    questions = tuple(
        Question.of(row.values["question"], [row.values["answer"]], [ids[title] for title in row.values["passages"]],
                    row.values["hops"])
        for row in (source.questions.rows if source.questions is not None else ())
    )  # fmt: skip
    corpus = Corpus(source.name, tuple(texts), given, source.notes, source_of(source.name, texts))
    return FactCorpus(corpus, questions)


def as_asked(spec: str) -> tuple[int, int] | None:
    """Passages and seed of ``fact-corpus[:PASSAGES[:SEED]]``; None for other names.

    >>> as_asked("fact-corpus:40"), as_asked("passages.jsonl")
    ((40, 0), None)
    """
    if spec.partition(":")[0] != "fact-corpus":
        return None
    try:
        passages, seed = numbers_of(spec)
    except ConfigError:
        return None
    return 200 if passages is None else passages, seed or 0


def spread(questions: Sequence[Question], count: int) -> tuple[Question, ...]:
    """As :func:`coldframe.tasks.corpora.spread`."""
    if count >= len(questions):
        return tuple(questions)
    step, rest = divmod(len(questions), count)
    return tuple(questions[i * len(questions) // count + (0 if rest else i % step)] for i in range(count))


__all__ = ["RELATIONS", "FactCorpus", "as_asked", "fact_corpus", "spread"]
