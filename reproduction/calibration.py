"""How often a diagnosis errs: verdicts on pipelines whose retrieval share is known.

``python -m reproduction.calibration --out DIR`` writes numbers, tables and a plot.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from coldframe.config import Config, check
from coldframe.diagnosis.evidence import Outcome
from coldframe.diagnosis.outcomes import MOST, NEGLIGIBLE
from coldframe.inference.intervals import wilson
from coldframe.progress import say
from coldframe.reports import markdown
from coldframe.reports.blocks import Table
from coldframe.storage.files import write_json, write_text
from reproduction.planted import Planted, judge
from reproduction.plots import drawing

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
#: What speaks: the store ablation alone, or all three diagnostics together.
Voice = Literal["store_ablation", "joint"]
VOICES: dict[Voice, str] = {"store_ablation": "store ablation alone", "joint": "all three"}

#: Whether an outcome counts, with what is true.
Counts = Callable[[Planted, Outcome], bool]

SIZES = (100, 300, 779, 2000)
SHARES = tuple(step / 20 for step in range(21))
#: True shares at which a verdict is easiest to get wrong, and no share at all.
EDGES = (0.0, NEGLIGIBLE, MOST)
#: Kinds of pipelines that are harder, by name, at 779 queries.
HARD = {
    "1 seed": Planted(seeds=1, training=0.0),
    "2 seeds": Planted(seeds=2),
    "5 seeds": Planted(seeds=5),
    "3 seeds that differ three times as much": Planted(training=0.09),
    "gain of 0.05 nats": Planted(gain=0.05),
    "no gain": Planted(gain=0.0),
}
#: Bootstrap resamples of each simulated diagnosis.
RESAMPLES = 2000


@dataclasses.dataclass(frozen=True)
class Cell(Config):
    """Verdicts on many pipelines of which the same is true.

    Args:
        planted: What is true.
        store_ablation: How often the store ablation alone came to each of ``OUTCOMES``.
        joint: How often all three diagnostics together did.
    """

    section = "cell"

    planted: Planted
    store_ablation: tuple[int, ...]
    joint: tuple[int, ...]

    def count(self, voice: Voice, counts: Counts) -> int:
        """How many verdicts count, with what is true."""
        verdicts = self.store_ablation if voice == "store_ablation" else self.joint
        return sum(number for outcome, number in zip(OUTCOMES, verdicts, strict=True) if counts(self.planted, outcome))

    @property
    def trials(self) -> int:
        """Pipelines."""
        return sum(self.joint)


@dataclasses.dataclass(frozen=True)
class Calibration(Config):
    """All cells.

    Args:
        cells: One for each kind of pipeline.
        resamples: Of each diagnosis.
        seed: Of the simulation.
    """

    section = "calibration"

    cells: tuple[Cell, ...]
    resamples: int
    seed: int


def calibrate(
    plan: Iterable[tuple[Planted, int]], *, resamples: int = RESAMPLES, seed: int = 0, quiet: bool = True
) -> Calibration:
    """Diagnose simulated pipelines and count the verdicts.

    Args:
        plan: What is true, and how many pipelines.
        resamples: Bootstrap resamples of each diagnosis.
        seed: Of the simulation.
        quiet: Say nothing.

    Cost: about 7 ms per pipeline, from 3 at 100 queries to 15 at 2,000.

    Example:
        >>> cell = calibrate([(Planted(share=1.0, n=100), 20)], resamples=500).cells[0]
        >>> cell.count("joint", Planted.right)
        20
    """
    cells = []
    for number, (planted, trials) in enumerate(plan):
        if not quiet:
            say(f"{number + 1}: {trials} pipelines with {planted}")
        verdicts = list(judge(planted, trials, resamples=resamples, seed=seed + number))
        alone, joint = (collections.Counter(outcomes) for outcomes in zip(*verdicts, strict=True))
        cells.append(Cell(planted, tuple(alone[name] for name in OUTCOMES), tuple(joint[name] for name in OUTCOMES)))
    return Calibration(tuple(cells), resamples, seed)


def full_plan(trials: int) -> list[tuple[Planted, int]]:
    """All kinds of pipelines: ``trials`` of each at the edges, a sixth of it between them, and the hard cases."""
    check(trials >= 6, "Too few pipelines for a rate", got=trials, expected="at least 6")
    grid = [Planted(share=share, query=query, n=n) for n in SIZES for query in (0, 1) for share in SHARES]
    plan = [(planted, trials if planted.share in EDGES else trials // 6) for planted in grid]
    return plan + [(dataclasses.replace(case, share=share), trials) for case in HARD.values() for share in EDGES]


def _is(*names: Outcome) -> Counts:
    return lambda _, outcome: outcome in names


#: What the first table counts: true share, name of the false verdict, and whether an outcome is one.
_FALSE: tuple[tuple[float, str, Counts], ...] = (
    (0.0, "retrieval-driven", _is("retrieval-driven")),
    (0.0, "any", Planted.false),
    (NEGLIGIBLE, "not retrieval", _is("query-driven", "prompt-tuning-like")),
    (NEGLIGIBLE, "mixed or retrieval-driven", _is("mixed", "retrieval-driven")),
    (MOST, "retrieval-driven", _is("retrieval-driven")),
)


def render_markdown(calibration: Calibration) -> str:
    """Three tables: false verdicts, right verdicts, hard cases."""
    sizes = [f"n = {n}" for n in SIZES]
    tables = (
        (("true share", "false verdict", "by", *sizes), _false_rows(calibration)),
        (("true share", "right verdict", "by", *sizes), _right_rows(calibration)),
        (("case", "by", *(f"true share {share:.2f}" for share in EDGES)), _hard_rows(calibration)),
    )
    return markdown.render(Table.plain(head, rows, words=(1, 2) if len(head) > 5 else (0, 1)) for head, rows in tables)


def _false_rows(calibration: Calibration) -> Iterator[list[str]]:
    for share, name, counts in _FALSE:
        for voice, words in VOICES.items():
            cells = [[c for c in _grid(calibration, n) if c.planted.share == share] for n in SIZES]
            yield [f"{share:.2f}", name, words, *(_rate(group, voice, counts) for group in cells)]


def _right_rows(calibration: Calibration) -> Iterator[list[str]]:
    for share in (0.0, 0.05, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 1.0):
        for query in (0, 1) if share < NEGLIGIBLE else (0,):
            truth = Planted(share=share, query=query).truth
            for voice, words in VOICES.items():
                rates = []
                for n in SIZES:
                    same = [c for c in _grid(calibration, n) if c.planted.share == share and c.planted.truth == truth]
                    rates.append(_rate(same, voice, Planted.right, interval=False))
                yield [f"{share:.2f}", truth, words, *rates]


def _hard_rows(calibration: Calibration) -> Iterator[list[str]]:
    for name, case in HARD.items():
        for voice, words in VOICES.items():
            rates = []
            for share in EDGES:
                planted = dataclasses.replace(case, share=share)
                rates.append(_rate([c for c in calibration.cells if c.planted == planted], voice, Planted.false))
            yield [name, words, *rates]


def _grid(calibration: Calibration, n: int) -> list[Cell]:
    """The cells of the main simulation at one size."""
    return [c for c in calibration.cells if c.planted == Planted(share=c.planted.share, query=c.planted.query, n=n)]


def _rate(cells: Sequence[Cell], voice: Voice, counts: Counts, *, interval: bool = True) -> str:
    trials = sum(cell.trials for cell in cells)
    if not trials:
        return "–"
    count = sum(cell.count(voice, counts) for cell in cells)
    if not interval:
        return f"{count / trials:.0%}"
    low, high = wilson(count, trials)
    return f"{100 * count / trials:.1f}% [{100 * low:.1f}, {100 * high:.1f}]"


def rates(calibration: Calibration) -> dict[str, Any]:
    """False verdicts by all three diagnostics, in percent with Wilson's interval, by rule and number of queries."""
    table: dict[str, Any] = {}
    for share, name, counts in _FALSE:
        for n in SIZES:
            cells = [cell for cell in _grid(calibration, n) if cell.planted.share == share]
            trials = sum(cell.trials for cell in cells)
            if trials:
                false = sum(cell.count("joint", counts) for cell in cells)
                low, high = wilson(false, trials)
                of_rule = table.setdefault(f"{name} at a share of {share:.2f}", {})
                of_rule[str(n)] = {"value": 100 * false / trials, "low": 100 * low, "high": 100 * high, "n": trials}
    return table


