"""What ``coldframe predict`` writes: one record a line, or one list; any language, whatever the terminal is set to."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.conftest import Ran

from coldframe.cli import main

Run = Callable[..., Ran]


@pytest.mark.slow
def test_a_list_in_the_place_of_lines(run: Run, fitted: Path, tmp_path: Path) -> None:
    (tmp_path / "new.txt").write_text("a rose\nthe sea\n")
    lines = run("predict", fitted, tmp_path / "new.txt").lines
    assert run("predict", fitted, tmp_path / "new.txt", "--json", "--quiet").json == lines
    both = run("predict", fitted, tmp_path / "new.txt", "--json", "--to", "csv")
    assert both.status == 2 and both.out == "" and "two formats" in both.err


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1"])
def test_utf8_always(fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    (tmp_path / "new.txt").write_text("a rose 😀 وردة\n", encoding="utf-8")
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding))
    assert main(["predict", str(fitted), str(tmp_path / "new.txt")]) == 0
    assert json.loads(written.getvalue().decode("utf-8"))["text"] == "a rose 😀 وردة"
