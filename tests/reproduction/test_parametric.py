"""``python -m reproduction.parametric``, end to end on a tiny model, and what it says of bad options."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import lm as folder
from tests.reproduction.support import write_data, write_list

from coldframe.errors import ConfigError, DataError
from coldframe.inference.predictions import Predictions
from reproduction import closed_book, parametric

pytest.importorskip("bm25s")
folder = folder
"""The tiny model in a folder."""
QUICK = "epochs=2,batch_size=8"


@pytest.fixture(autouse=True)
def own_cache(cache: Path) -> Path:
    return cache


@pytest.fixture
def words(folder: str, tmp_path: Path) -> Callable[..., list[str]]:
    def build(*more: Any) -> list[str]:
        options = ("--model", folder, "--dtype", "float32", "--max-new-tokens", 4, "--out", tmp_path / "out", *more)
        return [str(word) for word in options]

    return build


@pytest.mark.slow
def test_everything_once_and_again_for_nothing(
    words: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poly = f"poly-prag,adapters=2,{QUICK}"
    argv = words("fact-corpus:6", "--methods", "prag,epochs=2", poly, "--seeds", 0, 1, "--k", 1, 2, "--combine", "mean")
    results = parametric.run(argv)
    assert results["groups"] == {"all": 24, "one fact": 18, "two facts": 6}
    assert results["retrieval"]["1"].keys() == {"answer", "passages"}
    scores = {(line["system"], line["group"]): line for line in results["scores"]}
    names = {name for name, _ in scores}
    controls = {f"{poly} ({control}), k = 1" for control in ("swapped", "uniform routing", "random routing")}
    assert names >= {"closed-book", "text-rag, k = 1", "text-rag, k = 2", "prag,epochs=2 (mean), k = 2", *controls}
    assert scores[f"{poly}, k = 1", "all"]["token_f1"]["seeds"] == 2
    assert scores["closed-book", "all"]["token_f1"]["seeds"] == 1
    compared = {(line["system"], line["minus"]) for line in results["differences"] if line["group"] == "all"}
    assert compared >= {
        ("prag,epochs=2, k = 1", "closed-book"),
        ("prag,epochs=2, k = 2", "text-rag, k = 2"),
        (f"{poly}, k = 1", "prag,epochs=2, k = 1"),
        *((f"{poly}, k = 1", control) for control in controls),
        (f"{poly}+text, k = 1", f"{poly}+text (swapped), k = 1"),
    }
    assert {line["method"]: line["passages"] for line in results["costs"]} == {"prag,epochs=2": 6, poly: 6}
    assert len(results["broken"]) == 4
    assert "| closed-book |" in (tmp_path / "out" / "results.md").read_text()

    for name in ("fit", "predict"):  # nothing is trained or answered again
        monkeypatch.setattr(parametric, name, None)
    again = parametric.run(argv)
    assert again["scores"] == results["scores"] and again["costs"] == results["costs"]


@pytest.mark.slow
def test_a_set_of_questions_with_passages(words: Callable[..., list[str]], tmp_path: Path, monkeypatch: Any) -> None:
    data = write_data(tmp_path / "data")
    argv = words("hotpot", "--data", data, "--methods", "prag,epochs=1", "--questions", 4, "--k", 1)
    written = json.dumps([{"question": f"Q{i}?", "answer": f"A{i}"} for i in range(3)])
    generate = parametric.FrozenLM.generate

    def writing(self: Any, prompts: Any, *rest: Any, **options: Any) -> list[str]:
        return [written] * len(prompts) if "temperature" in options else generate(self, prompts, *rest, **options)

    monkeypatch.setattr(parametric.FrozenLM, "generate", writing)
    results = parametric.run([*argv, "--cut", "published"])
    assert results["about"]["questions"] == 4 and results["groups"] == {"all": 4}
    assert 2 <= results["about"]["passages"] <= 8 and results["retrieval"]["1"].keys() == {"answer"}
    assert "text-rag (published cut), k = 1" in {line["system"] for line in results["scores"]}
    answers = [Predictions.load(path) for path in (tmp_path / "out" / "answers").glob("*.jsonl")]
    assert {len(run) for run in answers} == {4}
    assert not any("." in answer or "," in answer for run in answers for answer in run.generated or ())


def test_questions_without_passages_closed_book(words: Callable[..., list[str]], tmp_path: Path) -> None:
    rows = [{"question": f"Who is {i}?", "answer": f"Ann {i}"} for i in range(6)]
    file = write_list(tmp_path / "data" / closed_book.FILE, rows)
    model, *rest = words("--data", tmp_path / "data", "--questions", 5)[1:]
    results = closed_book.run([model, *rest])
    answers = Predictions.load(tmp_path / "out" / "answers.jsonl")
    assert results["questions"] == len(answers) == 5 and set(answers.texts) < {row["question"] for row in rows}
    assert results["scores"].keys() == {"token_f1", "exact_match", "contains"}
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == results

    write_list(file, [{"question": "Who?"}])
    with pytest.raises(DataError, match="expected form"):
        closed_book.run([model, *rest])


def test_bad_options_are_told_before_the_work(words: Callable[..., list[str]]) -> None:
    for methods, message in (
        ("prog", "no method 'prog'"),
        ("mha-esp", "turns no passages into weights"),
        ("prag,ranks=2", "Did you mean 'rank'"),
        ("prag,epochs=0", "epochs must be at least 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            parametric.run(words("--methods", methods))
    with pytest.raises(ConfigError, match="There is no corpus 'wiki'"):
        parametric.run(words("wiki"))
    with pytest.raises(DataError, match="read out of a folder"):
        parametric.run(words("popqa"))
