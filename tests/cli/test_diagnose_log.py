"""``coldframe diagnose`` on logs, and on two of a kind."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.cli.conftest import Ran
from tests.contract.cases import lm_of
from tests.diagnosis.server import Server

Run = Callable[..., Ran]
TOWNS = ["Rome", "Oslo", "Lima", "Cairo", "Bern"]


def write_log(path: Path, rows: int = 32, shift: int = 0, **names: str) -> Path:
    question, contexts, gold = (names.get(key, key) for key in ("user_input", "retrieved_contexts", "reference"))
    lines = []
    for i in range(rows):
        facts = [f"Person{(i + shift) % rows} lives in {TOWNS[(i + shift) % 5]}."]
        lines.append({question: f"Where does Person{i} live?", contexts: facts, gold: TOWNS[i % 5]})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def server() -> Iterator[Server]:
    with Server.running(lm_of("llama")) as running:
        yield running


@pytest.mark.slow
def test_a_log_over_a_server(run: Run, tmp_path: Path, server: Server) -> None:
    log = write_log(tmp_path / "rag.jsonl")
    common = ("--endpoint", server.url, "--model", "tiny", "--max-tokens", 4, "--resamples", 200)
    result = run("diagnose", log, *common)
    assert result.status == 0 and "answers right" in result.out and "wrote" in result.out
    assert "Took 'user_input' as the question" in result.err and "32 questions with 32 passages" in result.err
    out = tmp_path / "rag-diagnosis"
    assert {"diagnosis.html", "diagnosis.json", "questions.csv", "passages.csv"} <= {p.name for p in out.iterdir()}
    asked = len(server.requests)
    again = run("diagnose", log, *common, "--json", "--fail-on", "cannot-tell", "prompt-tuning-like", "mixed")
    values = json.loads(again.out)
    outcome = values["diagnosis"]["verdict"]["outcome"]
    assert again.status == (3 if outcome in ("cannot-tell", "prompt-tuning-like", "mixed") else 0)
    assert (
        len(server.requests) - asked <= 10
    )  # what was measured is not measured again: the first question, eight repeats


@pytest.mark.slow
def test_other_names_rows_and_a_local_model(run: Run, lm: str, tmp_path: Path) -> None:
    log = write_log(tmp_path / "rag.jsonl", user_input="frage", retrieved_contexts="gefunden", reference="antwort")
    refused = run("diagnose", log, "--model", lm)
    assert refused.status == 2 and "--question COLUMN" in refused.err
    named = ("--question", "frage", "--contexts", "gefunden", "--gold", "antwort")
    result = run("diagnose", log, *named, "--model", lm, "--rows", 8, "--resamples", 200, "--max-tokens", 2, "--quiet")
    assert result.status == 0 and "Too few questions for a verdict: 8" in " ".join(result.out.split())
    judged = run("diagnose", log, *named, "--model", lm, "--metric", "judge")
    assert judged.status == 2 and "--endpoint URL" in judged.err
    ladder = run("diagnose", log, *named, "--model", lm, "--ladder")
    assert ladder.status == 2 and "--ladder is for an artifact" in ladder.err


@pytest.mark.slow
def test_two_logs(run: Run, lm: str, tmp_path: Path) -> None:
    new, old = write_log(tmp_path / "new.jsonl"), write_log(tmp_path / "old.jsonl", shift=3)
    common = ("--model", lm, "--resamples", 200, "--max-tokens", 2, "--quiet")
    result = run("diagnose", old, new, *common, "--out", tmp_path / "out")
    assert result.status == 0 and "old" in result.out and "new" in result.out
    pair = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert pair["n"] == 32 and pair["names"] == ["old", "new"] and len(pair["questions"]) == 32
    assert (tmp_path / "out" / "new" / "questions.csv").is_file() and (tmp_path / "out" / "comparison.html").is_file()


@pytest.mark.slow
def test_two_artifacts(run: Run, lm: str, table: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        method = "zero-shot" if name == "a" else "icl"
        assert run("fit", table, "--model", lm, "--method", method, "--out", tmp_path / name, "--quiet").status == 0
    common = ("--resamples", 200, "--quiet", "--out", tmp_path / "pair", "--json")
    result = run("diagnose", tmp_path / "a", tmp_path / "b", *common)
    assert result.status == 0 and json.loads(result.out)["names"] == ["a", "b"]
    assert "a" in (tmp_path / "pair" / "comparison.html").read_text()
