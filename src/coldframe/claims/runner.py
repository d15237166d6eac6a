"""Runs claims one after another, each kept when it is done; one that fails does not stop the others."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import yaml

from coldframe import __version__
from coldframe.claims.effort import Effort, Timings
from coldframe.claims.entry import ENTRIES, Entry, Row
from coldframe.claims.reading import Measured, of_comparison, of_results
from coldframe.claims.verdict import Verdict, judge
from coldframe.config import Config, read_mapping
from coldframe.errors import ColdframeError, DataError, first_line
from coldframe.evaluation.comparison import Comparison
from coldframe.progress import duration, say, working
from coldframe.storage.files import write_json, write_text
from coldframe.tasks.task import content_hash

#: Makes a comparison: the file of its recipe, the folder of its results, the command that it was asked by.
Compare: TypeAlias = Callable[[Path, Path, str], Comparison]
State: TypeAlias = Literal["done", "failed", "left out"]


@dataclasses.dataclass(frozen=True)
class Finished(Config):
    """What is kept of a claim that is done.

    Args:
        key: Names all that it depends on.
        rows: Ours, for every row of the claim.
        seconds: What all of it took to make, over interruptions.
        command: What makes it again.
    """

    section = "finished claim"

    key: str
    rows: tuple[Measured, ...]
    seconds: float
    command: str


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of a claim.

    Attributes:
        entry: As it ran.
        state: ``left out`` where it needs a folder of question sets and none was named.
        finished: Of one that is done.
        problem: Why it is not.
    """

    entry: Entry
    state: State
    finished: Finished | None = None
    problem: str = ""

    @property
    def judged(self) -> list[tuple[Row, Measured | None, Verdict]]:
        """Every row with ours and the verdict."""
        measured = self.finished.rows if self.finished is not None else [None] * len(self.entry.rows)
        rows = zip(self.entry.rows, measured, strict=True)
        return [(row, mine, judge(row, None if mine is None else mine.ours)) for row, mine in rows]


