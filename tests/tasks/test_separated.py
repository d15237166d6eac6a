"""CSV and TSV as people write them: quotes that are text, other separators, very long cells."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from coldframe.errors import ColdframeError
from coldframe.tasks import load_task
from coldframe.tasks.rows import parse
from coldframe.tasks.table import Problems

LETTERS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)
SEPARATED = st.text(alphabet='ab",;|\t\n\r ', max_size=80)


def read(text: str, suffix: str = ".csv") -> tuple[list[str], list[tuple[int, list[str]]], list[str]]:
    problems = Problems()
    columns, rows = parse(text.encode(), suffix, "x", problems)
    return columns, [(row.number, list(row.values.values())) for row in rows], problems.remarks


def labelled(*texts: str) -> str:
    return "".join(f"{text}\t{'ab'[i % 2]}\n" for i, text in enumerate(texts))


def test_a_quote_that_does_not_close_is_text_in_a_tsv(tmp_path: Path) -> None:
    texts = [f"row {i}" for i in range(60)]
    texts[10], texts[14] = '"so he began', 'and ended"'
    path = tmp_path / "a.tsv"
    path.write_text("text\tlabel\n" + labelled(*texts))
    task = load_task(path)
    rows = sorted((*task.train, *task.validation, *task.test), key=lambda row: row.row)
    assert [row.text for row in rows] == texts
    (note,) = (note for note in task.notes if "quote" in note)
    assert note.startswith("WARNING: a.tsv: 1 field(s) begin with a quote") and "line 12" in note


@pytest.mark.parametrize(
    ("field", "value"),
    [('"said ""yes"""', 'said "yes"'), ('5" pipe', '5" pipe'), ('"a" and "b"', '"a" and "b"'), ('"', '"'), ('""', "")],
)
def test_quotes_around_a_whole_field_of_a_tsv_are_taken_off(field: str, value: str) -> None:
    assert read(f"text\tlabel\n{field}\tx\n", ".tsv")[1] == [(2, [value, "x"])]


def test_quoted_tabs_and_line_breaks_of_a_tsv() -> None:
    for cell in ("one\tand two", "one\nand two"):
        rows = read(f'text\tlabel\n"{cell}"\tx\nfour\ty\n', ".tsv")[1]
        assert [values for _, values in rows] == [[cell, "x"], ["four", "y"]]
    quoted = '"text"\t"label"\n"one\ttwo\nthree"\t"x"\n'
    assert read(quoted, ".tsv")[1] == [(2, ["one\ttwo\nthree", "x"])], "who quotes the header quotes all"
    assert len(read(quoted.replace('"text"', "text"), ".tsv")[1]) == 2, "else lines that are rows are rows"


def test_a_quote_of_a_csv_that_swallows_rows_is_told() -> None:
    rows, remarks = read('text,label\n"hello,a\ngood day,b\nworld",b\nbye,a\n')[1:]
    assert [number for number, _ in rows] == [2, 5], "quotes of CSV may go over lines"
    assert len(remarks) == 1 and "opens in line 2 and closes in line 4" in remarks[0]
    assert not read('text,label\n"Dear all,\nthe parcel, the box,\nand so on",b\n')[2], "these are lines of a text"
    assert not read('text\n"one\ntwo"\n')[2]


def test_a_text_longer_than_the_csv_module_s_limit() -> None:
    limit = csv.field_size_limit()
    text = "word " * 28_000
    for suffix, separator in ((".csv", ","), (".tsv", "\t")):
        assert read(f'text{separator}label\n"{text}"{separator}x\n', suffix)[1] == [(2, [text, "x"])]
    assert csv.field_size_limit() == limit


@pytest.mark.parametrize(
    ("separator", "name"), [(";", "a semicolon (';')"), ("\t", "a tab"), ("|", "a vertical bar ('|')")]
)
def test_another_separator_is_found_and_said(separator: str, name: str) -> None:
    lines = [separator.join(fields) for fields in (("text", "label"), ("a, b, c", "x"), ("d", "y"))]
    columns, rows, remarks = read("\n".join(lines))
    assert columns == ["text", "label"] and rows == [(2, ["a, b, c", "x"]), (3, ["d", "y"])]
    assert remarks == [f"The fields of x are separated by {name}."]


def test_separators_that_are_text() -> None:
    assert read("text\na;b\nc;d\n")[0] == ["text"], "the header has none"
    assert read("a;b,label\nx,y\n")[0] == ["a;b", "label"], "the usual one is there"
    assert read("note; text\nx;y;z\nw\n")[0] == ["note; text"], "the lines differ"
    assert read("text,label\nx,y\n", ".tsv")[0] == ["text", "label"]


def test_the_cases_file() -> None:
    path = Path(__file__).parents[3] / "shared" / "cases" / "semicolons.csv"
    if not path.exists():
        pytest.skip("no cases here")
    task = load_task(path)
    assert task.schema.labels == ("a", "b") and any("semicolon" in note for note in task.notes)


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(st.tuples(LETTERS, LETTERS), min_size=1, max_size=6), st.sampled_from([",", "\t"]))
def test_what_the_csv_module_writes_comes_back(cells: list[tuple[str, str]], separator: str) -> None:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=separator).writerows([("a", "b"), *cells])
    if separator == "\t":  # with a line break in a cell, lines of a TSV may happen to be rows by themselves
        assume(not any(set(cell) & set("\n\r") for row in cells for cell in row))
    rows = read(out.getvalue(), ".csv" if separator == "," else ".tsv")[1]
    assert [values for _, values in rows] == list(map(list, cells))


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(st.lists(st.text(alphabet='ab" ,;', min_size=1, max_size=8), min_size=1, max_size=8))
def test_every_line_of_a_tsv_is_a_row(texts: Sequence[str]) -> None:
    rows = read("text\tlabel\n" + labelled(*texts), ".tsv")[1]
    assert [number for number, _ in rows] == list(range(2, len(texts) + 2))
    for text, (_, (value, _)) in zip(texts, rows, strict=True):
        assert value in (text, text[1:-1].replace('""', '"'))


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(SEPARATED, st.sampled_from([".csv", ".tsv"]), st.booleans())
def test_any_text_gives_rows_or_an_error_of_ours(text: str, suffix: str, skip: bool) -> None:
    problems = Problems("skip" if skip else "raise")
    try:
        columns, rows = parse(text.encode(), suffix, "x", problems)
    except ColdframeError:
        return
    assert all(list(row.values) == columns for row in rows)
    assert [row.place for row in rows] == sorted({row.place for row in rows})
    assert max([row.place for row in rows], default=0) <= len(rows) + len(problems.skipped)
