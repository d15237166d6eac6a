"""Rows longer than the model's context, through every command: named, or skipped and counted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
LONG = "word " * 300  # the tiny model reads 256 tokens


def labelled(path: Path, rows: int, long: dict[str, int]) -> Path:
    """A table with one row in each part that is too long."""
    lines = []
    for part, count in {"train": rows, "validation": 4, "test": 4}.items():
        for i in range(count):
            text = f"{part} {LONG}" if i == long.get(part) else f"{part} {i} {'rose' if i % 2 else 'leaf'}"
            lines.append({"text": text, "label": "red" if i % 2 else "green", "split": part})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("part", "row"), [("train", 4), ("validation", 15), ("test", 19)])
def test_a_long_row_is_named_before_anything_is_trained(run: Run, lm: str, tmp_path: Path, part: str, row: int) -> None:
    table = labelled(tmp_path / "t.jsonl", 12, {part: 3 if part == "train" else 2})
    outcome = run("fit", table, "--method", "prompt-tuning", "--model", lm, "--out", tmp_path / "out")
    assert outcome.status != 0
    assert f"Row {row} (" in outcome.err and f"{part}) is longer than the model's context" in outcome.err
    assert "--on-error skip" in outcome.err and not (tmp_path / "out" / "coldframe_config.json").exists()


@pytest.mark.slow
def test_long_rows_are_skipped_by_every_command(run: Run, lm: str, tmp_path: Path) -> None:
    table = labelled(tmp_path / "t.jsonl", 12, {"train": 3, "validation": 2, "test": 2})
    skip = ("--on-error", "skip")
    out = tmp_path / "out"
    flags = ("--model", lm, "--epochs", "1", "--out", out, *skip)
    assert run("fit", table, "--method", "mha-esp", "--set", "k=2", *flags).status == 0
    entries = (out / "exemplars.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(entries) == 14 and LONG.strip() not in "".join(entries)

    outcome = run("evaluate", out, "--json", "--no-cost")
    assert outcome.status == 0, outcome.err
    assert json.loads(outcome.out)["metrics"]["accuracy"]["n"] == 3

    fresh = tmp_path / "fresh.jsonl"
    fresh.write_text("".join(json.dumps({"text": text, "label": "red"}) + "\n" for text in ("a rose", LONG)))
    assert "Row 2 (fresh-0000002) is longer" in run("evaluate", out, fresh).err
    outcome = run("evaluate", out, fresh, "--json", "--no-cost", *skip)
    assert json.loads(outcome.out)["metrics"]["accuracy"]["n"] == 1

    assert "fresh.jsonl, row 2 is longer than the model's context" in run("predict", out, fresh, "--text", "text").err
    outcome = run("predict", out, fresh, "--text", "text", *skip)
    assert len(outcome.out.splitlines()) == 1 and "Skipped 1 unusable row(s)" in outcome.err

    flags = ("--model", lm, "--epochs", "1", "--seeds", "0", "--out", tmp_path / "compared", *skip)
    outcome = run("compare", table, "--methods", "zero-shot", "prompt-tuning", *flags, "--json")
    assert outcome.status == 0, outcome.err
    rows = json.loads(outcome.out)["rows"]
    assert {row["metrics"]["accuracy"]["n"] for row in rows} == {3}
