"""How commands print: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, RenderableType

from coldframe.config import without_nan


def print_json(values: Any) -> None:
    """Indented JSON; what is not defined (NaN) is null."""
    print(json.dumps(without_nan(values), indent=2, ensure_ascii=False, allow_nan=False))


def show(thing: RenderableType) -> None:
    """A table or text."""
    console = Console(highlight=False)
    # A table that is cut at 80 columns is no table: files and pipes get all of it.
    if not console.is_terminal:
        console = Console(highlight=False, width=240)
    console.print(thing)


def tell(lines: Iterable[str], quiet: bool) -> None:
    """Notes, on standard error."""
    if not quiet:
        for line in lines:
            print(f"coldframe: {line}", file=sys.stderr)
