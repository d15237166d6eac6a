"""What all benchmarks share: the model and rows, interleaved timing, ratios, how results are told."""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from coldframe.frozen.model import FrozenLM, load_lm
from coldframe.retrieval.retriever import RetrievalConfig, Retriever
from coldframe.retrieval.store import Retrieved, Store
from coldframe.tasks import load_task
from coldframe.tasks.task import Example, Task

TOKENS = 8  # soft tokens of every way
K = 5  # exemplars of every way that retrieves


@dataclasses.dataclass(frozen=True)
class Way:
    """One way to do the work.

    Attributes:
        run: What is timed.
        prepare: Called before each run, not timed; what it returns is passed to ``run``.
    """

    run: Callable[[Any], object]
    prepare: Callable[[], Any] = lambda: None


@dataclasses.dataclass(frozen=True)
class Time:
    """Seconds on the clock, and seconds of processor time of all threads: the second forgives busy neighbours."""

    wall: float
    cpu: float

    @classmethod
    def of(cls, way: Way) -> Time:
        prepared = way.prepare()
        gc.collect()
        finished()
        wall, cpu = time.perf_counter(), time.process_time()
        way.run(prepared)
        finished()
        return cls(time.perf_counter() - wall, time.process_time() - cpu)


def finished() -> None:
    """Wait for what a GPU has still to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


Times = dict[str, list[Time]]


def interleaved(ways: Mapping[str, Way], rounds: int) -> Times:
    """Time every way once a round, in turn, so that whatever else the machine does falls on all of them.

    On a GPU each runs once before that: the first time kernels are chosen and memory is taken.
    """
    times: Times = {name: [] for name in ways}
    if torch.cuda.is_available():
        for way in ways.values():
            Time.of(way)
    for turn in range(rounds):
        for name, way in ways.items():
            taken = Time.of(way)
            times[name].append(taken)
            say(f"  round {turn + 1}  {name:44} {taken.wall:8.2f} s  (processor {taken.cpu:.2f} s)")
    return times


def rates(times: Times, rows: int, base: str) -> list[dict[str, Any]]:
    """Rows a second of every way (medians), and how many times faster than ``base`` it was in the same round."""
    lines = []
    for name, taken in times.items():
        both = list(zip(times[base], taken, strict=True))
        lines.append(
            {
                "way": name,
                "rows_per_s": rows / statistics.median(t.wall for t in taken),
                "ratio": statistics.median(b.wall / t.wall for b, t in both),
                "ratio_low": min(b.wall / t.wall for b, t in both),
                "ratio_high": max(b.wall / t.wall for b, t in both),
                "ratio_processor": statistics.median(b.cpu / t.cpu for b, t in both),
            }
        )
    return lines


def goal(what: str, value: float, reach: float, *, unit: str = "x", least: bool = True) -> dict[str, Any]:
    """A number beside the one to reach: at least it, or at most."""
    met = value >= reach if least else value <= reach
    return {"what": what, "value": value, "reach": f"{'>=' if least else '<='} {reach:g} {unit}", "met": met}


def shown(value: float) -> str:
    """Two decimals, or the size of what has none.

    >>> shown(2.345), shown(0.0000012)
    ('2.35', '1.2e-06')
    """
    return f"{value:.2f}" if value == 0 or value >= 0.01 else f"{value:.1e}"


def neighbours(task: Task, queries: tuple[Example, ...], k: int = K) -> Retrieved:
    """The nearest training rows of some rows, each without itself, found anew."""
    retriever = Retriever(Store.of(task.train), task.schema.domain, k, RetrievalConfig())
    return retriever.retrieve(queries, exclude_same_key=True)


def first(task: Task, train: int, test: int) -> Task:
    """The task with its first rows only, and no validation rows."""
    return dataclasses.replace(task, train=task.train[:train], validation=(), test=task.test[:test])


def arguments(text: str | None, **numbers: int | list[int]) -> argparse.Namespace:
    """``--model``, ``--data``, ``--threads`` and a flag for each number of this benchmark."""
    parser = argparse.ArgumentParser(description=(text or "").splitlines()[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--data", default="b3db")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    for name, default in numbers.items():
        many = isinstance(default, list)
        parser.add_argument(f"--{name}", type=int, default=default, nargs="+" if many else None)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    return options


def loaded(options: argparse.Namespace) -> tuple[FrozenLM, Task]:
    """The model and the task that were asked for."""
    say(f"loading {options.model} and {options.data}")
    return load_lm(options.model), load_task(options.data)


def tell(result: dict[str, Any], lm: FrozenLM) -> None:
    """The result with the machine it was measured on, as JSON on standard output; its goals on standard error."""
    for line in result["goals"]:
        say(
            f"{'reached' if line['met'] else 'MISSED '}  {line['what']:72} {shown(line['value']):>8}  ({line['reach']})"
        )
    machine = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "dtype": str(lm.dtype).removeprefix("torch."),
        "model": lm.provenance.get("name", type(lm.model).__name__),
        "torch": torch.__version__,
    }
    sys.stdout.write(json.dumps({"machine": machine, **result}, indent=2) + "\n")


def say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
