"""Rows that are in memory, of any library, which is told by what they can do."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coldframe.errors import ConfigError, DataError
from coldframe.tasks import load_task
from coldframe.tasks.memory import table_in_memory
from coldframe.tasks.origin import load_again

ROWS: list[dict[str, Any]] = [{"text": f"row {i}", "label": "ab"[i % 2]} for i in range(20)]


class Frame:
    """What pandas' frames have, iterating over column names as they do."""

    iloc = None

    def __init__(self, rows: list[dict[Any, Any]]) -> None:
        self.rows, self.columns = rows, list(rows[0])

    def __iter__(self) -> Iterator[Any]:
        return iter(self.columns)

    def to_dict(self, orient: str) -> list[dict[Any, Any]]:
        assert orient == "records"
        return self.rows


class Polars(Frame):
    def to_dicts(self) -> list[dict[Any, Any]]:
        return self.rows


class ClassLabel:
    names = ["a", "b"]


class Dataset:
    """What ``datasets.Dataset`` has: features, and rows by iterating."""

    features = {"text": object(), "label": ClassLabel()}

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = [{**row, "label": "ab".index(row["label"])} for row in rows]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)


class NAType:
    """As ``pandas.NA``: its truth is an error."""

    def __bool__(self) -> bool:
        raise TypeError("ambiguous")

    def __ne__(self, other: object) -> Any:
        return self


@pytest.mark.parametrize("form", [list, tuple, iter, Frame, Polars, Dataset], ids=lambda form: form.__name__)
def test_every_form_gives_the_same_task(form: Any) -> None:
    task = load_task(form(ROWS), label="label")
    assert task.schema.labels == ("a", "b") and task.schema.name == "rows"
    expected = load_task(ROWS, label="label")
    assert (task.train, task.validation, task.test) == (expected.train, expected.validation, expected.test)
    assert task.source == expected.source and len(task.source["sha256"]) == 64


def test_arrow_tables() -> None:
    pyarrow = pytest.importorskip("pyarrow")
    assert load_task(pyarrow.Table.from_pylist(ROWS)).test == load_task(ROWS).test


def test_real_frames_and_data_sets() -> None:
    pandas = pytest.importorskip("pandas")
    assert load_task(pandas.DataFrame(ROWS)).test == load_task(ROWS).test


def test_splits_of_a_data_set() -> None:
    test = [{"text": f"new {i}", "label": "ab"[i % 2]} for i in range(4)]
    task = load_task({"train": Dataset(ROWS), "test": Dataset(test)})
    assert [row.text for row in task.test] == ["new 0", "new 1", "new 2", "new 3"]
    assert len(task.train) + len(task.validation) == 20 and task.schema.labels == ("a", "b")
    assert len(load_task({"train": ROWS}).test) == 4, "one part is split as any table"
    assert load_task(ROWS, test=test).test[0].text == "new 0"


def test_a_label_that_a_data_set_keeps_to_itself_is_missing() -> None:
    data = Dataset(ROWS)
    data.rows[3]["label"] = -1
    with pytest.raises(DataError, match="row 4: the label is empty"):
        load_task(data)


def test_questions_and_stores_in_memory() -> None:
    passages = [{"title": "It", "text": "It lies in Rome."}, {"title": "She", "text": "She lives in Oslo."}]
    task = load_task(passages, questions=[{"question": "Where?", "answer": "Rome"}])
    assert len(task.store or ()) == 2 and task.test[0].target == "Rome"
    assert len(load_task(ROWS, store=passages).store or ()) == 2


def test_cells_of_other_libraries() -> None:
    row = {
        "text": np.str_("a"), "label": np.int64(1), "float": np.float32(0.5), "nan": math.nan, "na": NAType(),
        "flag": np.bool_(True), "list": np.array(["x", "y"]), "when": datetime.date(2026, 1, 31), 7: "seven",
    }  # fmt: skip
    values = table_in_memory([row]).rows[0].values
    assert values == {
        "text": "a", "label": 1, "float": 0.5, "nan": None, "na": None, "flag": True, "list": ["x", "y"],
        "when": "2026-01-31", "7": "seven",
    }  # fmt: skip
    assert type(values["label"]) is int and type(values["flag"]) is bool


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "there are no rows"),
        ([("text", "label")], "row 1: not a mapping of columns to cells. Got: tuple"),
        (["a text"], "row 1: not a mapping"),
        ({"text": ["a"], "label": ["b"]}, "A mapping is read as splits. Got: the keys text, label"),
        (7, "this holds no rows. Got: int"),
        (b"text", "this holds no rows. Got: bytes"),
    ],
)
def test_what_is_no_table(data: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_task(data)


def test_rows_in_memory_cannot_be_loaded_again(tmp_path: Path) -> None:
    task = load_task(ROWS)
    origin: Mapping[str, Any] = {"options": dict(task.options), "source": dict(task.source)}
    with pytest.raises(ConfigError, match="does not say where its task came from"):
        load_again(origin)
    with pytest.raises(DataError, match="were in memory"):
        load_task(task.options["data"])
    with pytest.raises(ConfigError, match="brings its own rows"):
        load_task("b3db", test=ROWS)


def test_a_name_that_is_long_is_a_name() -> None:
    with pytest.raises(DataError, match="has this name"):
        load_task("a text " * 100)
