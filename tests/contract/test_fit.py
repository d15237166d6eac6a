"""Contracts on fitting and artifacts, for every method: frozen stays frozen, what is saved is what comes back."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from tests.contract.cases import (
    FITTED,
    METHODS,
    ON_ROWS,
    QUERIES,
    TWO,
    WRITE,
    Case,
    corpus,
    ids,
    lm_of,
    task,
    task_of,
    tiny_encoder,
)
from tests.tiny import tiny
from torch import nn

from coldframe.errors import ConfigError, TrainingError
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.model_sources import weight_hash
from coldframe.frozen.ports import Conditioning
from coldframe.methods.base import Method
from coldframe.methods.config import MethodContext
from coldframe.pipeline.fit import fit
from coldframe.pipeline.pipeline import Pipeline, load
from coldframe.retrieval.retriever import RetrievalConfig
from coldframe.retrieval.store import Retrieved
from coldframe.tasks.task import Task
from coldframe.training.config import TrainingConfig

RETRIEVAL = RetrievalConfig(encoder="tiny")
SHORT = TrainingConfig(epochs=1, batch_size=4, warmup=0.0, seed=5)


def fitted(method: Method, lm: FrozenLM, on: Task | None = None, **options: Any) -> Pipeline:
    settings: dict[str, Any] = {"retrieval": RETRIEVAL, "training": SHORT, "quiet": True, **options}
    return fit(method, lm, on or task(), **settings)


def untrained(case: Case, lm: FrozenLM) -> Method:
    """As it was when ``fit`` began."""
    method = case.method()
    encoder = tiny_encoder(getattr(method.config, "encoder", "tiny")) if method.uses_encoder else None
    return method.setup(MethodContext(lm, TWO, encoder), SHORT.seed)


def answers(pipeline: Pipeline) -> Any:
    """Label probabilities, or what is written."""
    if pipeline.schema.kind == "classification":
        return pipeline.predict_proba(QUERIES).tolist()
    return pipeline.predict(QUERIES)


@pytest.mark.slow
@pytest.mark.parametrize(("case", "architecture"), FITTED, ids=ids(FITTED))
def test_fitting_trains_the_method_and_nothing_else_and_survives_saving(
    case: Case, architecture: str, tmp_path: Path
) -> None:
    lm, on = lm_of(architecture), task_of(case)
    before = weight_hash(lm.model)
    pipeline = fitted(case.method(), lm, on)
    assert weight_hash(lm.model) == before
    assert not any(p.requires_grad or p.grad is not None for p in lm.model.parameters())
    if not pipeline.method.needs_passages:  # whose weights are in files
        start = untrained(case, lm).state_dict()
        still = {name for name, weight in pipeline.method.state_dict().items() if torch.equal(weight, start[name])}
        assert {name.rpartition("parts.")[2].partition(".")[2] or name for name in still} <= {
            "key.bias",
            "0.key.bias",
            "clean",
        }
    assert pipeline.method.trained_parameters > 0
    pipeline.save_pretrained(tmp_path)
    again = load(tmp_path, lm)
    assert answers(again) == answers(pipeline)
    assert again.predict(QUERIES) == pipeline.predict(QUERIES)
    assert (again.schema, again.history) == (pipeline.schema, pipeline.history)
    assert dataclasses.replace(again.schema, solved=()) == on.schema
    # Rows leave the process only where the method retrieves from them.
    assert pipeline.method.uses_retrieval or not again.schema.solved
    assert again.store.examples == (pipeline.store.examples if pipeline.method.uses_retrieval else ())
    suffixes = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert suffixes == {".json", ".safetensors", ".jsonl", ".md"}


KINDS = {"corpus": corpus(), "labels with passages": corpus(TWO)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", [c for c in METHODS if "/" not in c.id], ids=lambda case: case.id)
def test_every_method_takes_a_corpus_and_labelled_rows_with_passages(case: Case, kind: str, tmp_path: Path) -> None:
    lm = lm_of("llama")
    pipeline = fitted(case.method(), lm, KINDS[kind], out=tmp_path)
    again = load(tmp_path, lm)
    assert answers(again) == answers(pipeline)
    assert again.store.examples == (pipeline.store.examples if pipeline.method.uses_retrieval else ())


@pytest.mark.parametrize("name", ["prag", "poly-prag", "dyprag", "icl+prag"])
def test_a_method_that_needs_passages_says_so(name: str) -> None:
    with pytest.raises(ConfigError, match="turns passages into weights.*--store"):
        fitted(Case(name, name, {}).method(), lm_of("llama"))


@pytest.mark.parametrize("name", ["zero-shot", "icl", "icl-fixed"])
def test_methods_without_parameters_are_fitted_saved_and_loaded_too(name: str, tmp_path: Path) -> None:
    lm = lm_of("llama")
    pipeline = fitted(Case(name, name, {}).method(), lm)
    pipeline.save_pretrained(tmp_path)
    assert load(tmp_path, lm).predict(QUERIES) == pipeline.predict(QUERIES)


@pytest.mark.slow
def test_a_method_learns_to_write(tmp_path: Path) -> None:
    lm = lm_of("llama")
    method = Case("p", "prompt-tuning", {"tokens": 8}).method()
    pipeline = fitted(method, lm, task(WRITE), training=SHORT.replace(epochs=12, learning_rate=0.1))
    losses = [record["train_loss"] for record in pipeline.history]
    assert losses[-1] < 0.7 * losses[0]
    pipeline.save_pretrained(tmp_path)
    assert load(tmp_path, lm).predict(QUERIES) == pipeline.predict(QUERIES)


@pytest.mark.parametrize(
    "case", [c for c in ON_ROWS if c.method().uses_retrieval and "+" not in c.id], ids=lambda case: case.id
)
def test_no_query_retrieves_itself_or_its_double_in_training(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    on, method = task(), case.method()
    key_of = {example.text: example.key for example in (*on.train, *on.validation)}
    asked: list[tuple[str, str]] = []

    def spying(texts: Sequence[str], retrieved: Retrieved) -> Conditioning:
        pairs = [(key_of[text], e.key) for row, text in enumerate(texts) for e in retrieved.examples(row)]
        asked.extend(pairs)
        return type(method).condition(method, texts, retrieved)

    monkeypatch.setattr(method, "condition", spying, raising=False)
    pipeline = fitted(method, lm_of("llama"), on)
    assert len(asked) >= 3 * len(on.train)
    assert not [pair for pair in asked if pair[0] == pair[1]]
    # Outside of training a stored row is retrieved for itself, so the check above could have failed.
    assert on.train[0].key in {e.key for e in pipeline.run([on.train[0].text])[1].examples(0)}


def test_validation_rows_are_exemplars_only_once_nothing_is_chosen_by_them() -> None:
    on, seen = task(), set()
    method = Case("m", "mha-esp", {"encoder": "tiny", "k": 3, "heads": 1}).method()
    condition = method.condition

    def spying(texts: Sequence[str], retrieved: Retrieved) -> Conditioning:
        seen.update(e.id for e in retrieved.store.examples)
        return condition(texts, retrieved)

    method.condition = spying  # type: ignore[method-assign]
    pipeline = fitted(method, lm_of("llama"), on)
    assert seen == {e.id for e in on.train}
    assert {e.id for e in pipeline.store.examples} == {e.id for e in (*on.train, *on.validation)}


class Idle(Method):
    """Has parameters, and does not use them."""

    trains: ClassVar[str] = "nothing"

    def build(self, context: MethodContext) -> None:
        self.weight = nn.Parameter(torch.ones(2, context.lm.d_model))

    def condition(self, texts: Sequence[str], retrieved: Retrieved) -> Conditioning:
        return Conditioning(soft_tokens=self.weight.detach() if self.trains == "nothing" else self.weight)


class Empty(Idle):
    def build(self, context: MethodContext) -> None:
        pass


class Meddler(Idle):
    trains = "too much"

    def condition(self, texts: Sequence[str], retrieved: Retrieved) -> Conditioning:
        self.ready.lm.model.model.norm.weight.data[0] += 1e-3
        return super().condition(texts, retrieved)


for toy in (Idle, Empty, Meddler):
    toy.name = toy.__name__  # set here: the registry lists only classes that name themselves


@pytest.mark.parametrize(
    ("method", "reason"),
    [(Idle, "does not depend on"), (Empty, "no parameters to train"), (Meddler, "base model's weights changed")],
)
def test_training_nothing_or_the_frozen_model_is_an_error(method: type[Method], reason: str) -> None:
    model, tokenizer = tiny("llama")
    with pytest.raises(TrainingError, match=reason):
        fitted(method(), FrozenLM(model, tokenizer))


def test_training_that_moves_nothing_is_an_error() -> None:
    """A learning rate so small that float32 does not notice."""
    method = Case("p", "prompt-tuning", {"tokens": 2}).method()
    with pytest.raises(TrainingError, match="as it was before"):
        fitted(method, lm_of("llama"), training=SHORT.replace(learning_rate=1e-30, weight_decay=0.0))
