"""How much work a claim is, and how long it took before: what is said before it starts."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coldframe.claims.entry import Entry
from coldframe.config import read_mapping
from coldframe.evaluation.jobs import TRAINING_ABLATIONS, own_settings, rows_of
from coldframe.methods.registry import create
from coldframe.progress import duration
from coldframe.reports.numbers import plural

#: Seconds that entries took, by size and name; in the folder of the results, and in that of the claims.
TIMINGS = "timings.json"


@dataclasses.dataclass(frozen=True)
class Effort:
    """What a claim will cost.

    Attributes:
        fits: Trainings, those of tuning and of retrained ablations among them; None of a script.
        seconds: About how long it takes; None where nothing is known.
        basis: Where that is known from, in words.
    """

    fits: int | None
    seconds: float | None
    basis: str

    @property
    def work(self) -> str:
        """The work in words."""
        return "a script" if self.fits is None else plural(self.fits, "fit")

    @property
    def time(self) -> str:
        """The time in words."""
        return "time unknown" if self.seconds is None else f"about {duration(self.seconds)} ({self.basis})"


def fits_of(run: Mapping[str, Any]) -> int:
    """Trainings of a comparison, controls without a language model left out; they take seconds.

    >>> fits_of({"methods": ["zero-shot", "mha-esp"], "seeds": [0, 1], "ablations": ["shuffled-labels"]})
    4
    """
    methods, settings = rows_of(run["methods"]), run.get("method_settings", {})
    seeds, tune = len(run.get("seeds", (0, 1, 2))), int(run.get("tune", 0))
    trained = [row for row, method in methods.items() if create(method, own_settings(settings.get(row, {}))).trainable]
    ablations = sum(name in TRAINING_ABLATIONS for name in run.get("ablations", TRAINING_ABLATIONS))
    sweeps = sum(len(values) for values in run.get("sweeps", {}).values())
    return (len(trained) + ablations + sweeps) * seeds + tune * len(trained)


class Timings:
    """How long entries took: here, and where the reproduction's own file of timings was made.

    Args:
        size: Model and scale, under which timings are kept.
        here: The folder of the results.
        shipped: The folder of the claims.
    """

    def __init__(self, size: str, here: Path, shipped: Path) -> None:
        self.size, self.path = size, here / TIMINGS
        self._here, self._shipped = _read(self.path), _read(shipped / TIMINGS)

    def of(self, entry: Entry) -> Effort:
        """What an entry, sized as it will run, will cost."""
        fits = None if entry.run is None else fits_of(entry.run)
        for timings, basis in ((self._here, "as long as before"), (self._shipped, "timed on another machine")):
            if (seconds := timings.get(self.size, {}).get(entry.name)) is not None:
                return Effort(fits, seconds["seconds"], basis)
        rates = [
            timed["seconds"] / timed["fits"]
            for timings in (self._here, self._shipped)
            for timed in timings.get(self.size, {}).values()
            if timed.get("fits")
        ]
        if not rates or fits is None:
            return Effort(fits, None, "")
        return Effort(fits, fits * statistics.median(rates), "by the seconds a fit of other claims")

    def record(self, entry: Entry, seconds: float) -> dict[str, Any]:
        """All timings here, with one more."""
        fits = None if entry.run is None else fits_of(entry.run)
        of_size = self._here.setdefault(self.size, {})
        of_size[entry.name] = {"seconds": round(seconds, 1), "fits": fits}
        return self._here


def _read(path: Path) -> dict[str, dict[str, dict[str, Any]]]:
    return read_mapping(path) if path.is_file() else {}


def announced(efforts: Mapping[str, Effort]) -> Sequence[str]:
    """What is said before the work starts: a line for each claim and their sum."""
    lines = [f"{name}: {effort.work}, {effort.time}" for name, effort in efforts.items()]
    known = [effort.seconds for effort in efforts.values() if effort.seconds is not None]
    fits = sum(effort.fits or 0 for effort in efforts.values())
    missing = len(efforts) - len(known)
    total = f"about {duration(sum(known))}" if known else "time unknown"
    untimed = f", without {missing} that were never timed" if missing and known else ""
    return [*lines, f"all together: {plural(fits, 'fit')}, {total}{untimed}"] if len(efforts) > 1 else lines
