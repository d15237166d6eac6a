"""Run all benchmarks, each in a process of its own, and write their results and the table of goals.

    python -m benchmarks                      # all: about half an hour on two cores
    python -m benchmarks backbone prediction  # some
    python -m benchmarks --check              # writes nothing: which ratios fell since the results that are kept

Results go to ``benchmarks/results/NAME.json``, the table into ``docs/results/speed.md``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import goal, shown
from coldframe.storage.files import atomic_path

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "results" / "speed.md"
MARKS = ("<!-- table: python -m benchmarks -->", "<!-- end of table -->")
GROWTH_MARKS = ("<!-- growth: python -m benchmarks growth -->", "<!-- end of growth -->")
TOLERANCE = 0.15  # of a ratio, between runs on an idle machine
NAMES = ("training", "compare", "prediction", "labels", "backbone", "retrieval", "reweighting", "parametric", "growth")


def goals(name: str, result: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What a result says of its goals; the retrieval benchmark tells times only."""
    yield from result.get("goals", [])
    if name == "retrieval":
        for line in result["search"]:
            if line["way"] == "coldframe exact" and line["rows"] >= 200_000:
                what = f"exact Tanimoto, top {result['top']} of {line['rows']:,} ({line['store']})"
                yield goal(what, line["median_ms"], 2.0, unit="ms a query", least=False)
        for line in result["lists"]:
            yield goal(f"neighbour lists, {line['pairs']}", line["seconds"], 20.0, unit="s", least=False)


def table() -> str:
    """One line for every goal of every result there is."""
    lines = ["| benchmark | what | measured | to reach | |", "|---|---|---:|---:|---|"]
    for name in NAMES:
        path = RESULTS / f"{name}.json"
        if path.exists():
            for line in goals(name, json.loads(path.read_text(encoding="utf-8"))):
                met = "reached" if line["met"] else "**missed**"
                lines.append(f"| {name} | {line['what']} | {shown(line['value'])} | {line['reach']} | {met} |")
    return "\n".join(lines)


def growth_table() -> str:
    """What grows with what, and with which power."""
    path = RESULTS / "growth.json"
    if not path.exists():
        return "Not measured yet."
    lines = ["| what | n | seconds of the processor | MB | time | memory | turns at | how |"]
    lines.append("|---|---|---|---|---:|---:|---:|---|")
    for line in json.loads(path.read_text(encoding="utf-8"))["growth"]:
        cells = [[f"{n:,}" for n in line["n"]], map(shown, line["seconds"]), map(shown, line["memory_mb"])]
        powers = ["" if p is None else f"n^{p:.2f}" for p in (line["exponent"], line["memory_exponent"])]
        turns = "" if line["turns"] is None else f"{line['turns']:,}"
        how = ", ".join(dict.fromkeys(line["how"]))
        lines.append(" | ".join(["| " + line["of"], *(" / ".join(c) for c in cells), *powers, turns, how + " |"]))
    return "\n".join(lines)


def filled(page: str, marks: tuple[str, str], text: str) -> str:
    """A page with a text between two marks."""
    before, _, rest = page.partition(marks[0])
    return f"{before}{marks[0]}\n{text}\n{marks[1]}{rest.partition(marks[1])[2]}"


def fallen(name: str, earlier: dict[str, Any], later: dict[str, Any], tolerance: float = TOLERANCE) -> list[str]:
    """A line for each ratio that is worse than the earlier one by more than ``tolerance``, a share of it.

    What is told in seconds or bytes depends on the machine, and is left out.
    """
    before = {line["what"]: line["value"] for line in goals(name, earlier)}
    lines = []
    for line in goals(name, later):
        was, now = before.get(line["what"]), line["value"]
        if not line["reach"].endswith(" x") or not was:
            continue
        share = now / was if line["reach"].startswith(">=") else was / now
        if share < 1 - tolerance:
            lines.append(f"{name}: {line['what']}: {shown(was)} before, {shown(now)} now (to reach: {line['reach']})")
    return lines


def run_benchmark(name: str) -> str:
    """The result of a benchmark, as it prints it."""
    sys.stderr.write(f"== {name}\n")
    command = [sys.executable, "-m", f"benchmarks.{name}"]
    return subprocess.run(command, cwd=HERE.parent, stdout=subprocess.PIPE, text=True, check=True).stdout


def check(names: Sequence[str]) -> int:
    """Say which ratios fell; the exit status."""
    lines: list[str] = []
    for name in names:
        path = RESULTS / f"{name}.json"
        if path.exists():
            earlier = json.loads(path.read_text(encoding="utf-8"))
            lines += fallen(name, earlier, json.loads(run_benchmark(name)))
    sys.stdout.write("\n".join(lines or [f"no ratio fell by more than {TOLERANCE:.0%}"]) + "\n")
    return 1 if lines else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--check", action="store_true", help="write nothing, say which ratios fell")
    options = parser.parse_args()
    if options.check:
        raise SystemExit(check(options.names or NAMES))
    for name in options.names or NAMES:
        result = run_benchmark(name)
        RESULTS.mkdir(exist_ok=True)
        with atomic_path(RESULTS / f"{name}.json") as path:
            path.write_text(result, encoding="utf-8")
    page = filled(PAGE.read_text(encoding="utf-8"), MARKS, table())
    with atomic_path(PAGE) as path:
        path.write_text(filled(page, GROWTH_MARKS, growth_table()), encoding="utf-8")
    sys.stdout.write(table() + "\n")


if __name__ == "__main__":
    main()
