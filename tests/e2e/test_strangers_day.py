"""A stranger's day: a messy table and a log of a pipeline in, answers and verdicts out, with nothing but flags."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

FOOD = ("the soup was cold", "lovely bread and kind people", "we waited an hour", "best pasta in town")
HOTEL = ("clean room, soft bed", "the shower leaks", "great view of the sea", "noise all night")


def coldframe(folder: Path, *words: object, status: int = 0, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command as a user would."""
    ran = subprocess.run(
        [sys.executable, "-m", "coldframe", *map(str, words)],
        cwd=folder,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=3000,
        env={**os.environ, "COLUMNS": "120"},
    )
    assert ran.returncode == status, f"{words}: {ran.returncode}\n{ran.stdout}\n{ran.stderr}"
    assert "Traceback" not in ran.stderr
    return ran


def messy_table() -> str:
    """Semicolons, spellings of labels, a repeated row, a cell with a quote, and an empty one."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter=";")
    writer.writerow(["Nr", "review text", "about"])
    for i in range(48):
        text, label = (FOOD[i % 4], "Food") if i % 2 else (HOTEL[i // 2 % 4], "hotel")
        writer.writerow([i + 1, f'{text}, visit {i // 8} "sic"' if i == 3 else f"{text}, visit {i // 8}", label])
    writer.writerow([49, "best pasta in town, visit 5", "food"])
    writer.writerow([50, "", "hotel"])
    return out.getvalue()


def test_a_strangers_day(tmp_path: Path) -> None:
    (tmp_path / "reviews.csv").write_text(messy_table())
    columns = ("--text", "review text", "--label", "about")

    checked = coldframe(tmp_path, "check", "reviews.csv", *columns, "--on-error", "skip", status=1)
    told = " ".join((checked.stdout + checked.stderr).split())
    assert "';'" in told and "Food" in told and "food" in told and "the text is empty" in told

    table = ("reviews.csv", *columns, "--on-error", "skip", "--merge-labels")
    quick = ("--model", "smollm2", "--epochs", 1, "--quiet")
    fitted = coldframe(tmp_path, "fit", *table, "--method", "prompt-tuning", *quick, "--out", "day")
    assert "day" in fitted.stdout
    answers = coldframe(tmp_path, "predict", "day", "-", stdin="the soup was great\nthe bed was hard\n").stdout
    rows = [json.loads(line) for line in answers.splitlines()]
    assert [row["row"] for row in rows] == [1, 2] and all(row["label"].casefold() in ("food", "hotel") for row in rows)

    methods = ("--methods", "prompt-tuning", "icl", "--seeds", 0)
    compared = coldframe(tmp_path, "compare", *table, *methods, *quick, "--out", "beside")
    assert "prompt-tuning" in compared.stdout and (tmp_path / "beside" / "report.html").is_file()

    towns = ("Rome", "Oslo", "Lima", "Cairo")
    lines = [
        {"input": f"Where does person {i} live?", "retrieval_context": [f"Person {i} lives in {towns[i % 4]}."]}
        | {"actual_output": "I do not know.", "expected_output": towns[i % 4]}
        for i in range(30)
    ]
    (tmp_path / "rag.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    log = ("rag.jsonl", "--model", "smollm2", "--resamples", 1000, "--max-tokens", 8, "--quiet")
    failing = ("--fail-on", "prompt-tuning-like", "cannot-tell")
    told = " ".join(coldframe(tmp_path, "diagnose", *log, *failing).stdout.split())
    assert "Retrieval does the work" in told and (tmp_path / "rag-diagnosis" / "questions.csv").is_file()
