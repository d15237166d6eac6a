"""Commands that are killed, or refused a write, at each of their changes of the file system, and then run again.

Usage: python -m tests.faults.everywhere [MOST KILLS A COMMAND [COMMAND ...]]

Every run is a process of its own, forked after the imports, which take most of the time; this process itself never
trains. After each fault the same command runs again, undisturbed, and must give what a run without faults gives, with
files of others in its folders as they were. Prints one JSON object: for each command its changes, the faults tried,
and what went wrong.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tests.faults.commands import COMMANDS, WITHOUT_SETTINGS, in_place, outcome, prepare, prepare_artifact
from tests.faults.kills import KILLED, changes, die_at, refuse_changes

FOREIGN = "mine.txt"


def forked(action: Callable[[], Any], stderr: Path) -> tuple[int, Any]:
    """Exit status of an action in a process of its own, and what it returned."""
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        status = 1
        try:
            torch.set_num_threads(1)
            with open(stderr, "w") as log, open(os.devnull, "w") as nowhere:
                os.dup2(log.fileno(), 2)
                os.dup2(nowhere.fileno(), 1)
                try:
                    result = action()
                    os.write(writer, json.dumps(result).encode())
                    status = 0
                except SystemExit as end:
                    status = int(end.code or 0)
                except BaseException as error:
                    import traceback

                    traceback.print_exception(error)
                sys.stderr.flush()
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return status, json.loads(text) if text else None


class Trial:
    """One command under faults."""

    def __init__(self, home: Path, name: str) -> None:
        self.home, self.name, self.command = home, name, COMMANDS[name]
        self.log = home / "stderr.txt"
        self.expected: Any = None
        self.wrong: list[str] = []

    def fresh(self, label: str) -> Path:
        """A folder for a run, with a file of somebody else's beside what the run writes."""
        out = self.home / f"{self.name}-{label}"
        out.mkdir()
        (out / FOREIGN).write_text("mine")
        return out

    def run(self, out: Path, before: Callable[[], None] = lambda: None) -> int:
        """The command in a process of its own."""

        def action() -> None:
            in_place(out)
            before()
            self.command(self.home, out, False)

        return forked(action, self.log)[0]

    def count(self, other: bool = False) -> tuple[int, Any]:
        """How often the file system is changed without faults, and what comes out."""
        out = self.fresh("whole")

        def action() -> int:
            in_place(out)
            seen = [0]
            below = str(out.resolve())
            sys.addaudithook(lambda event, arguments: seen.__setitem__(0, seen[0] + changes(event, arguments, below)))
            self.command(self.home, out, other)
            return seen[0]

        status, total = forked(action, self.log)
        if status:
            raise SystemExit(f"{self.name} fails without faults: {self.log.read_text()[-2000:]}")
        expected = outcome(self.name, out)
        shutil.rmtree(out)
        return total, expected

    def after(self, out: Path, label: str, others: Sequence[Any] = ()) -> None:
        """Run again, undisturbed, and compare.

        Over one of ``others``, which other settings made, it may also be told so and leave that as it is.
        """
        status = self.run(out)
        told = status == 2 and "Traceback" not in self.log.read_text() and bool(others)
        if status and not told:
            self.wrong.append(f"{label}: the next run ends with {status}: {self.log.read_text()[-300:]}")
        elif outcome(self.name, out) not in (self.expected, *others):
            self.wrong.append(f"{label}: the next run gives another result")
        if (out / FOREIGN).read_text() != "mine":
            self.wrong.append(f"{label}: a foreign file was touched")
        shutil.rmtree(out)

    def kill(self, call: int) -> None:
        """Die at a change."""
        out, label = self.fresh(f"kill-{call}"), f"killed at {call}"
        if (status := self.run(out, lambda: die_at(call, out))) not in (0, KILLED):
            self.wrong.append(f"{label}: ends with {status}: {self.log.read_text()[-300:]}")
        self.after(out, label)

    def refuse(self, call: int, number: int) -> None:
        """Be refused all changes from one on: a line that says so, and no traceback."""
        label = f"{errno.errorcode[number]} from {call}"
        out = self.fresh(f"{errno.errorcode[number]}-{call}")
        status, told = self.run(out, lambda: refuse_changes(out, number, call)), self.log.read_text()
        if status not in (0, 1, 2) or "Traceback" in told and "coldframe.errors" not in told.splitlines()[-1]:
            self.wrong.append(f"{label}: ends with {status}: {told[-300:]}")
        self.after(out, label)

    def full(self, most: int) -> None:
        """A real limit on the size of files."""
        label, out = f"files of at most {most} bytes", self.fresh(f"limit-{most}")

        def limit() -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

        status, told = self.run(out, limit), self.log.read_text()
        if status not in (0, 1, 2) or ("Traceback" in told and "coldframe.errors" not in told.splitlines()[-1]):
            self.wrong.append(f"{label}: ends with {status}: {told[-300:]}")
        self.after(out, label)

    def two(self, different: bool) -> None:
        """Two processes on one folder, with equal or different settings: one ends well, the other one too or is told.

        What is left is the whole result of one of them.
        """
        label = f"two at once with {'different' if different else 'equal'} settings"
        results = [self.expected, *([self.count(other=True)[1]] if different else [])]
        out = self.fresh("two")
        logs = [self.home / f"two-{i}.txt" for i in range(2)]
        in_place(out)
        processes = []
        for place, log in enumerate(logs):
            process = os.fork()
            if process == 0:
                other = different and place == 1
                os._exit(forked(lambda other=other: self.command(self.home, out, other), log)[0])
            processes.append(process)
        os.environ["COLDFRAME_CACHE"] = str(self.home / "cache")  # what this process reads is remembered there
        statuses = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
        told = [log.read_text() for log in logs]
        if sorted(statuses) not in ([0, 0], [0, 2]) or any("Traceback" in text for text in told):
            self.wrong.append(f"{label}: end with {statuses}: {told[0][-200:]} {told[1][-200:]}")
        elif outcome(self.name, out) not in results:
            self.wrong.append(f"{label}: what is left is the result of neither")
        self.after(out, label, results if different else ())


