"""How often a diagnosis errs: verdicts on pipelines whose retrieval share is known.

``python -m coldframe.diagnosis.calibration --out DIR`` writes numbers, tables and a plot.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Literal, get_args

from coldframe.config import Config, check
from coldframe.diagnosis.evidence import Outcome
from coldframe.diagnosis.planted import Planted, judge
from coldframe.diagnosis.verdict import MOST, NEGLIGIBLE
from coldframe.errors import MissingExtraError
from coldframe.progress import say
from coldframe.storage.files import atomic_path

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
#: What speaks: the store ablation alone, or all three diagnostics together.
Voice = Literal["store_ablation", "joint"]
VOICES: dict[Voice, str] = {"store_ablation": "store ablation alone", "joint": "all three"}

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

    def count(self, voice: Voice, wanted: Callable[[Planted, Outcome], bool]) -> int:
        """How many verdicts are wanted ones, given what is true."""
        counts = self.store_ablation if voice == "store_ablation" else self.joint
        return sum(count for outcome, count in zip(OUTCOMES, counts, strict=True) if wanted(self.planted, outcome))

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
        alone, joint = (collections.Counter(one) for one in zip(*verdicts, strict=True))
        cells.append(Cell(planted, tuple(alone[name] for name in OUTCOMES), tuple(joint[name] for name in OUTCOMES)))
    return Calibration(tuple(cells), resamples, seed)


def full_plan(trials: int) -> list[tuple[Planted, int]]:
    """All kinds of pipelines: ``trials`` of each at the edges, a sixth of it between them, and the hard cases."""
    check(trials >= 6, "Too few pipelines for a rate", got=trials, expected="at least 6")
    grid = [Planted(share=share, query=query, n=n) for n in SIZES for query in (0, 1) for share in SHARES]
    plan = [(one, trials if one.share in EDGES else trials // 6) for one in grid]
    return plan + [(dataclasses.replace(case, share=share), trials) for case in HARD.values() for share in EDGES]


def wilson(count: int, trials: int) -> tuple[float, float]:
    """The 95% interval of a rate.

    Paper: Wilson 1927.

    Example:
        >>> low, high = wilson(0, 1000)
        >>> round(low, 4), round(high, 4)
        (0.0, 0.0038)
    """
    z, rate = NormalDist().inv_cdf(0.975), count / trials
    middle, half = rate + z**2 / (2 * trials), z * math.sqrt(rate * (1 - rate) / trials + z**2 / (4 * trials**2))
    return max(0.0, (middle - half) / (1 + z**2 / trials)), (middle + half) / (1 + z**2 / trials)


def _is(*names: Outcome) -> Callable[[Planted, Outcome], bool]:
    return lambda _, outcome: outcome in names


#: What the first table counts: true share, name of the false verdict, and whether an outcome is one.
_FALSE: tuple[tuple[float, str, Callable[[Planted, Outcome], bool]], ...] = (
    (0.0, "retrieval-driven", _is("retrieval-driven")),
    (0.0, "any", Planted.false),
    (NEGLIGIBLE, "not retrieval", _is("query-driven", "prompt-tuning-like")),
    (NEGLIGIBLE, "mixed or retrieval-driven", _is("mixed", "retrieval-driven")),
    (MOST, "retrieval-driven", _is("retrieval-driven")),
)


def render_markdown(found: Calibration) -> str:
    """Three tables: false verdicts, right verdicts, hard cases."""
    return "\n".join([*_false_table(found), "", *_right_table(found), "", *_hard_table(found), ""])


def _false_table(found: Calibration) -> list[str]:
    lines = _head("true share", "false verdict", "by", *(f"n = {n}" for n in SIZES))
    for share, name, wanted in _FALSE:
        for voice, words in VOICES.items():
            cells = [[c for c in _grid(found, n) if c.planted.share == share] for n in SIZES]
            lines.append(_row(f"{share:.2f}", name, words, *(_rate(group, voice, wanted) for group in cells)))
    return lines


def _right_table(found: Calibration) -> list[str]:
    lines = _head("true share", "right verdict", "by", *(f"n = {n}" for n in SIZES))
    for share in (0.0, 0.05, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 1.0):
        for query in (0, 1) if share < NEGLIGIBLE else (0,):
            truth = Planted(share=share, query=query).truth
            for voice, words in VOICES.items():
                rates = []
                for n in SIZES:
                    group = [c for c in _grid(found, n) if c.planted.share == share and c.planted.truth == truth]
                    rates.append(_rate(group, voice, Planted.right, interval=False))
                lines.append(_row(f"{share:.2f}", truth, words, *rates))
    return lines


def _hard_table(found: Calibration) -> list[str]:
    lines = _head("case", "by", *(f"true share {share:.2f}" for share in EDGES))
    for name, case in HARD.items():
        for voice, words in VOICES.items():
            rates = []
            for share in EDGES:
                planted = dataclasses.replace(case, share=share)
                rates.append(_rate([c for c in found.cells if c.planted == planted], voice, Planted.false))
            lines.append(_row(name, words, *rates))
    return lines


def _grid(found: Calibration, n: int) -> list[Cell]:
    """The cells of the main simulation at one size."""
    return [c for c in found.cells if c.planted == Planted(share=c.planted.share, query=c.planted.query, n=n)]


def _rate(
    cells: Sequence[Cell], voice: Voice, wanted: Callable[[Planted, Outcome], bool], *, interval: bool = True
) -> str:
    trials = sum(cell.trials for cell in cells)
    if not trials:
        return "–"
    count = sum(cell.count(voice, wanted) for cell in cells)
    if not interval:
        return f"{count / trials:.0%}"
    low, high = wilson(count, trials)
    return f"{100 * count / trials:.1f}% [{100 * low:.1f}, {100 * high:.1f}]"


def _head(*cells: str) -> list[str]:
    return [_row(*cells), _row(*("---:" if " = " in cell or "share" in cell else "---" for cell in cells))]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


_COLOURS = {
    "retrieval-driven": "#0072b2",
    "query-driven": "#009e73",
    "prompt-tuning-like": "#e69f00",
    "mixed": "#cc79a7",
    "cannot-tell": "#d9d9d9",
}


def draw(found: Calibration, path: str | Path) -> None:
    """How often each verdict comes, by true share: one panel for each size, above for the store ablation alone.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report", "Drawing the calibration") from error
    with rc_context({"svg.hashsalt": "coldframe", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(11, 5.2), layout="constrained")
        panels = figure.subplots(len(VOICES), len(SIZES), sharex=True, sharey=True, squeeze=False)
        for row, (voice, words) in zip(panels, VOICES.items(), strict=True):
            for panel, n in zip(row, SIZES, strict=True):
                cells = [c for c in _grid(found, n) if not c.planted.query]
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
        with atomic_path(path) as temporary:
            figure.savefig(temporary, metadata={"Date": None})


def main(argv: Sequence[str] | None = None) -> None:
    """Write ``calibration.json``, ``calibration.md`` and ``calibration.svg``."""
    parser = argparse.ArgumentParser(description="How often a diagnosis errs, on pipelines whose truth is known.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--trials", type=int, default=1000, help="pipelines per cell at the edges (default: 1000)")
    parser.add_argument("--resamples", type=int, default=RESAMPLES, help=f"of each diagnosis (default: {RESAMPLES})")
    parser.add_argument("--seed", type=int, default=0, help="of the simulation (default: 0)")
    asked = parser.parse_args(argv)
    found = calibrate(full_plan(asked.trials), resamples=asked.resamples, seed=asked.seed, quiet=False)
    with atomic_path(asked.out / "calibration.json") as path:
        path.write_text(json.dumps(found.to_dict(), indent=1) + "\n", encoding="utf-8")
    with atomic_path(asked.out / "calibration.md") as path:
        path.write_text(render_markdown(found), encoding="utf-8")
    draw(found, asked.out / "calibration.svg")


if __name__ == "__main__":
    main()
