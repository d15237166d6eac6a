"""How often a paired interval errs where training seeds differ: methods that are equally good by construction.

``python -m reproduction.seed_calibration --out DIR`` writes numbers and a table.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coldframe.config import Config
from coldframe.inference.intervals import ends, resampled_weights, seed_shares, wilson
from coldframe.inference.seeds import SeedSpread, widened
from coldframe.progress import say
from coldframe.reports import markdown
from coldframe.reports.blocks import Table
from coldframe.storage.files import write_json, write_text

#: Mean accuracy of both methods.
LEVEL = 0.8
SPREADS = (0.0, 1.0, 2.0, 4.0)
#: Comparisons that are simulated at once, with the same resampled rows.
BATCH = 50


@dataclasses.dataclass(frozen=True)
class Equal(Config):
    """Two methods of the same accuracy, each trained with several seeds and tested on the same rows.

    Training m, s of method m is right on row i where::

        sqrt(a) z_i + sqrt(b) w_mi + sqrt(1 - a - b) e_msi  <  Phi^-1(p_ms),     p_ms ~ N(0.8, spread_m^2)

    with standard normal z (rows hard for all), w (rows hard for a method) and e.

    Args:
        n: Test rows.
        seeds: Of both methods.
        spread: Standard deviation of a training's accuracy, in points.
        other: Of the second method's; the same if None.
        shared: a.
        own: b.
    """

    section = "equal methods"
    at_least = {"n": 2, "seeds": 1, "spread": 0, "other": 0}

    n: int = 500
    seeds: int = 3
    spread: float = 0.0
    other: float | None = None
    shared: float = 0.5
    own: float = 0.2


@dataclasses.dataclass(frozen=True)
class Rate(Config):
    """False exclusions of zero among a number of comparisons, and the mean width of the intervals in points.

    Args:
        equal: What is true.
        trials: Comparisons.
        interval: By the interval that is used.
        interval_width: Its mean width.
        resampled: By an interval that resamples seeds as it resamples rows.
        resampled_width: Its mean width.
    """

    section = "rate"

    equal: Equal
    trials: int
    interval: int
    interval_width: float
    resampled: int
    resampled_width: float


def answers(equal: Equal, spread: float, shared: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """100 where a training of one method is right, else 0: ``[trials, seeds, n]``; ``shared`` is z, ``[trials, n]``."""
    trials = len(shared)
    levels = np.clip(LEVEL + spread / 100 * rng.standard_normal((trials, equal.seeds)), 0.01, 0.99)
    limits = np.vectorize(NormalDist().inv_cdf)(levels)
    own = rng.standard_normal((trials, equal.n))
    noise = rng.standard_normal((trials, equal.seeds, equal.n))
    rows = np.sqrt(equal.shared) * shared + np.sqrt(equal.own) * own
    scores = rows[:, None] + np.sqrt(1 - equal.shared - equal.own) * noise
    return 100.0 * (scores < limits[..., None])


def measure(equal: Equal, trials: int, *, resamples: int = 500, seed: int = 0) -> Rate:
    """Compare two equal methods many times, and count the intervals that exclude zero.

    Args:
        equal: What is true.
        trials: Comparisons.
        resamples: Of the rows, in each comparison.
        seed: Of the simulation.

    Cost: about 2 ms for each comparison of 500 rows.

    Example:
        >>> rate = measure(Equal(n=100, seeds=3), 50, resamples=200)
        >>> rate.interval <= 8
        True
    """
    rng = np.random.default_rng([seed, 7])
    counts, widths, done = np.zeros(2), np.zeros(2), 0
    while done < trials:
        batch = min(BATCH, trials - done)
        shared = rng.standard_normal((batch, equal.n))
        spreads = (equal.spread, equal.spread if equal.other is None else equal.other)
        methods = [answers(equal, spread, shared, rng) for spread in spreads]
        weights = np.concatenate(list(resampled_weights(equal.n, resamples=resamples, seed=seed + done))) / equal.n
        # [method][trial, resample, seed]
        resampled = [np.einsum("tsn,rn->trs", right, weights, optimize=True) for right in methods]
        for trial in range(batch):
            pair = [right[trial] for right in methods]
            scores = [values[trial] for values in resampled]
            for i, span in enumerate((_used(pair, scores), _resampled(pair, scores, rng))):
                counts[i] += span[0] > 0 or span[1] < 0
                widths[i] += span[1] - span[0]
        done += batch
    (used, plain), (width, plain_width) = counts, widths / trials
    return Rate(equal, trials, int(used), float(width), int(plain), float(plain_width))


def _used(pair: Sequence[NDArray[np.float64]], scores: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    """The interval of a paired difference, as :func:`coldframe.evaluation.compare.paired_difference` has it."""
    value = float(pair[0].mean() - pair[1].mean())
    draws = scores[0].mean(axis=1) - scores[1].mean(axis=1)
    rows = pair[0].mean(axis=0) - pair[1].mean(axis=0)
    left_out = (rows.sum() - rows) / (len(rows) - 1)
    spreads = [SeedSpread.of([*right.mean(axis=1)], of_seed) for right, of_seed in zip(pair, scores, strict=True)]
    return widened(value, *ends(value, draws, left_out), spreads)


def _resampled(
    pair: Sequence[NDArray[np.float64]], scores: Sequence[NDArray[np.float64]], rng: np.random.Generator
) -> tuple[float, float]:
    """The interval that draws seeds with replacement, as rows."""
    drawn = [(values * seed_shares(len(values), values.shape[1], rng)).sum(axis=1) for values in scores]
    return ends(float(pair[0].mean() - pair[1].mean()), drawn[0] - drawn[1])


def full_plan() -> list[Equal]:
    """3 and 5 seeds on 500 rows by spread; one method that spreads beside one that does not; few and many rows; 2."""
    plan = [Equal(seeds=seeds, spread=spread) for seeds in (3, 5) for spread in SPREADS]
    plan += [Equal(seeds=seeds, spread=spread, other=0.0) for seeds in (3, 5) for spread in SPREADS[1:]]
    plan += [Equal(n=n, seeds=seeds, spread=spread) for n in (100, 2000) for seeds in (3, 5) for spread in (0.0, 2.0)]
    return [*plan, *(Equal(seeds=2, spread=spread) for spread in SPREADS)]


def render_markdown(rates: Iterable[Rate]) -> str:
    """A table of false exclusions with their Wilson intervals, and widths."""
    head = (
        "test rows",
        "seeds",
        "spread, points",
        "of the other",
        "falsely excluded",
        "width",
        "resampling seeds",
        "its width",
    )
    rows = []
    for rate in rates:
        equal = rate.equal
        other = equal.spread if equal.other is None else equal.other
        shown = [f"{equal.n:,}", str(equal.seeds), f"{equal.spread:g}", f"{other:g}"]
        for count, width in ((rate.interval, rate.interval_width), (rate.resampled, rate.resampled_width)):
            low, high = wilson(count, rate.trials)
            shown += [f"{100 * count / rate.trials:.1f}% [{100 * low:.1f}, {100 * high:.1f}]", f"{width:.1f}"]
        rows.append(shown)
    return markdown.render([Table.plain(head, rows, words=())])


def worst(rates: Iterable[Rate]) -> dict[str, Any]:
    """The highest rate of false exclusions by number of seeds, in percent with Wilson's interval.

    Of the interval that is used, and of one that resamples seeds as it resamples rows.
    """
    table: dict[str, Any] = {}
    for rate in rates:
        for name, count in (("used", rate.interval), ("resampled", rate.resampled)):
            low, high = wilson(count, rate.trials)
            value = {"value": 100 * count / rate.trials, "low": 100 * low, "high": 100 * high, "n": rate.trials}
            of_name = table.setdefault(name, {})
            before = of_name.get(str(rate.equal.seeds))
            if before is None or value["value"] > before["value"]:
                of_name[str(rate.equal.seeds)] = value
    return table


def main(argv: Sequence[str] | None = None) -> None:
    """Write ``seed-calibration.json``, ``results.json`` (the worst rates) and ``seed-calibration.md``."""
    parser = argparse.ArgumentParser(description="How often paired intervals err where training seeds differ.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--trials", type=int, default=2000, help="comparisons of each kind (default: 2000)")
    parser.add_argument("--resamples", type=int, default=500, help="of the rows (default: 500)")
    options = parser.parse_args(argv)
    rates = []
    for number, equal in enumerate(plan := full_plan(), start=1):
        say(f"{number} of {len(plan)}: {equal}")
        rates.append(measure(equal, options.trials, resamples=options.resamples))
    write_json(options.out / "seed-calibration.json", [rate.to_dict() for rate in rates])
    write_json(options.out / "results.json", worst(rates), indent=2)
    write_text(options.out / "seed-calibration.md", render_markdown(rates))


if __name__ == "__main__":
    main()
