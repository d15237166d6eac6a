"""Progress on standard error: lines, and bars that say what is done, how fast, how long still."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from coldframe.escape import visible


def say(message: str) -> None:
    """One line of progress on the standard error stream."""
    sys.stderr.write(f"coldframe: {visible(message)}\n")
    sys.stderr.flush()


def duration(seconds: float) -> str:
    """A time for people.

    >>> duration(89), duration(130)
    ('89 s', '2 min')
    """
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


class Bar:
    """One bar; silent when asked, or when standard error is not a terminal (then only notes are printed).

    Args:
        total: Units of work.
        title: What is being done.
        quiet: Say nothing at all.
    """

    def __init__(self, total: int, title: str, quiet: bool = False) -> None:
        self.title, self.quiet = title, quiet
        self._live = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]} {task.fields[extra]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=quiet or not sys.stderr.isatty(),
        )
        self._task = self._live.add_task(title, total=total, rate="", extra="")

    def advance(self, count: int, **values: float) -> None:
        """Count work as done, with values to show beside it."""
        self._live.advance(self._task, count)
        speed = self._live.tasks[0].speed
        extra = " ".join(f"{name} {value:.3f}" for name, value in values.items())
        self._live.update(self._task, rate=f"{speed:.0f}/s" if speed else "", extra=extra)

    def note(self, values: dict[str, float]) -> None:
        """Print one line that stays."""
        if not self.quiet and values:
            line = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in values.items())
            self._live.console.print(f"{self.title}: {line}", highlight=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()
