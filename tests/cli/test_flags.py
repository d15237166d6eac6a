"""Flags that may stand alone."""

from __future__ import annotations

import pytest

from coldframe.cli.fit import Fit
from coldframe.cli.parsing import parse


@pytest.mark.parametrize(
    ("words", "way"),
    [
        (["a.csv"], "none"),
        (["a.csv", "--quiet"], "none"),
        (["a.csv", "--calibrate"], "validation"),
        (["--calibrate", "a.csv"], "validation"),
        (["a.csv", "--calibrate", "--quiet"], "validation"),
        (["a.csv", "--calibrate", "batch"], "batch"),
        (["--calibrate=contextual", "a.csv"], "contextual"),
    ],
)
def test_calibrate_alone_corrects_by_validation_rows(words: list[str], way: str) -> None:
    options = parse(Fit, "fit", words)
    assert (options.calibrate, options.task.data) == (way, "a.csv")
