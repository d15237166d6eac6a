"""Corpora and fitted pipelines for the tests of methods that turn passages into weights, all with a tiny model."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import tiny
from torch import Tensor

from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import EMPTY, Conditioning
from coldframe.frozen.sequence_loss import TokenSequence, mean_nll
from coldframe.methods.base import Method
from coldframe.methods.config import MethodContext
from coldframe.methods.weight_deltas.adapters import Layout
from coldframe.methods.weight_deltas.passage_adapters import PassageAdapters
from coldframe.methods.weight_deltas.passage_sequences import PassageSequences, questions_by_passage
from coldframe.pipeline.fit import fit
from coldframe.pipeline.pipeline import Pipeline
from coldframe.tasks import load_task
from coldframe.tasks.task import Example, Passage, Task
from coldframe.training.trainer import Trainer


@functools.cache
def tiny_lm(architecture: str = "llama") -> FrozenLM:
    """Shared among tests, which is only right because nothing may change it."""
    return FrozenLM(*tiny(architecture))


@functools.cache
def facts(passages: int = 7) -> Task:
    """An invented corpus with three questions a passage."""
    return load_task(f"fact-corpus:{passages}")


def passages_of(task: Task) -> list[Passage]:
    return [entry for entry in task.store or () if isinstance(entry, Passage)]


def questions_of(task: Task) -> list[list[Example]]:
    by_passage = questions_by_passage(task)
    return [by_passage[passage.id] for passage in passages_of(task)]


def part(task: Task, first: int, last: int) -> Task:
    """The corpus with some of its passages, and the questions about all."""
    return dataclasses.replace(task, store=(task.store or ())[first:last])


def with_passages(task: Task, *passages: Passage, questions: Sequence[Example] = ()) -> Task:
    """The corpus with further passages, and questions about them."""
    return dataclasses.replace(task, store=(*(task.store or ()), *passages), train=(*task.train, *questions))


def trained_questions(task: Task) -> list[Example]:
    """The questions that adapters are trained on, as rows to be answered."""
    return [question for listed in questions_of(task) for question in listed]


def fitted(
    method: Method, lm: FrozenLM | None = None, task: Task | None = None, out: Path | None = None, **training: Any
) -> Pipeline:
    return fit(method, lm or tiny_lm(), task or facts(), training=training, out=out, quiet=True)


def adapters_of(pipeline: Pipeline, task: Task | None = None) -> Tensor:
    """The adapters of a corpus' passages, ``[passages, N]``; of the pipeline's store if None."""
    assert isinstance(pipeline.method, PassageAdapters)
    entries = pipeline.store.examples if task is None else passages_of(task)
    return pipeline.method.adapters.adapters([entry.id for entry in entries])


def sequences_of(lm: FrozenLM, task: Task, **settings: Any) -> list[list[TokenSequence]]:
    """The training sequences of every passage."""
    maker = PassageSequences(task.schema, **settings)
    return [
        maker.of(lm, passage, questions)
        for passage, questions in zip(passages_of(task), questions_of(task), strict=True)
    ]


def set_up(method: PassageAdapters, lm: FrozenLM | None = None, task: Task | None = None) -> PassageAdapters:
    return method.setup(MethodContext(lm or tiny_lm(), (task or facts()).schema))


def conditioning(layout: Layout, adapters: Tensor, scale: float) -> Conditioning:
    return Conditioning(deltas=layout.deltas(layout.factors(adapters), scale))


def loss_with(lm: FrozenLM, sequences: Sequence[TokenSequence], deltas: Conditioning = EMPTY) -> float:
    with torch.no_grad():
        return float(mean_nll(lm, sequences, deltas).mean())


def share_apart(ours: Tensor, theirs: Tensor) -> float:
    """Share of parameters that differ; where a gradient is nearly zero, Adam's sign of it is chance."""
    return float(((ours - theirs).abs() > 1e-4).float().mean())


def trained_problems(monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None) -> list[str]:
    """The names of the problems that are trained from now on, as they begin; the run is killed at the n-th."""
    train, names = Trainer.train, list[str]()

    def counting(self: Trainer) -> Any:
        if stop_at is not None and len(names) == stop_at:
            raise KeyboardInterrupt
        names.append(self.problem.name)
        return train(self)

    monkeypatch.setattr(Trainer, "train", counting)
    return names


def steps(monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None) -> list[int]:
    """The optimiser steps that are made from now on, by number; the run is killed before the n-th."""
    step, numbers = Trainer._step, list[int]()

    def counting(self: Trainer, group: Any, number: int) -> Any:
        if stop_at is not None and len(numbers) == stop_at:
            raise KeyboardInterrupt
        numbers.append(number)
        return step(self, group, number)

    monkeypatch.setattr(Trainer, "_step", counting)
    return numbers
