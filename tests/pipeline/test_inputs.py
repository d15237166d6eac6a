"""What fit and predict take: rows in any form, texts as a list, the home folder in paths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import tiny

import coldframe as cf
from coldframe.errors import ConfigError, DataError
from coldframe.frozen.model import FrozenLM
from coldframe.methods.registry import create
from coldframe.pipeline.pipeline import Pipeline
from coldframe.tasks.origin import load_again

ROWS = [{"text": f"item {i} {'rose' if i % 2 else 'leaf'}", "label": "red" if i % 2 else "green"} for i in range(24)]


def fitted(data: Any, **settings: Any) -> Pipeline:
    return cf.fit(create("zero-shot", {}), FrozenLM(*tiny("llama")), data, quiet=True, **settings)


def test_fit_takes_what_load_task_takes(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    expected = fitted(cf.load_task(ROWS))
    for data in (ROWS, path, str(path)):
        pipeline = fitted(data)
        assert pipeline.schema.labels == expected.schema.labels == ("green", "red")
        assert [entry.text for entry in pipeline.store.examples] == [entry.text for entry in expected.store.examples]
    assert len(load_again(fitted(path).task).test) == 5
    with pytest.raises(ConfigError, match="does not say where its task came from"):
        load_again(fitted(ROWS).task)


def test_one_text_is_no_list_of_texts() -> None:
    pipeline = fitted(ROWS)
    for text in ("CCO", b"CCO", ""):
        for ask in (pipeline.predict, pipeline.predict_proba, pipeline.run):
            with pytest.raises(DataError, match=r"One text is no list of texts. Got: .*Expected: a list"):
                ask(text)  # type: ignore[operator]
    assert len(pipeline.predict(["CCO"])) == len(pipeline.predict(("CCO",))) == 1


def test_half_a_surrogate_pair_is_no_text() -> None:
    """A tokenizer, a hash and a file would each fail in a way of its own."""
    pipeline = fitted(ROWS)
    for ask in (pipeline.predict, pipeline.predict_proba, pipeline.run):
        with pytest.raises(DataError, match=r"Query 2: The text holds half a surrogate pair. Got: 'a\\udc00'"):
            ask(["a rose", "a\udc00"])  # type: ignore[operator]


def test_an_artifact_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    pipeline = fitted(ROWS, out="~/runs/one")
    pipeline.save_pretrained("~/runs/two")
    for name in ("one", "two"):
        assert cf.load(f"~/runs/{name}", pipeline.lm).predict(["a rose"]) == pipeline.predict(["a rose"])
    assert not (tmp_path / "~").exists()


@pytest.mark.slow
def test_what_a_user_types_into_a_notebook() -> None:
    """A repr shows the settings that are not the usual ones; settings of training are keywords of fit."""
    assert repr(cf.MHAESP(heads=4)) == "MHAESP(heads=4)" and repr(cf.MHAESP()) == "MHAESP()"
    assert repr(cf.MHAESP(cf.MHAESPConfig(heads=4, k=3))) == "MHAESP(k=3, heads=4)"
    pipeline = cf.fit(cf.PromptTuning(tokens=2), FrozenLM(*tiny("llama")), ROWS, epochs=1, batch_size=8, quiet=True)
    assert (pipeline.training.epochs, pipeline.training.batch_size, len(pipeline.history)) == (1, 8, 1)
    assert pipeline.predict_proba(["a rose"]).shape == (1, 2)
    rows = cf.load_task(ROWS).test
    assert pipeline.evaluate(rows)["accuracy"].n == len(rows)
    with pytest.raises(ConfigError, match=r"epoch.*Did you mean 'epochs'"):
        cf.fit(cf.PromptTuning(tokens=2), FrozenLM(*tiny("llama")), ROWS, epoch=1, quiet=True)
