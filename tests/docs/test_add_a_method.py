"""The two methods of the how-to page run: they are fitted, saved, loaded and keep the contract of order."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contract.cases import QUERIES, TinyEncoder, corpus, lm_of, task

from coldframe.methods.base import Method
from coldframe.methods.registry import all_methods
from coldframe.pipeline.fit import fit
from coldframe.pipeline.pipeline import load
from coldframe.retrieval.retriever import RetrievalConfig

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "add-a-method.md").read_text(encoding="utf-8")
FILES = [block for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.S) if "class " in block]


@pytest.fixture
def methods(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, type[Method]]]:
    """The classes of the page, in the registry as their files would bring them there."""
    monkeypatch.setattr("coldframe.pipeline.setup.load_encoder", TinyEncoder)
    monkeypatch.setattr("coldframe.retrieval.retriever.load_encoder", TinyEncoder)
    classes: dict[str, type[Method]] = {}
    for number, block in enumerate(FILES):
        module = types.ModuleType(f"coldframe.methods.page_{number}")
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(compile(block, module.__name__, "exec"), module.__dict__)
        classes |= {
            value.name: value
            for value in vars(module).values()
            if isinstance(value, type) and value.__module__ == module.__name__ and issubclass(value, Method)
        }
    all_methods.cache_clear()
    yield classes
    Method.__subclasses__()  # the classes stay known to Python; the registry forgets them below
    for cls in classes.values():
        del cls.name
    all_methods.cache_clear()


def test_the_page_has_two_methods(methods: dict[str, type[Method]]) -> None:
    assert {*methods} == {"mean-esp", "shared-prag"} <= {*all_methods()}


SETTINGS: dict[str, dict[str, Any]] = {
    "mean-esp": {"encoder": "tiny", "adapter": 8, "tokens": 2, "k": 3},
    "shared-prag": {"rank": 2},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_they_are_fitted_saved_and_loaded(name: str, methods: dict[str, type[Method]], tmp_path: Path) -> None:
    lm, on = lm_of("llama"), corpus() if name == "shared-prag" else task()
    options: dict[str, Any] = {"retrieval": RetrievalConfig(encoder="tiny"), "quiet": True, "epochs": 3}
    pipeline = fit(methods[name](**SETTINGS[name]), lm, on, out=tmp_path, **options)
    losses = [record["train_loss"] for record in pipeline.history]
    assert losses[-1] < losses[0]
    assert load(tmp_path, lm).predict(QUERIES) == pipeline.predict(QUERIES)


def test_order_carries_nothing(methods: dict[str, type[Method]]) -> None:
    lm, on = lm_of("llama"), task()
    method = methods["mean-esp"](**SETTINGS["mean-esp"])
    pipeline = fit(method, lm, on, retrieval=RetrievalConfig(encoder="tiny"), epochs=1, quiet=True)
    _, retrieved = pipeline.run(QUERIES)
    first, second = (
        method.condition(QUERIES, sets).soft_tokens for sets in (retrieved, retrieved.rows(slice(None)).canonical())
    )
    assert first is not None and second is not None and torch.equal(first, second)
