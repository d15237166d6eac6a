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


def test_an_artifact_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    pipeline = fitted(ROWS, out="~/runs/one")
    pipeline.save_pretrained("~/runs/two")
    for name in ("one", "two"):
        assert cf.load(f"~/runs/{name}", pipeline.lm).predict(["a rose"]) == pipeline.predict(["a rose"])
    assert not (tmp_path / "~").exists()
