from __future__ import annotations

import numpy as np
import pytest

from coldframe.errors import DataError
from coldframe.evaluation.compare import (
    Difference,
    average_gain,
    paired_difference,
    permutation_test,
    rows_needed,
    smallest_difference,
)
from coldframe.inference.intervals import score_interval

from .support import make_predictions, noisy_run

OPTIONS = {"resamples": 600}


def unlike(run, rows, method="other"):
    """The same answers, turned round on some rows."""
    probabilities = run.probabilities.copy()
    probabilities[rows] = probabilities[rows, ::-1]
    return make_predictions(run.targets, probabilities, method=method)


def test_a_method_does_not_differ_from_itself():
    run = noisy_run(np.random.default_rng(0))
    found = paired_difference([run], [run], "accuracy", **OPTIONS)
    assert (found.value, found.low, found.high, found.smallest) == (0, 0, 0, 0)
    assert found.p_value == 1 and not found.excludes_zero


def test_pairing_sees_what_two_intervals_do_not():
    """Two methods that agree on all but 8 rows: their own intervals overlap widely, the paired one is short."""
    run = noisy_run(np.random.default_rng(0), n=200, accuracy=0.7)
    right = np.flatnonzero(run.predicted == run.targets)[:8]
    worse = unlike(run, right)
    found = paired_difference([run], [worse], "accuracy", **OPTIONS)
    assert found.value == pytest.approx(
        score_interval([run], "accuracy").value - score_interval([worse], "accuracy").value
    )
    assert found.excludes_zero and found.low > 0 and found.p_value < 0.05
    assert score_interval([run], "accuracy").low < score_interval([worse], "accuracy").high


def test_the_sign_turns_with_the_order():
    rng = np.random.default_rng(1)
    a, b = noisy_run(rng, accuracy=0.9), noisy_run(rng, accuracy=0.6)
    there, back = (paired_difference([x], [y], "accuracy", kind="percentile", **OPTIONS) for x, y in ((a, b), (b, a)))
    assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low))
    assert there.p_value == back.p_value


@pytest.mark.slow
def test_differences_cover_as_often_as_they_say():
    rng = np.random.default_rng(2)
    hits = 0
    for trial in range(150):
        a, b = noisy_run(rng, n=120, accuracy=0.85), noisy_run(rng, n=120, accuracy=0.75)
        found = paired_difference([a], [b], "accuracy", resamples=400, seed=trial)
        hits += found.low <= found.value and found.low <= 100 * 0.10 <= found.high
    assert 0.89 <= hits / 150 <= 0.995


@pytest.mark.slow
def test_p_values_are_uniform_when_nothing_differs():
    rng = np.random.default_rng(3)
    values = [
        permutation_test([noisy_run(rng, n=101)], [noisy_run(rng, n=101)], "accuracy", permutations=200, seed=trial)
        for trial in range(200)
    ]
    assert np.mean(np.array(values) <= 0.05) <= 0.09
    assert 0.4 <= np.mean(values) <= 0.65


def test_permutation_test_is_the_sign_test_for_accuracy():
    """9 rows in favour, 1 against: the exact two-sided p is 22/1024."""
    targets = np.zeros(10, int)
    a = make_predictions(targets, np.eye(2)[[0] * 9 + [1]])
    b = make_predictions(targets, np.eye(2)[[1] * 9 + [0]])
    assert permutation_test([a], [b], "accuracy", permutations=20_000) == pytest.approx(22 / 1024, abs=0.003)


def test_several_seeds_and_unequal_numbers_of_them():
    rng = np.random.default_rng(4)
    three = [noisy_run(rng, accuracy=accuracy, seed=i) for i, accuracy in enumerate((0.95, 0.8, 0.65))]
    one = [noisy_run(rng, accuracy=0.8)]
    found = paired_difference(three, one, "accuracy", **OPTIONS)
    means = [np.mean([100 * np.mean(run.predicted == run.targets) for run in runs]) for runs in (three, one)]
    assert found.value == pytest.approx(means[0] - means[1])
    # Seeds that disagree make the interval wider than any one of them has it.
    single = paired_difference([three[1]], one, "accuracy", **OPTIONS)
    assert found.high - found.low > single.high - single.low


@pytest.mark.slow
def test_power():
    """A true difference of the smallest size is found about four times out of five."""
    rng = np.random.default_rng(5)
    found, size = 0, []
    for trial in range(120):
        a, b = noisy_run(rng, n=200, accuracy=0.85), noisy_run(rng, n=200, accuracy=0.75)
        difference = paired_difference([a], [b], "accuracy", resamples=300, seed=trial)
        size.append(difference.smallest)
        found += difference.excludes_zero
    # SE of the difference: sqrt((.85*.15 + .75*.25) / 200) = 4.0 points, so 11.1 points for 80%; 10 gives 71%.
    assert np.mean(size) == pytest.approx(11.1, abs=0.7)
    assert 0.58 <= found / 120 <= 0.83


def test_rows_needed_and_smallest_difference():
    assert smallest_difference(1.0) == pytest.approx(2.8016, abs=1e-3)
    difference = Difference(1.0, -9.0, 11.0, n=100, p_value=0.8, smallest=14.0)
    assert rows_needed(difference, target=7.0) == 400


@pytest.mark.parametrize(
    ("method", "printed"),
    [
        (([76.27, 82.49, 96.32, 73.63, 23.59, 45.96], [12.32, 42.84, 81.00, 81.31, 31.74, 50.68]), 13.46),
        (([67.62, 87.61, 94.44, 80.73, 32.79, 36.43], [0.0, 54.77, 93.06, 80.63, 31.82, 42.09]), 13.63),
        (([76.26, 87.01, 94.42, 78.11, 34.54, 35.17], [24.72, 85.24, 78.32, 85.22, 36.98, 26.13]), 9.98),
    ],
)
def test_average_gain_matches_the_paper(method, printed):
    assert average_gain(*method) == pytest.approx(printed, abs=0.005)


def test_unlike_inputs_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(DataError, match="different queries"):
        paired_difference([noisy_run(rng, n=10)], [noisy_run(rng, n=12)], "accuracy")
    with pytest.raises(DataError, match="score for every task"):
        average_gain([1.0], [1.0, 2.0])
