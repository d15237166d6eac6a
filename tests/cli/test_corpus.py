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


def test_questions_that_were_trained_on_are_refused_or_said(run: Run, artifact: Path, tmp_path: Path) -> None:
    fresh = {"question": "Where is it?", "answer": "Rome", "passages": ["It"]}
    leak = written(tmp_path / "leak.jsonl", {"question": "where does it  lie?", "answer": "Rome"}, fresh)
    outcome = run("evaluate", artifact, leak)
    assert outcome.status != 0 and "1 of 2 test questions were trained on" in outcome.err
    outcome = run("evaluate", artifact, leak, "--allow-leaks")
    assert outcome.status == 0 and "LEAK: 1 of 2 test questions were trained on" in outcome.err
    outcome = run("evaluate", artifact, written(tmp_path / "fresh.jsonl", fresh))
    assert outcome.status == 0 and "LEAK" not in outcome.err


def test_gone_questions_are_said(run: Run, artifact: Path, tmp_path: Path) -> None:
    fresh = written(tmp_path / "fresh.jsonl", {"question": "Where is it?", "answer": "Rome", "passages": ["It"]})
    (tmp_path / "corpus.jsonl").unlink()
    assert "nobody can tell whether" in run("evaluate", artifact, fresh).err
