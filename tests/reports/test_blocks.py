"""Every block as HTML, as Markdown and in a terminal."""

from __future__ import annotations

import io
import sys
import typing

import pytest
from rich.console import Console
from tests.reports.pages import HOSTILE, whole

from coldframe.errors import MissingExtraError
from coldframe.reports import blocks, html, markdown, terminal
from coldframe.reports.blocks import (
    Banner,
    Bullets,
    Cell,
    Code,
    Column,
    Figure,
    Group,
    Heading,
    Mark,
    Section,
    Table,
    Terms,
    Text,
)
from coldframe.reports.figures import Bar, Bubbles, Chart, Dot, Drawing, Forest, Heatmap, Line, Scatter
from coldframe.reports.pictures import MAX_SMILES, molecule


def drawings(word: str) -> list[Drawing]:
    bars = [
        Bar("a" + word, "main", 1.0, 0.0, 9.0, "1" + word, "note" + word, points=(0.5,), start=0.0),
        Bar("b" + word, "no-lm", float("nan"), 0.0, 0.0, "not defined"),
    ]
    chart = Chart.of("up" + word, "across" + word, [Line("l" + word, ((1.0, 2.0),), ((1.0, 3.0),), (1.0, 2.0))])
    dots = [Dot("d" + word, "control", 10.0, 1.0, 0.0, 2.0), Dot("e" + word, "no-lm", 20.0, 1.0, 0.0, 2.0)]
    scatter = Scatter.of("s" + word, "x" + word, dots, ("line" + word, 1.5))
    assert chart is not None and scatter is not None
    return [
        Forest.of("axis" + word, bars, [0.5], [(-9.0, 0.1, "loss")], limits=(0.0, 2.0)),
        chart,
        scatter,
        Heatmap.of(
            "map" + word, [[0.5, -0.5]], lambda value: value, ("low" + word, (0.5,), "high"), [(0, 0, "cell" + word)]
        ),
        Bubbles("bubbles" + word, "stated" + word, ((0.5, 0.5, 3, "three" + word),)),
    ]


def everything(word: str) -> tuple[blocks.Block, ...]:
    picture = molecule("CCO", 100, 80)
    cells = [Cell("x" + word, "detail" + word, "gain", 0.9, 0.5, "hint" + word), Cell("y", picture=picture)]
    columns = [
        Column[Cell]("title" + word, lambda cell: cell, "unit" + word),
        Column[Cell]("", lambda cell: "z" + word),
    ]
    table = Table.of(columns, cells, title="table" + word)
    return (
        Banner("gain", "headline" + word, (Text("warning" + word, "warn"),), "badge" + word),
        Text(("plain" + word, Mark("code" + word, "code"), Mark("strong" + word, "strong"))),
        Heading("heading" + word),
        Bullets(("first" + word, Mark("better" + word, "gain")), "against"),
        Code("command" + word),
        Terms((("word" + word, "meaning" + word), (Mark("badge" + word, "badge main"), "m"))),
        table,
        Group((Text("inner" + word),), "fold", "fold" + word),
        Group((Text("card" + word),), "card", picture=picture),
        Group(tuple(Figure(drawing, "caption" + word) for drawing in drawings(word))),
    )


def page(word: str) -> blocks.Page:
    badge = Mark("badge" + word, "badge loss")
    sections = (Section("section" + word, everything(word), badge), Section("empty section", ()))
    return blocks.Page("page" + word, "over" + word, everything(word)[:1], sections)


@pytest.mark.parametrize("word", ["", HOSTILE])
def test_every_block_and_figure_is_shown_and_no_word_becomes_a_tag(word: str) -> None:
    shown = whole(html.render(page(word)))
    starts = (
        "page over headline warning badge plain code strong heading first better command word meaning title unit x "
    )
    starts += (
        "detail z inner fold card caption a 1 note axis up across l d e s line low cell bubbles stated three section"
    )
    for start in starts.split():
        assert start + word in shown.text, start
    assert ("td", "title", "hint" + word) in shown.attributes or ("th", "title", "hint" + word) in shown.attributes
    assert shown.tags.count("img") == 2 and "empty section" not in shown.text


def test_the_tests_know_every_block_and_every_figure() -> None:
    kinds = {type(block) for block in everything("")}
    assert kinds | {Figure} == set(typing.get_args(blocks.Block))
    assert {type(drawing) for drawing in drawings("")} == set(typing.get_args(Drawing))


def test_markdown_escapes_what_would_be_html_or_a_cell() -> None:
    text = markdown.render([*everything("<i>|\n|"), Heading("top", 1)])
    assert "<i>" not in text.replace("\\<i>", "").replace("`code<i>| |`", "").replace("command<i>|\n|", "")
    rows = [line for line in text.splitlines() if line.startswith(("| ", "|  "))]
    assert len(rows) == 4, rows
    assert all(line.replace("\\|", "").count("|") == 3 for line in rows)
    assert "**headline" in text and "# top" in text and "- better" in text and "caption" not in text


def test_the_main_row_is_bold_and_numbers_stand_on_the_right() -> None:
    columns = [
        Column[str]("name", lambda name: Cell(name, kind="main" if name == "b" else "")),
        Column[str]("kind", lambda name: "k", words=True),
        Column[str]("n", lambda name: Cell("3", "[1, 5]"), "[95%]"),
    ]
    table = Table.of(columns, ["a", "b"])
    assert markdown.render([table]).splitlines() == [
        "| name | kind | n [95%] |", "| --- | --- | ---: |", "| a | k | 3 [1, 5] |", "| **b** | k | 3 [1, 5] |",
    ]  # fmt: skip


def test_square_brackets_are_no_markup_in_a_terminal() -> None:
    out = io.StringIO()
    Console(file=out, width=300).print(terminal.render(everything("[red]x[/red]")))
    text = out.getvalue()
    for start in ("headline", "warning", "badge", "plain", "first", "table", "title", "unit", "x", "detail", "z"):
        assert start + "[red]x[/red]" in text, start


def test_columns_without_a_value_are_left_out_and_a_missing_one_is_a_dash() -> None:
    columns = [
        Column[int]("n", str),
        Column[int]("half", lambda n: None if n % 2 else str(n // 2)),
        Column[int]("none", lambda n: None),
    ]
    table = Table.of(columns, [1, 2])
    assert [column.title for column in table.columns] == ["n", "half"]
    assert [[cell.text for cell in row] for row in table.rows] == [["1", "–"], ["2", "1"]]
    assert Table.of(columns, []).columns == ()


def test_the_end_of_a_page_has_command_settings_and_time() -> None:
    section = blocks.provenance(
        "run it", {"Settings": {"a": {"b": 1}}, "None": {}}, seconds=61.4, data_name="data.json"
    )
    text = whole(html.render(blocks.Page("", "", (), (section,)))).words
    assert (
        "run it" in text and "a.b 1" in text and "It took 61 s." in text and "data.json" in text and "None" not in text
    )
    assert blocks.provenance("", {}).blocks == ()


def test_molecules_are_drawn_and_what_cannot_be_drawn_is_not() -> None:
    picture = molecule("CCO", 100, 80)
    assert picture is not None and picture.uri.startswith("data:image/svg+xml;base64,") and picture.alt == "CCO"
    for bad in ("not a molecule", "", "C" * (MAX_SMILES + 1)):
        assert molecule(bad, 100, 80) is None


def test_a_missing_template_engine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match="report"):
        html.environment()
