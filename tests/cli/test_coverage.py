"""``--coverage`` of predict and evaluate."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.conftest import Ran

Run = Callable[..., Ran]


@pytest.fixture
def regression(run: Run, table: Path, tmp_path: Path) -> Path:
    """Fitted without a language model to 61 rows, with 11 for validation."""
    settings = ("--method", "logistic-regression", "--set", "features=tfidf", "--set", "c=100")
    ended = run("fit", table, *settings, "--out", tmp_path / "artifact", "--quiet")
    assert ended.status == 0, ended.err
    return tmp_path / "artifact"


def test_predict_says_the_set_and_whether_it_abstains(run: Run, regression: Path, tmp_path: Path) -> None:
    (tmp_path / "new.txt").write_text("item 1 rose\nitem 2 whale\nnothing\n")
    plain = run("predict", regression, tmp_path / "new.txt").lines
    records = run("predict", regression, tmp_path / "new.txt", "--coverage", 0.9).lines
    assert [record["labels"] for record in records[:2]] == [["red"], ["blue"]] and not records[0]["abstains"]
    for record, without in zip(records, plain, strict=True):
        assert record.pop("abstains") == (len(record.pop("labels")) != 1)
        assert record == without
    text = run("predict", regression, tmp_path / "new.txt", "--coverage", 0.9, "--to", "csv").out
    first = next(csv.DictReader(io.StringIO(text)))
    assert first["labels"] == '["red"]' and first["abstains"] == "False"


def test_evaluate_measures_the_sets(run: Run, regression: Path) -> None:
    assert run("evaluate", regression, "--no-cost", "--json").json["sets"] is None
    sets = run("evaluate", regression, "--no-cost", "--json", "--coverage", 0.8).json["sets"]
    assert (sets["coverage"], sets["by_class"], sets["right"]["n"]) == (0.8, False, 18)
    assert sets["right"]["low"] <= sets["right"]["value"] <= sets["right"]["high"] <= 1
    assert sets["by_label"].keys() == {"red", "green", "blue"} and 0 <= sets["empty"] + sets["single"] <= 1
    shown = run("evaluate", regression, "--no-cost", "--coverage", 0.8).out
    assert "80 wanted" in shown and "sets of one label (%)" in shown and "the lowest" in shown


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--coverage", 0.95), "too few validation rows for a coverage of 0.95. Got: 11. Expected: at least 19"),
        (("--coverage", 0.9, "--by-class"), "too few validation rows of"),
        (("--coverage", 90), "between 0 and 1"),
        (("--by-class",), "--by-class says how --coverage counts"),
    ],
)
@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_what_cannot_be_is_told(
    run: Run, regression: Path, command: str, flags: tuple[object, ...], words: str
) -> None:
    ended = run(command, regression, *flags)
    assert ended.status == 2 and ended.out == "" and words in ended.err
