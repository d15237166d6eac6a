"""Run all benchmarks, each in a process of its own, and write their results and the table of goals.

    python -m benchmarks                      # all: about half an hour on two cores
    python -m benchmarks backbone prediction  # some

Results go to ``benchmarks/results/NAME.json``, the table into ``docs/results/speed.md``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.common import goal, shown
from coldframe.storage.files import atomic_path

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "results" / "speed.md"
BEGIN, END = "<!-- table: python -m benchmarks -->", "<!-- end of table -->"
NAMES = ("training", "compare", "prediction", "labels", "backbone", "retrieval", "reweighting", "parametric")


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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], metavar="NAME", help=", ".join(NAMES))
    for name in parser.parse_args().names or NAMES:
        sys.stderr.write(f"== {name}\n")
        command = [sys.executable, "-m", f"benchmarks.{name}"]
        result = subprocess.run(command, cwd=HERE.parent, stdout=subprocess.PIPE, text=True, check=True).stdout
        RESULTS.mkdir(exist_ok=True)
        with atomic_path(RESULTS / f"{name}.json") as path:
            path.write_text(result, encoding="utf-8")
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    with atomic_path(PAGE) as path:
        path.write_text(f"{before}{BEGIN}\n{table()}\n{END}{after}", encoding="utf-8")
    sys.stdout.write(table() + "\n")


if __name__ == "__main__":
    main()
