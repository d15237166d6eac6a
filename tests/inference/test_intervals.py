from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from tests.evaluation.support import make_predictions, noisy_run

from coldframe.errors import ConfigError, DataError
from coldframe.inference.intervals import Interval, bootstrap, interval, resampled_weights, score_interval
from coldframe.inference.predictions import Predictions
from coldframe.tasks.metrics import METRICS


def mean_statistic(values):
    return lambda weights: weights @ values / weights.sum(axis=1)


def test_weights_are_resamples():
    chunks = list(resampled_weights(7, resamples=500, seed=3))
    weights = np.concatenate(chunks)
    assert weights.shape == (500, 7)
    assert np.all(weights.sum(axis=1) == 7)
    assert abs(weights.mean() - 1) < 1e-12 and weights.var() > 0.7  # a multinomial's variance is 6/7


def test_strata_keep_their_sizes():
    strata = np.array([0, 0, 0, 1, 1, 2])
    weights = np.concatenate(list(resampled_weights(6, strata=strata, resamples=200, seed=0)))
    for value, size in ((0, 3), (1, 2), (2, 1)):
        assert np.all(weights[:, strata == value].sum(axis=1) == size)


def test_bca_agrees_with_scipy():
    values = np.random.default_rng(0).exponential(size=60)
    ours = interval([mean_statistic(values)], 60, resamples=20_000)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="BCa", rng=np.random.default_rng(1))
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.03 * width)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.03 * width)
    # Skewed data: BCa must differ from the plain quantiles, to the right.
    plain = interval([mean_statistic(values)], 60, resamples=20_000, kind="percentile")
    assert ours.high > plain.high + 0.02 * width


def test_percentile_agrees_with_scipy():
    values = np.random.default_rng(0).exponential(size=60)
    ours = interval([mean_statistic(values)], 60, kind="percentile", resamples=20_000)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1))
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.03 * width)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.03 * width)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bca", "percentile"])
def test_intervals_cover_as_often_as_they_say(kind):
    """Accuracy 0.8 on 150 rows, 300 times: 95% nominal, binomial error of the estimate 1.3%."""
    rng = np.random.default_rng(5)
    hits = 0
    for trial in range(300):
        values = (rng.random(150) < 0.8).astype(float)
        found = interval([mean_statistic(values)], 150, kind=kind, resamples=600, seed=trial)
        hits += found.low <= 0.8 <= found.high
    assert 0.91 <= hits / 300 <= 0.985


@pytest.mark.slow
def test_intervals_over_seeds_cover():
    """Rows and seeds both vary: an interval over rows alone would cover far too rarely."""
    rng = np.random.default_rng(6)
    crossed = rows_only = 0
    for trial in range(200):
        values = rng.normal(size=(1, 80)) + rng.normal(scale=0.2, size=(8, 1)) + rng.normal(scale=0.5, size=(8, 80))
        found = interval([mean_statistic(row) for row in values], 80, resamples=500, seed=trial)
        crossed += found.low <= 0 <= found.high
        found = interval([mean_statistic(values.mean(axis=0))], 80, resamples=500, seed=trial)
        rows_only += found.low <= 0 <= found.high
    assert 0.89 <= crossed / 200 <= 0.99
    assert rows_only < crossed


def test_one_seed_and_copies_of_it_agree():
    values = np.random.default_rng(0).normal(size=50)
    one = interval([mean_statistic(values)], 50, resamples=500)
    three = interval([mean_statistic(values)] * 3, 50, resamples=500)
    assert (three.low, three.high) == pytest.approx((one.low, one.high), abs=1e-12)
    assert three.seeds == 3


def test_undefined_resamples_are_left_out():
    """Two rows of one class among 12: every sixth resample has none, and sensitivity is undefined there."""
    labels = np.array([1, 1] + [0] * 10)
    right = np.array([1, 0] + [1] * 10)

    def sensitivity(weights):
        positives = weights @ (labels == 1)
        return np.where(positives > 0, weights @ (right * labels) / np.maximum(positives, 1), np.nan)

    assert np.isnan(bootstrap([sensitivity], 12, resamples=500)).any()
    found = interval([sensitivity], 12, resamples=500)
    assert np.isfinite([found.value, found.low, found.high]).all()


def test_a_constant_score_has_no_width():
    found = interval([mean_statistic(np.ones(20))], 20, resamples=200)
    assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)


def test_a_score_that_is_never_defined_stays_undefined():
    found = interval([lambda weights: np.full(len(weights), np.nan)], 20, resamples=200)
    assert np.isnan([found.value, found.low, found.high]).all()


def test_the_same_seed_gives_the_same_interval():
    run = noisy_run(np.random.default_rng(0), n=60, accuracy=0.8)
    first, second = (score_interval([run], "accuracy", resamples=300, seed=4) for _ in range(2))
    assert first == second
    assert score_interval([run], "accuracy", resamples=300, seed=5) != first


def test_stratified_is_narrower_when_classes_differ():
    targets = np.repeat([0, 1], 50)
    probabilities = np.eye(2)[np.zeros(100, int)]  # right on class 0 only: accuracy moves with the class share
    run = make_predictions(targets, probabilities)
    free = score_interval([run], "accuracy", resamples=400)
    kept = score_interval([run], "accuracy", resamples=400, stratified=True)
    assert kept.high - kept.low == 0 < free.high - free.low


def test_different_rows_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(DataError, match="different queries"):
        score_interval([noisy_run(rng, n=10), noisy_run(rng, n=11)], "accuracy")
    with pytest.raises(ConfigError, match="resamples"):
        interval([mean_statistic(np.ones(3))], 3, resamples=10)


def test_interval_round_trip():
    found = Interval(76.4, 73.0, 79.0, n=779, seeds=3)
    assert Interval.from_dict(found.to_dict()) == found


def test_written_answers_and_unknown_metrics():
    run = Predictions(
        method="icl",
        seed=0,
        task="captions",
        ids=tuple("abcd"),
        texts=tuple("abcd"),
        labels=(),
        targets=np.full(4, -1, np.int64),
        probabilities=np.empty((4, 0)),
        neighbours=np.empty((4, 0), np.str_),
        similarities=np.empty((4, 0), np.float32),
        references=(("one",), ("two",), ("three", "3"), ("four",)),
        generated=("one", "2", "3", "four"),
    )
    found = score_interval([run], "exact_match", resamples=400)
    assert found.value == 75.0 and found.low < 75.0 <= found.high
    with pytest.raises(ConfigError, match="generation task.*exact_match"):
        score_interval([run], "exact_matches")
    with pytest.raises(ConfigError, match="classification task"):
        score_interval([noisy_run(np.random.default_rng(0))], "exact_match")


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_has_an_interval(metric):
    run = noisy_run(np.random.default_rng(0), n=80)
    found = score_interval([run], metric, positive=1, resamples=300)
    assert found.low < found.value < found.high
    assert found.value == pytest.approx(METRICS[metric].score(run.targets, run.probabilities, 1))
