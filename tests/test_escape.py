"""Data gives no orders to terminals and spreadsheets."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text
from tests.cli.conftest import QUICK, Ran
from tests.cli.conftest import encoders as encoders
from tests.cli.conftest import lm as lm
from tests.cli.conftest import run as run

from coldframe.cli.output import show, tell
from coldframe.escape import csv_cell, visible
from coldframe.progress import say

HOSTILE = "a\x1b]0;title\x07\x1b[2J\x9b31m\u202eb\r\x00"
Run = Callable[..., Ran]


@given(st.text())
def test_what_is_visible_has_no_control_characters(text: str) -> None:
    assert not [c for c in visible(text) if (ord(c) < 32 and c not in "\t\n") or 127 <= ord(c) < 160]
    assert visible(visible(text)) == visible(text)


@given(st.text())
def test_no_cell_is_a_formula(text: str) -> None:
    cell = csv_cell(text)
    assert isinstance(cell, str) and cell.removeprefix("'") in (text, text.removeprefix("'"))
    if cell[:1] in ("=", "+", "-", "@", "\t", "\r"):
        float(cell)


@pytest.mark.parametrize("value", [3, -2.5, None, True, "-5", "+1e-3", "", "plain", "a=b", "O=C=O"])
def test_numbers_and_plain_words_stay(value: object) -> None:
    assert csv_cell(value) == value


def test_terminals_see_names_and_do_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("name")
    table.add_row(Text(HOSTILE))
    show(table)
    show(HOSTILE)
    tell([HOSTILE], quiet=False)
    say(HOSTILE)
    out, err = capsys.readouterr()
    assert out.count("\\x1b]0;") == 2 and err.count("\\x1b[2J") == 2
    assert not {"\x1b", "\x9b", "\x07", "\u202e", "\x00", "\r"} & {*out, *err}


@pytest.mark.slow
def test_an_error_and_a_csv_of_hostile_rows(run: Run, lm: str, tmp_path: Path) -> None:
    ran = run("fit", tmp_path / "\x1b[2Jrows.csv", "--model", lm)
    assert ran.status == 2 and "\x1b" not in ran.err and "\\x1b[2J" in ran.err
    rows = [
        f'{{"text": "item {i} {word}", "label": "{label}"}}'
        for i, (word, label) in enumerate([("rose", "=red()"), ("leaf", "@green")] * 12)
    ]
    table = tmp_path / "rows.jsonl"
    table.write_text("\n".join(rows))
    assert run("fit", table, "--model", lm, "--out", tmp_path / "out", *QUICK).status == 0
    asked = tmp_path / "new.jsonl"
    asked.write_text(json.dumps({"text": "=HYPERLINK(1) rose"}) + "\n")
    ran = run("predict", tmp_path / "out", asked, "--text", "text", "--to", "csv")
    header, cells = csv.reader(io.StringIO(ran.out))
    assert "'=HYPERLINK(1) rose" in cells and {"'=red()", "'@green"} & {*cells}
    assert all(cell[:1] not in "=+-@" or float(cell) is not None for cell in (*header, *cells) if cell)
