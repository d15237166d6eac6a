"""A task may bring a store of its own: what is retrieved comes from there, and nothing in it is kept from a query."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from tests.contract.cases import QUERIES, TWO, TinyEncoder, example, lm_of, task

from coldframe.evaluation.runs import Runner
from coldframe.methods.soft_tokens.mha_esp import MHAESP
from coldframe.pipeline.fit import fit
from coldframe.pipeline.pipeline import load
from coldframe.retrieval.retriever import RetrievalConfig
from coldframe.retrieval.store import Retrieved, Store
from coldframe.tasks.task import Example, Task
from coldframe.training.config import TrainingConfig


class Watched(MHAESP):
    """Notes which entries each query was given."""

    name = "mha-esp"
    given: dict[str, list[str]]

    def condition(self, texts: Any, retrieved: Retrieved) -> Any:
        for row, text in enumerate(texts):
            self.given[text] = [e.id for e in retrieved.examples(row)]
        return super().condition(texts, retrieved)


@pytest.fixture
def told() -> Task:
    """Every query stands word for word in the store, with its answer."""
    rows = task(TWO)
    asked = {e.key: e for e in (*rows.train, *rows.validation, *rows.test)}.values()
    entries = [dataclasses.replace(e, id=f"entry-{i:02d}") for i, e in enumerate(asked)]
    return dataclasses.replace(rows, store=(*entries, example(90, "A", "quite another thing")))


@pytest.fixture(autouse=True)
def encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("pipeline.setup", "retrieval.retriever"):
        monkeypatch.setattr(f"coldframe.{module}.load_encoder", TinyEncoder)


SETTINGS: dict[str, Any] = {
    "retrieval": RetrievalConfig(encoder="tiny"), "training": TrainingConfig(epochs=1, batch_size=4), "quiet": True,
}  # fmt: skip


def test_a_query_is_given_its_own_entry_in_training_and_after(told: Task, tmp_path: Path) -> None:
    lm, method = lm_of("llama"), Watched(encoder="tiny", heads=1, k=1, adapter=None)
    method.given = {}
    pipeline = fit(method, lm, told, **SETTINGS)
    own = {e.key: e.id for e in told.exemplars}
    queries: list[Example] = [*told.train, *told.validation]
    assert {e.text: [own[e.key]] for e in queries} == method.given
    assert pipeline.store.hash == Store.of(told.exemplars).hash
    assert [e.id for i in range(len(told.test)) for e in pipeline.retrieve(told.test).examples(i)] == [
        own[e.key] for e in told.test
    ]
    pipeline.save_pretrained(tmp_path)
    again = load(tmp_path, lm)
    assert again.store.hash == pipeline.store.hash and again.predict(QUERIES) == pipeline.predict(QUERIES)


def test_without_one_the_training_rows_are_it_and_a_query_never_gets_itself() -> None:
    rows, method = task(TWO), Watched(encoder="tiny", heads=1, k=1, adapter=None)
    method.given = {}
    pipeline = fit(method, lm_of("llama"), rows, **SETTINGS)
    assert pipeline.store.hash == Store.of((*rows.train, *rows.validation)).hash
    ids = {e.id: e for e in rows.exemplars}
    assert all(ids[given].key != e.key for e in rows.train for given in method.given[e.text])


def test_a_comparison_takes_it_and_knows_its_runs_by_it(told: Task) -> None:
    def runner(on: Task) -> Runner:
        return Runner(lm_of("llama"), on, TrainingConfig(), RetrievalConfig(), None, 0, None, True)

    assert runner(told)._store.hash == Store.of(told.exemplars).hash
    assert told.store is not None
    less = dataclasses.replace(told, store=told.store[:-1])
    assert len({runner(one)._data for one in (told, less, dataclasses.replace(told, store=None))}) == 3
