"""Progress on standard error: lines, and bars that say what is done, how fast, how long still.

On a terminal a bar is drawn. Elsewhere (logs, notebooks) lines go to the logger ``coldframe``, at least every
:data:`EVERY` seconds while the work goes on.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from coldframe.escape import visible

#: Seconds between two lines where there is no terminal; a little less than the 30 s that are promised.
EVERY = 25.0
#: What work is estimated by: so many reports of it, over so many seconds; shorter work needs no estimate.
REPORTS, SECONDS, WORTH_SAYING = 3, 2.0, 30.0

LOGGER = logging.getLogger("coldframe")

#: Bars that are open, the innermost last: that one speaks.
_OPEN: list[Bar] = []
#: When the last bar closed, and when it last said something: what follows at once continues its silence.
_CLOSED = (float("-inf"), float("-inf"))


class _Stderr(logging.Handler):
    """Lines on whatever standard error is at the time, as in a notebook cell."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        sys.stderr.write(f"coldframe: {record.getMessage()}\n")
        sys.stderr.flush()


def several_processes() -> bool:
    """Whether ``torchrun`` or ``accelerate launch`` started several processes, this one among them."""
    return os.environ.get("WORLD_SIZE", "1") != "1"


def first_process() -> bool:
    """Whether this process is the one that writes and speaks."""
    return not several_processes() or os.environ.get("RANK", "0") == "0"


def say(message: str) -> None:
    """One line of progress: where the program's logging puts it, or on standard error if it has none."""
    if not first_process():
        return
    if not LOGGER.hasHandlers():
        to_stderr()
    if LOGGER.level == logging.NOTSET:
        LOGGER.setLevel(logging.INFO)
    LOGGER.info("%s", visible(message))


def to_stderr() -> None:
    """Let the lines go to standard error."""
    if not any(isinstance(handler, _Stderr) for handler in LOGGER.handlers):
        LOGGER.addHandler(_Stderr())


def duration(seconds: float) -> str:
    """A time for people.

    >>> duration(89), duration(130), duration(9000)
    ('89 s', '2 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Bar:
    """One bar, or lines where standard error is no terminal; silent when asked.

    Once the first reports of work tell how long all of it will take, that is said, if it is more than half a minute.

    Args:
        total: Units of work; None where they cannot be counted.
        title: What is being done.
        quiet: Say nothing at all.
    """

    def __init__(self, total: int | None, title: str, quiet: bool = False) -> None:
        self.total, self.title, self.quiet = total, title, quiet
        self.done = self.skipped = self._reports = 0
        self._started = self._last = _now()
        self._end, self._extra, self._estimated = threading.Event(), "", False
        self._part = False
        self._lock = threading.Lock()
        terminal = sys.stderr.isatty()
        self._lines = not quiet and not terminal
        work = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]} {task.fields[extra]}"))
        self._live = Progress(
            TextColumn("{task.description}"),
            *(work if total else ()),
            TimeRemainingColumn() if total else TimeElapsedColumn(),
            console=Console(stderr=True),
            disable=quiet or not terminal,
        )
        self._task = self._live.add_task(title, total=total, rate="", extra="")

    def skip(self, count: int) -> None:
        """Count work that was done before; it tells nothing of the rate."""
        self.done += count
        self.skipped += count
        self._live.advance(self._task, count)

    def advance(self, count: int, **values: float) -> None:
        """Count work as done, with values to show beside it."""
        self.done += count
        self._reports += 1
        self._extra = " ".join(f"{name} {value:.3f}" for name, value in values.items())
        self._live.advance(self._task, count)
        self._live.update(self._task, rate=_rate(self._speed()), extra=self._extra)
        self._estimate()
        self.beat()

    def note(self, values: dict[str, float]) -> None:
        """Print one line that stays; work that is a part of other work leaves that to the whole."""
        if values and not self._part:
            self._say(", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in values.items()))

    def beat(self) -> None:
        """A line on how far the work is, if there was none for :data:`EVERY` seconds and there is no terminal."""
        with self._lock:
            if not self._lines or _now() - self._last < EVERY or (_OPEN and _OPEN[-1] is not self):
                return
            self._last = _now()
        self._say(self._state())

    def _state(self) -> str:
        took = _now() - self._started
        speed = self._speed()
        if self.total is None:
            return f"{self.done:,} done, {_rate(speed)}" if self.done else f"still at it, {duration(took)}"
        parts = [f"{self.done:,} of {self.total:,}"]
        parts += [_rate(speed), f"about {duration((self.total - self.done) / speed)} left"] if speed else []
        return ", ".join(filter(None, [*parts, f"{duration(took)} so far" if not speed else "", self._extra]))

    def _speed(self) -> float:
        took = _now() - self._started
        return (self.done - self.skipped) / took if took > 0 else 0.0

    def _estimate(self) -> None:
        """What all of it will take, once, by what was measured so far."""
        took, speed = _now() - self._started, self._speed()
        if self._estimated or self._reports < REPORTS or took < SECONDS or not speed or self.total is None:
            return
        self._estimated = True
        left = (self.total - self.done) / speed
        if left > WORTH_SAYING:
            self._say(f"about {duration(took + left)} for {self.total:,} (measured on the first {self.done:,})")

    def _say(self, line: str) -> None:
        if self._lines:
            around = [f"{bar.title} {bar.done} of {bar.total}" for bar in _OPEN if bar is not self and bar.total]
            say(" · ".join([*around, f"{self.title}: {line}"]))
        elif not self.quiet:
            self._live.console.print(f"{self.title}: {line}", highlight=False, markup=False)

    def _watch(self) -> None:
        while not self._end.wait(1.0):
            self.beat()

    def __enter__(self) -> Self:
        self._started = self._last = _now()
        self._part = bool(_OPEN)
        if self._lines:  # its silence began with the last line of the one around it, or of the one before
            closed, last = _CLOSED
            self._last = _OPEN[-1]._last if _OPEN else last if 0 <= self._last - closed < 1 else self._last
        if any(bar._live.live.is_started for bar in _OPEN):  # a terminal shows one at a time
            self._live.disable = True
        if not self.quiet:
            _OPEN.append(self)
        self._live.start()
        if self._lines:  # a single step may take minutes, and says nothing while it does
            threading.Thread(target=self._watch, name="coldframe progress", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _CLOSED
        self._end.set()
        if self in _OPEN:
            _OPEN.remove(self)
        if self._lines:  # one that is quiet has broken no silence
            _CLOSED = (_now(), self._last)
            if _OPEN:
                _OPEN[-1]._last = max(_OPEN[-1]._last, self._last)
        self._live.stop()


def working(title: str, quiet: bool = False) -> Bar:
    """For work that cannot be counted: says now and then that it goes on."""
    return Bar(None, title, quiet)


def speaking() -> bool:
    """Whether work is going on that tells how far it is: then its parts may tell so, too."""
    return bool(_OPEN)


def _rate(speed: float) -> str:
    """Work a second, or seconds for each, whichever is the larger number.

    >>> _rate(12.3), _rate(0.05), _rate(0.0)
    ('12/s', '20 s each', '')
    """
    if not speed:
        return ""
    return f"{speed:.0f}/s" if speed >= 1 else f"{duration(1 / speed)} each"


def _now() -> float:
    return time.monotonic()
