"""A store that grows: what is new is told by its content, and nothing foreign comes in."""

from __future__ import annotations

import dataclasses

import pytest
from tests.tiny import tiny

import coldframe as cf
from coldframe.errors import ConfigError, DataError
from coldframe.frozen.model import FrozenLM
from coldframe.tasks.task import Example, Passage, Schema, Task, Template

SCHEMA = Schema("t", labels=("No", "Yes"), words=("No", "Yes"), template=Template("{text}: {label}"), metric="accuracy")


def rows(*texts: str, labels: tuple[str, ...] = ("No", "Yes")) -> tuple[Example, ...]:
    return tuple(Example(text, labels[i % 2], f"log-{i:07d}", text, row=i) for i, text in enumerate(texts))


@pytest.fixture
def lm() -> FrozenLM:
    return FrozenLM(*tiny("llama"))


def test_rows_of_another_file_of_the_same_name_are_new_and_equal_ones_are_not(lm: FrozenLM) -> None:
    pipeline = cf.fit(cf.PromptTuning(tokens=1), lm, Task(SCHEMA, rows("a", "b"), (), ()), epochs=1, quiet=True)
    more = Task(SCHEMA, rows("x", "b", "y"), (), ())  # the ids of "a" and "b" again
    assert cf.grow(pipeline, more) == 2
    assert sorted(entry.text for entry in pipeline.store.examples) == ["a", "b", "x", "y"]
    assert len({entry.id for entry in pipeline.store.examples}) == 4
    assert cf.grow(pipeline, more) == 0
    assert pipeline.trained_keys == {"a", "b"}  # nothing was trained on the new ones


def test_another_task_is_refused(lm: FrozenLM) -> None:
    pipeline = cf.fit(cf.ZeroShot(), lm, Task(SCHEMA, rows("a", "b"), (), ()))
    other = dataclasses.replace(SCHEMA, labels=("Bad", "Good"), words=("Bad", "Good"))
    with pytest.raises(ConfigError, match="another task.*labels Bad, Good.*labels No, Yes"):
        cf.grow(pipeline, Task(other, rows("x", "y", labels=("Bad", "Good")), (), ()))
    assert len(pipeline.store) == 2


def test_a_passage_with_a_known_id_and_another_text_is_told(lm: FrozenLM) -> None:
    corpus = Task(dataclasses.replace(SCHEMA, kind="generation", labels=(), words=(), metric="token_f1"), (), (), (),
                  store=(Passage.of("It is red.", id="p1"),))  # fmt: skip
    pipeline = cf.fit(cf.RetrievedICL(k=1), lm, corpus)
    with pytest.raises(DataError, match="'p1' is in the store with another text"):
        cf.grow(pipeline, dataclasses.replace(corpus, store=(Passage.of("It is blue.", id="p1"),)))
