"""Figures of results pages: SVG files that are the same, byte for byte, each time they are drawn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from coldframe.errors import MissingExtraError
from coldframe.storage.files import atomic_path


@contextmanager
def drawing(path: str | Path, width: float, height: float) -> Iterator[Any]:
    """A matplotlib figure that is written, whole or not at all, when the block ends.

    Args:
        path: Of the SVG file.
        width: Inches.
        height: Inches.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report", "Drawing a figure") from error
    with rc_context({"svg.hashsalt": "coldframe", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False}):
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        with atomic_path(path) as temporary:
            figure.savefig(temporary, format="svg", bbox_inches="tight", metadata={"Date": None})
