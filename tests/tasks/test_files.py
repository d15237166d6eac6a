"""Files of rows in the forms that people keep them in."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coldframe.errors import DataError, MissingExtraError
from coldframe.tasks import load_task
from coldframe.tasks.rows import parse, read_table
from coldframe.tasks.table import MAX_BYTES, Problems

ROWS = [{"text": f"row {i}", "label": "ab"[i % 2]} for i in range(20)]
CELL = st.text(st.characters(codec="utf-8"), max_size=10) | st.integers() | st.booleans() | st.none()


def contents(kind: str) -> str:
    if kind in ("csv", "tsv"):
        separator = "," if kind == "csv" else "\t"
        return "\n".join(separator.join(row) for row in (("text", "label"), *(row.values() for row in ROWS)))
    return json.dumps(ROWS) if kind == "json" else "".join(json.dumps(row) + "\n" for row in ROWS)


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "ndjson", "json"])
@pytest.mark.parametrize("packed", [False, True])
def test_every_form_gives_the_same_task(kind: str, packed: bool, tmp_path: Path) -> None:
    path = tmp_path / f"moods.{kind}{'.gz' if packed else ''}"
    data = contents(kind).encode()
    path.write_bytes(gzip.compress(data) if packed else data)
    task = load_task(path)
    assert task.schema.name == "moods" and len(task.train) + len(task.validation) + len(task.test) == 20
    assert {row.text for row in task.test} <= {str(row["text"]) for row in ROWS}
    assert load_task(path, test_size=5).source["file"] == path.name


def test_packed_files_that_are_damaged_or_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.csv.gz"
    whole = gzip.compress(contents("csv").encode())
    for data in (whole[:-9], whole[:20] + bytes(8) + whole[28:], b"text,label\n", b""):
        path.write_bytes(data)
        with pytest.raises(DataError, match="cannot be unpacked|is empty"):
            read_table(path, Problems())
    assert MAX_BYTES >= 1 << 20
    monkeypatch.setattr("coldframe.tasks.rows.MAX_BYTES", 1_000)
    path.write_bytes(gzip.compress(b"text,label\n" + b"a,b\n" * 1_000))
    with pytest.raises(DataError, match="too large. Got: more when unpacked"):
        read_table(path, Problems())


def test_json_that_is_called_otherwise(tmp_path: Path) -> None:
    for name, kind in (("array.jsonl", "json"), ("lines.json", "jsonl")):
        problems = Problems()
        (tmp_path / name).write_text(contents(kind))
        table = read_table(tmp_path / name, problems)
        assert [dict(row.values) for row in table.rows] == ROWS and len(problems.remarks) == 1
    single = read_table_of(tmp_path, '{"text": "a", "label": 1}')
    assert [row.number for row in single.rows] == [1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1},\n {"a": }]', "a.json, line 2: malformed JSON"),
        ('{"data": [{"a": 1}], "version": 2}', "no list of rows. Got: an object with 'data', 'version'"),
        ("7", "no list of rows"),
        ('[{"a": 1}, 7]', "a.json, row 2: not a JSON object. Got: int"),
        ("", "malformed JSON"),
        ("[]", "no usable rows"),
    ],
)
def test_json_that_is_no_array_of_rows(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_table_of(tmp_path, text)


def read_table_of(folder: Path, text: str) -> Any:
    (folder / "a.json").write_text(text)
    return read_table(folder / "a.json", Problems())


def test_places_count_the_lines_that_cannot_be_read() -> None:
    rows = parse(b'\n{"a": 1}\nnonsense\n\n7\n{"a": 2}\n', ".jsonl", "x", Problems("skip"))[1]
    assert [(row.number, row.place) for row in rows] == [(2, 1), (6, 4)]


def test_excel(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    import datetime

    book = openpyxl.Workbook()
    book.active.append(["text", "label", None, "when"])
    for i in range(20):
        book.active.append([f"row {i}", i % 2, None, datetime.date(2026, 1, 31)])
        book.active.append([]) if i == 3 else None
    book.create_sheet("other").append(["nothing"])
    path = tmp_path / "moods.xlsx"
    book.save(path)
    table = read_table(path, Problems())
    assert table.columns == ("text", "label", "column 3", "when")
    assert dict(table.rows[0].values) == {"text": "row 0", "label": 0, "column 3": None, "when": "2026-01-31T00:00:00"}
    assert [row.number for row in table.rows[3:5]] == [5, 7] and table.rows[4].place == 5
    task = load_task(path, text="text", label="label")
    assert task.schema.labels == ("0", "1") and len(task.test) == 4


def test_what_is_no_excel_file(tmp_path: Path) -> None:
    pytest.importorskip("openpyxl")
    import zipfile

    path = tmp_path / "a.xlsx"
    for write in (lambda: path.write_bytes(b"text,label"), lambda: zipfile.ZipFile(path, "w").close()):
        write()
        with pytest.raises(DataError, match="not a readable Excel file"):
            read_table(path, Problems())


def test_a_sheet_with_a_cell_at_the_end_of_the_world_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    openpyxl = pytest.importorskip("openpyxl")
    import zipfile

    monkeypatch.setattr("coldframe.tasks.sheets.MAX_CELLS", 40_000)
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"

    openpyxl.Workbook().save(tmp_path / "plain.xlsx")
    for place, (row, width, problem) in enumerate(
        [(2_000_000_000, 1, "more than 100,000 empty rows"), (2, 3, "too many cells.*at most 40,000")]
    ):
        rows = "".join(f'<row r="{n}"><c r="ZZZ{n}"><v>1</v></c></row>' for n in range(row, row + width))
        sheet = f'<worksheet xmlns="{main}"><sheetData>{rows}</sheetData></worksheet>'
        path = tmp_path / f"{place}.xlsx"
        with zipfile.ZipFile(tmp_path / "plain.xlsx") as plain, zipfile.ZipFile(path, "w") as book:
            for name in plain.namelist():
                book.writestr(name, sheet if name == "xl/worksheets/sheet1.xml" else plain.read(name))
        with pytest.raises(DataError, match=problem):
            read_table(path, Problems())


def test_excel_without_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    (tmp_path / "a.xlsx").touch()
    with pytest.raises(MissingExtraError, match=r"coldframe\[excel\]"):
        read_table(tmp_path / "a.xlsx", Problems())


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "rows.csv").write_text(contents("csv"))
    (tmp_path / "test.csv").write_text("text,label\nnew,a\n")
    task = load_task("~/rows.csv", test="~/test.csv")
    assert len(task.train) + len(task.validation) == 20 and len(task.test) == 1
    assert task.options["data"] == "~/rows.csv"


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), CELL), min_size=1, max_size=6))
def test_json_arrays_come_back(rows: list[dict[str, Any]]) -> None:
    for suffix in (".json", ".jsonl"):
        assert [dict(row.values) for row in parse(json.dumps(rows).encode(), suffix, "x", Problems())[1]] == rows