_COLOURS = {
    "retrieval-driven": "#0072b2",
    "query-driven": "#009e73",
    "prompt-tuning-like": "#e69f00",
    "mixed": "#cc79a7",
    "cannot-tell": "#d9d9d9",
}


def draw(calibration: Calibration, path: str | Path) -> None:
    """How often each verdict comes, by true share: one panel for each size, above for the store ablation alone.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    with drawing(path, 11, 5.2) as figure:
        panels = figure.subplots(len(VOICES), len(SIZES), sharex=True, sharey=True, squeeze=False)
        for row, (voice, words) in zip(panels, VOICES.items(), strict=True):
            for panel, n in zip(row, SIZES, strict=True):
                cells = [c for c in _grid(calibration, n) if not c.planted.query]
                counts = [[c.count(voice, _is(name)) / c.trials for c in cells] for name in OUTCOMES]
                shares = [c.planted.share for c in cells]
                panel.stackplot(shares, counts, labels=OUTCOMES, colors=[_COLOURS[name] for name in OUTCOMES])
                for edge in (NEGLIGIBLE, MOST):
                    panel.axvline(edge, color="black", linewidth=0.8, linestyle=":")
                panel.set(title=f"n = {n}, {words}", xlim=(0, 1), ylim=(0, 1))
        figure.supxlabel("true share of the gain that retrieval gives")
        figure.supylabel("how often each verdict comes")
        handles, labels = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(OUTCOMES), frameon=False)


def main(argv: Sequence[str] | None = None) -> None:
    """Write ``calibration.json``, ``results.json`` (rates), ``calibration.md`` and ``calibration.svg``."""
    parser = argparse.ArgumentParser(description="How often a diagnosis errs, on pipelines whose truth is known.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--trials", type=int, default=1000, help="pipelines per cell at the edges (default: 1000)")
    parser.add_argument("--resamples", type=int, default=RESAMPLES, help=f"of each diagnosis (default: {RESAMPLES})")
    parser.add_argument("--seed", type=int, default=0, help="of the simulation (default: 0)")
    options = parser.parse_args(argv)
    plan = full_plan(options.trials)
    calibration = calibrate(plan, resamples=options.resamples, seed=options.seed, quiet=False)
    write_json(options.out / "calibration.json", calibration.to_dict())
    write_json(options.out / "results.json", rates(calibration), indent=2)
    write_text(options.out / "calibration.md", render_markdown(calibration))
    draw(calibration, options.out / "calibration.svg")


if __name__ == "__main__":
    main()
