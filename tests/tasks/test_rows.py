"""Readers: what was written comes back; what cannot be read is told with its line; nothing else escapes."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coldframe.errors import ColdframeError, DataError
from coldframe.tasks.cells import as_text
from coldframe.tasks.rows import SUFFIXES, parse, read_table
from coldframe.tasks.table import Problems, Row

CELL = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=20)


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(st.tuples(CELL, CELL), min_size=1, max_size=8), st.sampled_from([(".csv", ","), (".tsv", "\t")]))
def test_separated_round_trip(cells: list[tuple[str, str]], kind: tuple[str, str]) -> None:
    suffix, delimiter = kind
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([("a", "b"), *cells])
    columns, rows = parse(out.getvalue().encode(), suffix, "x", Problems())
    assert columns == ["a", "b"]
    assert [(row.values["a"], row.values["b"]) for row in rows] == cells


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(st.dictionaries(CELL, CELL | st.integers() | st.booleans() | st.none()), max_size=8))
def test_jsonl_round_trip(rows: list[dict[str, object]]) -> None:
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    assert [dict(row.values) for row in parse(data, ".jsonl", "x", Problems())[1]] == rows


def test_parquet_round_trip(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": ["x", "y"], "label": [1, 0]}), path)
    assert read_table(path, Problems()).rows == (Row(1, {"text": "x", "label": 1}), Row(2, {"text": "y", "label": 0}))


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200), st.sampled_from(SUFFIXES), st.sampled_from(["raise", "skip"]), st.booleans())
def test_arbitrary_bytes_give_rows_or_an_error_of_ours(data: bytes, suffix: str, on_error: str, pack: bool) -> None:
    data = gzip.compress(data) if pack and suffix.endswith(".gz") else data
    try:
        columns, rows = parse(data, suffix, "x", Problems(on_error))  # type: ignore[arg-type]
    except ColdframeError:
        return
    assert all(set(row.values) <= set(columns) for row in rows)
    for row in rows:
        for value in row.values.values():
            try:
                as_text(value).encode()
            except DataError:
                pass


@settings(deadline=None, max_examples=200)
@given(st.text(alphabet='{}[]":,abc01eE+-.\\u\n "', max_size=60))
def test_nearly_json_gives_rows_or_a_data_error(text: str) -> None:
    try:
        parse(text.encode(), ".jsonl", "x", Problems())
    except DataError as error:
        assert "line" in str(error)


def test_byte_order_mark_is_tolerated() -> None:
    assert parse(b"\xef\xbb\xbfa,b\n1,2\n", ".csv", "x", Problems())[0] == ["a", "b"]


def test_lines_are_counted_through_quoted_line_breaks() -> None:
    rows = parse(b'a,b\n"1\n1",2\n3,4\n', ".csv", "x", Problems())[1]
    assert [row.number for row in rows] == [2, 4]


@pytest.mark.parametrize(
    ("data", "suffix", "message"),
    [
        (b"a,b\n1,2\n1,\xff\n", ".csv", r"line 3: not UTF-8.*0xff"),
        (b"a,b\n1,2\n1,2,3\n", ".csv", r"line 3: wrong number of fields. Got: 3"),
        (b'a,b\n1,2\n"1,2\n', ".csv", r"line 3: malformed"),
        (b"a,a\n1,2\n", ".csv", r"names repeat. Got: a"),
        (b"", ".csv", r"empty"),
        (b'{"a": 1}\n{"a": 1\n', ".jsonl", r"line 2: malformed JSON"),
        (b'{"a": 1}\n[1]\n', ".jsonl", r"line 2: not a JSON object. Got: list"),
        (b'{"\\ud800": 1}\n', ".jsonl", r"line 1: a column name"),
        (b"[" * 100_000, ".jsonl", r"line 1: malformed JSON"),
    ],
)
def test_bad_files_are_told_with_the_line(data: bytes, suffix: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse(data, suffix, "x", Problems())


def test_skip_skips_and_counts() -> None:
    problems = Problems("skip")
    rows = parse(b"a,b\n1,2\n1,2,3\n1\n3,4\n", ".csv", "x", problems)[1]
    assert [row.number for row in rows] == [2, 5]
    assert problems.notes() == ["Skipped 2 unusable row(s); the first: x, line 3: wrong number of fields"]


@pytest.mark.parametrize("name", ["absent.csv", "notes.docx", "folder.csv"])
def test_files_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "notes.docx").touch()
    with pytest.raises(DataError, match=name):
        read_table(tmp_path / name, Problems())


def test_a_file_without_rows_is_told(tmp_path: Path) -> None:
    for name, text in (("a.csv", "text,label\n"), ("a.jsonl", "\n\n")):
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match="no usable rows"):
            read_table(tmp_path / name, Problems())


def test_cells() -> None:
    assert [as_text(x) for x in (None, float("nan"), "NaN", " x ", 2.0, 2.5, 3, False)] == [
        "", "", "", "x", "2", "2.5", "3", "false",
    ]  # fmt: skip
    for bad in ({"a": 1}, [1], b"x", "\ud800"):
        with pytest.raises(DataError):
            as_text(bad)
