"""How commands print: results on standard output, everything else on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from coldframe.escape import visible
from coldframe.progress import first_process
from coldframe.storage.files import to_json


def print_json(values: Any) -> None:
    """Indented JSON; what is not defined (NaN) is null."""
    print(to_json(values, indent=2))


def show(thing: RenderableType) -> None:
    """A table or text."""
    console = _Visible(highlight=False)
    # A table that is cut at 80 columns is no table: files and pipes get all of it.
    if not console.is_terminal:
        console = _Visible(highlight=False, width=240)
    console.print(thing)


class _Visible(Console):
    """A console whose colours are its own: control characters of data are shown and do nothing."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As it is, segment by segment."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


def tell(lines: Iterable[str], quiet: bool) -> None:
    """Notes, on standard error."""
    if not quiet and first_process():
        for line in lines:
            print(f"coldframe: {visible(line)}", file=sys.stderr)
