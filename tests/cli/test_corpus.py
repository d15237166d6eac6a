"""A corpus through the command line: what is asked of an artifact must not have been trained on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


def written(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture
def artifact(run: Run, lm: str, tmp_path: Path) -> Path:
    corpus = written(
        tmp_path / "corpus.jsonl",
        {"title": "It", "text": "It lies in Rome.", "qa": [{"question": "Where does it lie?", "answer": "Rome"}]},
        {"title": "She", "text": "She is in Oslo.", "qa": [{"question": "Where is she?", "answer": "Oslo"}]},
    )
    out = tmp_path / "out"
    outcome = run("fit", corpus, "--method", "prag", "--model", lm, "--epochs", "1", "--out", out, "--quiet")
    assert outcome.status == 0, outcome.err
    return out


@pytest.mark.slow
def test_questions_that_were_trained_on_are_refused_or_said(run: Run, artifact: Path, tmp_path: Path) -> None:
    fresh = {"question": "Where is it?", "answer": "Rome", "passages": ["It"]}
    leak = written(tmp_path / "leak.jsonl", {"question": "where does it  lie?", "answer": "Rome"}, fresh)
    outcome = run("evaluate", artifact, leak)
    assert outcome.status != 0 and "1 of 2 rows were used in training" in outcome.err
    outcome = run("evaluate", artifact, leak, "--allow-leaks")
    assert outcome.status == 0 and "LEAK: 1 of 2 rows were used in training" in outcome.err
    outcome = run("evaluate", artifact, written(tmp_path / "fresh.jsonl", fresh))
    assert outcome.status == 0 and "LEAK" not in outcome.err


def test_questions_that_were_trained_on_are_known_without_the_corpus(run: Run, artifact: Path, tmp_path: Path) -> None:
    leak = written(tmp_path / "leak.jsonl", {"question": "Where is she?", "answer": "Oslo"})
    (tmp_path / "corpus.jsonl").unlink()
    outcome = run("evaluate", artifact, leak)
    assert outcome.status != 0 and "1 of 1 rows were used in training (row 1 'Where is she?')" in outcome.err


@pytest.mark.slow
def test_questions_that_bring_passages_are_asked_with_these(run: Run, lm: str, artifact: Path, tmp_path: Path) -> None:
    own = [{"title": "He", "text": "He is in Bonn."}, {"title": "She", "text": "She is in Oslo."}]
    log = written(tmp_path / "asked.jsonl", {"question": "Where is he?", "answer": "Bonn", "contexts": own})
    text = tmp_path / "text"
    corpus = tmp_path / "corpus.jsonl"
    words = ["fit", corpus, "--method", "icl", "--set", "k=2", "--model", lm, "--quiet", "--out"]
    assert run(*words, text, "--set", "solved=0").status == 0
    assert run(*words, tmp_path / "solved").status == 0
    records = tmp_path / "records.jsonl"
    outcome = run("evaluate", text, log, "--predictions", records)
    assert outcome.status == 0 and "1 passages came with the rows" in outcome.err
    (record,) = [json.loads(line) for line in records.read_text(encoding="utf-8").splitlines()]
    assert len(record["neighbours"]) == 2
    seen = written(tmp_path / "seen.jsonl", {"question": "Where is she?", "answer": "Oslo"})
    assert run("evaluate", text, seen).status == 0  # text RAG trained on nothing
    outcome = run("evaluate", tmp_path / "solved", seen)  # but this question stands solved in every prompt
    assert outcome.status != 0 and "1 of 1 rows were used in training" in outcome.err
    outcome = run("evaluate", artifact, log)
    assert outcome.status != 0 and "There is no adapter for passage" in outcome.err


@pytest.mark.slow
def test_test_rows_that_were_added_to_the_store_are_refused(run: Run, lm: str, tmp_path: Path) -> None:
    rows = [
        {"text": f"item {i} {'rose' if i % 2 else 'leaf'}", "label": "red" if i % 2 else "green"} for i in range(24)
    ]
    old = written(
        tmp_path / "old.jsonl", *({**row, "split": "train" if i < 18 else "test"} for i, row in enumerate(rows))
    )
    grown = written(tmp_path / "all.jsonl", *({**row, "split": "train"} for row in rows))
    out, zero = tmp_path / "icl", tmp_path / "zero"
    assert run("fit", old, "--method", "icl", "--set", "k=1", "--model", lm, "--out", out, "--quiet").status == 0
    assert run("evaluate", out, "--no-cost").status == 0
    assert run("fit", grown, "--add", "--split", "given", "--test", old, "--allow-leaks", "--out", out).status == 0
    outcome = run("evaluate", out, "--no-cost")
    assert outcome.status != 0 and "6 of 6 rows are among the artifact's exemplars" in outcome.err
    assert "LEAK: 6 of 6" in run("evaluate", out, "--no-cost", "--allow-leaks").err
    # A method that looks at no exemplar and trains nothing has seen no row.
    assert run("fit", old, "--method", "zero-shot", "--model", lm, "--out", zero, "--quiet").status == 0
    assert run("evaluate", zero, grown, "--no-cost").status == 0
