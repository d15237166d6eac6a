"""``python -m reproduction.parametric`` and its figures, end to end on a tiny model, and what they say of bad words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.qa.support import write_data, write_list

from coldframe.errors import ConfigError, DataError
from coldframe.inference.predictions import Predictions
from reproduction import closed_book, parametric

pytest.importorskip("bm25s")
QUICK = "epochs=2,batch_size=8"


@pytest.fixture
def words(folder: str, tmp_path: Path) -> Callable[..., list[str]]:
    def build(*more: Any) -> list[str]:
        given = ("--model", folder, "--dtype", "float32", "--max-new-tokens", 4, "--out", tmp_path / "out", *more)
        return [str(word) for word in given]

    return build


@pytest.mark.slow
def test_everything_once_and_again_for_nothing(
    words: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = ("--methods", "prag,epochs=2", f"poly-prag,adapters=2,{QUICK}")
    asked = words("fact-corpus:6", *methods, "--seeds", 0, 1, "--k", 1, 2, "--combine", "mean")
    done = parametric.run(asked)
    assert done["groups"] == {"all": 24, "one fact": 18, "two facts": 6}
    assert done["retrieval"]["1"].keys() == {"answer", "passages"}
    scores = {(line["system"], line["group"]): line for line in done["scores"]}
    names = {name for name, _ in scores}
    poly = f"poly-prag,adapters=2,{QUICK}"
    controls = {f"{poly} ({control}), k = 1" for control in ("swapped", "uniform routing", "random routing")}
    assert names >= {"closed-book", "text-rag, k = 1", "text-rag, k = 2", "prag,epochs=2 (mean), k = 2", *controls}
    assert scores[f"{poly}, k = 1", "all"]["token_f1"]["seeds"] == 2
    assert scores["closed-book", "all"]["token_f1"]["seeds"] == 1
    compared = {(line["system"], line["minus"]) for line in done["differences"] if line["group"] == "all"}
    assert compared >= {
        ("prag,epochs=2, k = 1", "closed-book"),
        ("prag,epochs=2, k = 2", "text-rag, k = 2"),
        (f"{poly}, k = 1", "prag,epochs=2, k = 1"),
        *((f"{poly}, k = 1", control) for control in controls),
        (f"{poly}+text, k = 1", f"{poly}+text (swapped), k = 1"),
    }
    assert {line["method"]: line["passages"] for line in done["costs"]} == {"prag,epochs=2": 6, poly: 6}
    assert len(done["broken"]) == 4
    assert "| closed-book |" in (tmp_path / "out" / "results.md").read_text()

    monkeypatch.setattr("coldframe.parametric.encoded.Encoded.answer", None)  # nothing is asked again
    again = parametric.run(asked)
    assert again["scores"] == done["scores"]


def test_a_set_of_questions_with_passages(words: Callable[..., list[str]], tmp_path: Path, monkeypatch: Any) -> None:
    data = write_data(tmp_path / "data")
    asked = words("hotpot", "--data", data, "--methods", "prag,epochs=1", "--questions", 4, "--k", 1)
    said = json.dumps([{"question": f"Q{i}?", "answer": f"A{i}"} for i in range(3)])
    monkeypatch.setattr(
        "coldframe.parametric.augment.ByModel._generate", lambda self, texts, *rest: [said] * len(texts)
    )
    done = parametric.run(asked)
    assert done["about"]["questions"] == 4 and done["groups"] == {"all": 4}
    assert 2 <= done["about"]["passages"] <= 8 and done["retrieval"]["1"].keys() == {"answer"}
    answers = [Predictions.load(path) for path in (tmp_path / "out" / "answers").glob("*.jsonl")]
    assert {len(one) for one in answers} == {4}


def test_questions_without_passages_closed_book(words: Callable[..., list[str]], tmp_path: Path) -> None:
    rows = [{"question": f"Who is {i}?", "answer": f"Ann {i}"} for i in range(6)]
    file = write_list(tmp_path / "data" / closed_book.FILE, rows)
    model, *rest = words("--data", tmp_path / "data", "--questions", 5)[1:]
    done = closed_book.run([model, *rest])
    kept = Predictions.load(tmp_path / "out" / "answers.jsonl")
    assert done["questions"] == len(kept) == 5 and set(kept.texts) < {row["question"] for row in rows}
    assert done["scores"].keys() == {"token_f1", "exact_match", "contains"}
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == done

    write_list(file, [{"question": "Who?"}])
    with pytest.raises(DataError, match="expected form"):
        closed_book.run([model, *rest])


def test_bad_words_are_told_before_the_work(words: Callable[..., list[str]]) -> None:
    with pytest.raises(ConfigError, match="encodes a corpus"):
        parametric.run(words("--methods", "prog"))
    with pytest.raises(ConfigError, match="There is no corpus 'wiki'"):
        parametric.run(words("wiki"))
    with pytest.raises(DataError, match="read out of a folder"):
        parametric.run(words("popqa"))