def processor_seconds() -> float:
    """What the processes of commands used so far: on a busy machine the clock tells little."""
    times = os.times()
    return times.children_user + times.children_system


def points(total: int, most: int) -> list[int]:
    """At most so many of the numbers 1 to total, evenly."""
    return sorted({1 + i * total // most for i in range(most)}) if total > most else list(range(1, total + 1))


def main(most: int, names: list[str]) -> dict[str, Any]:
    """Try everything; returns the figures."""
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder).resolve()
        prepare(home)
        status, _ = forked(lambda: prepare_artifact(home), home / "stderr.txt")
        if status:
            raise SystemExit(f"no artifact: {(home / 'stderr.txt').read_text()[-2000:]}")
        for name in names:
            started, before, trial = time.perf_counter(), processor_seconds(), Trial(home, name)
            total, trial.expected = trial.count()
            kills = points(total, most)
            for call in kills:
                trial.kill(call)
            refusals = points(total, max(2, most // 10))
            for call in refusals:
                trial.refuse(call, errno.ENOSPC)
            trial.refuse(1, errno.EROFS)
            trial.full(20_000)
            trial.two(different=False)
            if name not in WITHOUT_SETTINGS:
                trial.two(different=True)
            report[name] = {
                "changes": total,
                "kills": len(kills),
                "refusals": len(refusals) + 2,
                "at once": 1 if name in WITHOUT_SETTINGS else 2,
                "wrong": trial.wrong,
                "seconds": round(time.perf_counter() - started),
                "processor_seconds": round(processor_seconds() - before),
            }
            print(json.dumps({name: report[name]}), file=sys.stderr, flush=True)
    return report


if __name__ == "__main__":
    figures = main(int(sys.argv[1]) if len(sys.argv) > 1 else 60, sys.argv[2:] or [*COMMANDS])
    print(json.dumps(figures, indent=1))
    sys.exit(any(figure["wrong"] for figure in figures.values()))
