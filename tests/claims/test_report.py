"""Ours beside theirs on a page, in Markdown and in JSON."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from tests.claims.support import scripted

from coldframe.claims import report
from coldframe.claims.entry import Entry
from coldframe.claims.reading import Measured
from coldframe.claims.runner import Finished, Result
from coldframe.claims.verdict import Ours
from coldframe.storage.files import to_json


def result(ours: Ours | None, **changes: Any) -> Result:
    entry = Entry.from_dict({**scripted(quick={"flags": {"gap": 1}}), "name": "one", **changes}).sized(True)
    measured = Measured(ours, 75.0, remark="" if ours else "It was not measured.")
    return Result(entry, "done", Finished("key", (measured,), 90.0, "python -m reproduction.gap --out <b>"))


FAILED = Result(Entry.from_dict({**scripted(paper="Another"), "name": "two"}), "failed", problem="no <disk>")
DONE = result(Ours(3.0, 2.1, 4.2, n=200, seeds=5))


def test_a_number_unfolds_into_its_command_and_says_what_it_cost() -> None:
    page = report.render_page("A paper, arXiv 0000.00000", [DONE], "smollm2", "coldframe reproduce one")
    assert (
        '<details class="unfold"><summary>3.00</summary><code>python -m reproduction.gap --out &lt;b&gt;</code>' in page
    )
    for words in (
        "[2.10, 4.20]",
        "n = 200, 5 seeds",
        "Qwen3-4B; Table 1",
        "75 s",
        "scaled down",
        "1 OK",
        "model smollm2",
    ):
        assert words in page, words


def test_what_failed_says_why_and_is_not_judged() -> None:
    page = report.render_page("Another", [FAILED], "smollm2", "coldframe reproduce two")
    assert "Failed: no &lt;disk&gt;" in page and "cannot tell here" in page and 'unfold"><' not in page


def test_what_cannot_be_read_is_said_in_its_row() -> None:
    page = report.render_page("A paper, arXiv 0000.00000", [result(None)], "smollm2", "x")
    assert "It was not measured." in page and "cannot tell here" in page


def test_markdown_has_papers_claims_and_commands() -> None:
    text = report.render_markdown([DONE, FAILED], "coldframe reproduce --all")
    assert "## A paper, arXiv 0000.00000" in text and "## Another" in text and "### A table" in text
    assert "| More is better | 3.00 [2.10, 4.20] n = 200, 5 seeds | 2 (Qwen3-4B; Table 1) |" in text
    assert "python -m reproduction.gap" in text and "coldframe reproduce --all" in text


def test_the_terminal_has_every_row() -> None:
    console = Console(width=240)
    with console.capture() as capture:
        console.print(report.render_table([DONE, FAILED]))
    shown = capture.get()
    assert "one: A table" in shown and "OK (scaled down)" in shown and "failed: no <disk>" in shown


def test_json_has_the_numbers_of_both() -> None:
    first, second = report.to_dict([DONE, FAILED])
    (row,) = first["rows"]
    assert (row["ours"]["value"], row["published"], row["verdict"], row["seconds"]) == (3.0, 2.0, "OK", 75.0)
    assert second["state"] == "failed" and second["seconds"] is None and "ours" not in second["rows"][0]
    assert to_json([first, second])


def test_papers_keep_their_order() -> None:
    by_paper = report.by_paper([DONE, FAILED, DONE])
    assert {paper: len(results) for paper, results in by_paper.items()} == {DONE.entry.paper: 2, "Another": 1}
