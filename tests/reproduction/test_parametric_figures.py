"""Tables and figures of parametric results, from numbers that are made up and from a tiny fitted Poly-PRAG."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from reproduction.parametric_tables import write
from tests.tiny import tiny

import coldframe as cf
from coldframe.errors import DataError
from coldframe.frozen.model import FrozenLM
from coldframe.methods.registry import create
from reproduction import parametric_figures


def results(passages: int = 50) -> dict[str, Any]:
    def interval(value: float) -> dict[str, Any]:
        return {"value": value, "low": value - 2, "high": value + 2, "n": 40, "seeds": 2}

    systems = {
        "closed-book": "",
        "text-rag, k = 1": "",
        "prag, k = 1": "prag",
        "poly-prag, k = 1": "poly-prag",
        "poly-prag (swapped), k = 1": "poly-prag",
    }
    scores = [
        {
            "system": system,
            "method": method,
            "k": 1,
            "group": "one fact",
            **{metric: interval(10.0 * i) for metric in ("token_f1", "exact_match", "contains")},
        }
        for i, (system, method) in enumerate(systems.items(), 1)
    ]
    gap = {"system": "prag, k = 1", "minus": "closed-book", "group": "one fact", "metric": "token_f1", **interval(20.0)}
    cost = {"method": "prag", "seed": 0, "bytes": 9000, "passages": passages, "encode_seconds": 30.0, "trained": 0}
    return {
        "about": {
            "corpus": "facts",
            "model": "tiny",
            "dtype": "torch.float32",
            "passages": passages,
            "questions": 40,
            "notes": ["Made up."],
            "command": "python -m reproduction.parametric",
        },
        "retrieval": {"1": {"answer": 0.9, "passages": 0.875}},
        "groups": {"one fact": 40},
        "scores": scores,
        "differences": [{**gap, "p_value": 0.0002, "smallest": 4.0}],
        "broken": [
            {"system": "prag, k = 1", "seed": 0, "share": interval(90.0)},
            {"system": "prag, k = 1", "seed": 1, "share": None},
        ],
        "costs": [
            {**cost, "left_out": []},
            {**cost, "method": "poly-prag", "bytes": 900, "trained": 10, "left_out": ["p1"]},
        ],
        "seconds_per_question": dict.fromkeys(systems, 0.25),
    }


def test_tables(tmp_path: Path) -> None:
    write(results(), tmp_path)
    assert json.loads((tmp_path / "results.json").read_text()) == results()
    text = (tmp_path / "results.md").read_text()
    for line in (
        "# facts, tiny (float32)",
        "Retrieved with k = 1: answer 90%, passages 88%.",
        "## one fact, n = 40",
        "| prag, k = 1 | 30.0 [28.0, 32.0] | 30.0 [28.0, 32.0] | 30.0 [28.0, 32.0] | 0.250 |",
        "| prag, k = 1 | closed-book | +20.0 [+18.0, +22.0] | < 0.001 |",
        "| prag, k = 1 | 1 | none was right |",
        "| prag | 0 | 9,000 | 180 | 1.000 | 30 | – | 0 |",
        "| poly-prag | 0 | 900 | 18 | 0.100 | 30 | 3.00 | 1 |",
        "python -m reproduction.parametric",
    ):
        assert line in text, line


@pytest.mark.slow
def test_figures_of_scores(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for passages in (50, 500):
        write(results(passages), tmp_path / str(passages))
    files = [str(tmp_path / name / "results.json") for name in ("50", "500")]
    for figure, paths, words in (
        ("storage", files[:1], ["poly-prag", "text-rag, k = 1", "share of PRAG's"]),
        ("size", files, ["poly-prag (swapped), k = 1", "500", "passages"]),
    ):
        drawn = parametric_figures.run([figure, *paths, "--out", str(tmp_path / f"{figure}.svg")]).read_text()
        assert all(word in drawn for word in words) and drawn.count("<path") > 5
        again = parametric_figures.run([figure, *paths, "--out", str(tmp_path / f"{figure}-2.svg")]).read_text()
        assert again == drawn


@pytest.mark.slow
def test_the_figure_of_routing_is_drawn_from_an_artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    lm, task = FrozenLM(*tiny("llama")), cf.load_task("fact-corpus:6")
    cf.fit(create("poly-prag"), lm, task, epochs=1, quiet=True).save_pretrained(tmp_path / "poly")
    monkeypatch.setattr(parametric_figures, "load", lambda path: cf.load(path, lm))
    drawn = parametric_figures.run(["routing", str(tmp_path / "poly"), "--out", str(tmp_path / "routing.svg")])
    assert "median before training" in drawn.read_text()
    cf.fit(create("zero-shot"), lm, task, quiet=True).save_pretrained(tmp_path / "other")
    with pytest.raises(DataError, match="Only Poly-PRAG"):
        parametric_figures.run(["routing", str(tmp_path / "other"), "--out", str(tmp_path / "x.svg")])
    assert not (tmp_path / "x.svg").exists()