@dataclasses.dataclass(frozen=True)
class Reproduction:
    """A run over claims.

    Attributes:
        folder: Of the reproduction; scripts are its modules.
        out: Of the results: a folder for each model and scale below it.
        compare: Makes a comparison.
        model: The frozen model, where a claim names none.
        quick: Scaled down.
        data: Folder of question sets, if there is one.
        quiet: No progress.
    """

    folder: Path
    out: Path
    compare: Compare
    model: str = "smollm2"
    quick: bool = False
    data: Path | None = None
    quiet: bool = False

    @property
    def home(self) -> Path:
        """The folder of the results of this model and scale."""
        slug = "".join(letter if letter.isalnum() or letter in ".-" else "-" for letter in self.model)
        return self.out / (f"{slug}-quick" if self.quick else slug)

    @property
    def timings(self) -> Timings:
        """How long claims took before."""
        return Timings(self.home.name, self.out, self.folder / ENTRIES)

    def sized(self, entry: Entry) -> Entry:
        """A claim as it runs here: with this model, scaled down if that is wanted."""
        sized = entry.sized(self.quick)
        if sized.run is None:
            return sized
        return dataclasses.replace(sized, run={"model": self.model, **sized.run})

    def effort(self, entry: Entry) -> Effort:
        """What a claim will cost now; nothing where it is kept."""
        sized = self.sized(entry)
        finished = self.finished(sized)
        effort = self.timings.of(sized)
        return effort if finished is None else dataclasses.replace(effort, seconds=0.0, basis="done before")

    def finished(self, sized: Entry) -> Finished | None:
        """What is kept of a claim, if it is of these settings."""
        path = self.home / f"{sized.name}.json"
        if not path.is_file():
            return None
        finished = Finished.from_dict(read_mapping(path), results=True)
        return finished if finished.key == self._key(sized) else None

    def run(self, entries: Mapping[str, Entry]) -> list[Result]:
        """Run what is not kept, in order."""
        results = []
        for number, entry in enumerate(entries.values(), start=1):
            result = self._run(entry)
            results.append(result)
            if not self.quiet:
                took = "" if result.finished is None else f", {duration(result.finished.seconds)} to make"
                why = f": {result.problem}" if result.problem else ""
                say(f"[{number}/{len(entries)}] {entry.name}: {result.state}{took}{why}")
        return results

    def _run(self, entry: Entry) -> Result:
        sized = self.sized(entry)
        if sized.needs_data and self.data is None:
            return Result(sized, "left out", problem="it reads sets of questions; name their folder with --data")
        finished = self.finished(sized)
        if finished is not None:
            return Result(sized, "done", finished)
        started, before = time.perf_counter(), self._spent(sized)
        try:
            rows, command, made = self._compared(sized) if sized.script is None else self._scripted(sized, before)
        except Exception as error:  # whatever it is: the claims after it are still to be run
            write_text(self.home / f"{entry.name}.error.txt", traceback.format_exc())
            problem = (
                str(error) if isinstance(error, ColdframeError) else f"{type(error).__name__}: {first_line(error)}"
            )
            return Result(sized, "failed", problem=problem)
        finally:
            # Also of what was interrupted: the next run goes on where it stopped, and its time is not the whole.
            seconds = before + time.perf_counter() - started
            write_json(self._spent_path(sized), {self._key(sized): round(seconds, 1)})
        (self.home / f"{entry.name}.error.txt").unlink(missing_ok=True)
        seconds = max(seconds, made)  # a run that was killed could not note its time; its fits have theirs
        finished = Finished(self._key(sized), rows, round(seconds, 1), command)
        write_json(self.home / f"{entry.name}.json", finished.to_dict(), indent=2)
        timings = self.timings
        write_json(timings.path, timings.record(sized, seconds), indent=2)
        return Result(sized, "done", finished)

    def _compared(self, entry: Entry) -> tuple[tuple[Measured, ...], str, float]:
        """Ours, the command that makes it, and the seconds of all its fits, whenever they were made."""
        recipe, out = self.home / f"{entry.name}.yaml", self.home / entry.name
        write_text(recipe, yaml.safe_dump(entry.run, sort_keys=False, allow_unicode=True))
        command = shlex.join(["coldframe", "compare", "--recipe", str(recipe), "--out", str(out)])
        comparison = self.compare(recipe, out, command)
        return of_comparison(entry, comparison), command, sum(comparison.seconds_by_row.values())

    def _scripted(self, entry: Entry, before: float) -> tuple[tuple[Measured, ...], str, float]:
        """Ours, the command that makes it, and the seconds that it took, those of interrupted runs among them."""
        script, started = entry.script, time.perf_counter()
        assert script is not None  # called for those alone
        out, log = self.home / entry.name, self.home / f"{entry.name}.log"
        root = self.folder.resolve().parent
        words = script.command(str(out.resolve()), self.model, "" if self.data is None else str(self.data.resolve()))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
        out.parent.mkdir(parents=True, exist_ok=True)
        with working(entry.name, self.quiet), log.open("w", encoding="utf-8") as written:
            ended = subprocess.run(
                [sys.executable, *words], cwd=root, env=environment, stdout=written, stderr=subprocess.STDOUT
            )
        shown = shlex.join(["python", *script.command(str(out), self.model, "DATA" if self.data else "")])
        if ended.returncode:
            lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
            raise DataError(f"{shown} ended with status {ended.returncode}", got=(lines or ["nothing"])[-1][:200])
        results = read_mapping(out / script.result)
        seconds = before + time.perf_counter() - started
        return of_results(entry, results, seconds), shown, seconds

    def _key(self, entry: Entry) -> str:
        """Names all that what is kept depends on; what the paper says is not among it."""
        what = {
            "version": __version__,
            "model": self.model,
            "run": entry.run,
            "script": None if entry.script is None else entry.script.to_dict(),
            "read": [[row.compare == "ratio", row.of, row.metric, row.path] for row in entry.rows],
        }
        return content_hash(json.dumps(what, sort_keys=True))

    def _spent_path(self, entry: Entry) -> Path:
        return self.home / f"{entry.name}.spent.json"

    def _spent(self, entry: Entry) -> float:
        """Seconds of runs of these settings that were interrupted or failed."""
        path = self._spent_path(entry)
        values: dict[str, Any] = read_mapping(path) if path.is_file() else {}
        return float(values.get(self._key(entry), 0.0))
