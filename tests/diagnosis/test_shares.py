from __future__ import annotations

import math

import numpy as np
import pytest

from coldframe.diagnosis.shares import (
    Resampling,
    Shares,
    queries_needed,
    remainder,
    share_of,
)
from coldframe.errors import ConfigError, DataError
from coldframe.inference.intervals import ends, interval, resampled_weights, seed_shares


def losses(rng, n=60, seeds=3, share=0.5, gain=0.4):
    """Full pipeline, model alone and a condition that loses a known share."""
    base = rng.exponential(size=n)
    full = base + rng.normal(0, 0.1, (seeds, n))
    empty = base + rng.normal(gain, 0.3, n)
    return full, empty, full + share * gain + rng.normal(0, 0.2, (seeds, n))


def naive(full, empty, changed, groups, *, resamples, seed, training=0):
    """Share of the gain from the equation, one resample, seed and query at a time."""
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    weights = np.concatenate(list(resampled_weights(len(members), resamples=resamples, seed=seed)))
    # Conditions of one training draw the same seeds; each draws them anew here, from the same stream.
    drawn = {
        (count, stream): seed_shares(resamples, count, np.random.default_rng([seed, 1, stream]), max(1, count - 1))
        for count, stream in {(len(full), 0), (len(empty), 0), (len(changed), training)}
    }

    def mean(values, shares, per_unit):
        top = below = 0.0
        for unit, rows in enumerate(members):
            for row in rows:
                below += per_unit[unit]
                for s in range(len(values)):
                    top += per_unit[unit] * shares[s] * values[s, row]
        return top / below

    def share(per_unit, of):
        f, e, c = (mean(v, of[len(v), t], per_unit) for v, t in ((full, 0), (empty, 0), (changed, training)))
        return (c - f) / (e - f)

    even = {key: np.full(key[0], 1 / key[0]) for key in drawn}
    ones = np.ones(len(members))
    draws = [share(weights[r], {key: shares[r] for key, shares in drawn.items()}) for r in range(resamples)]
    left_out = [share(ones - (np.arange(len(members)) == unit), even) for unit in range(len(members))]
    value = share(ones, even)
    return value, *ends(value, np.array(draws), np.array(left_out))


@pytest.mark.parametrize("clustered", [False, True])
@pytest.mark.parametrize("training", [0, 2])
def test_share_is_the_naive_ratio(clustered, training):
    rng = np.random.default_rng(1)
    full, empty, changed = losses(rng, n=24, seeds=2)
    if training:
        changed = np.concatenate([changed, changed[:1] + 0.1])  # trained again, with three seeds
    groups = rng.integers(10, 19, 24) if clustered else np.arange(24)
    shares = Shares(full, empty, groups if clustered else None, resamples=150, seed=5)
    found = shares.of(changed, training=training).share
    expected = naive(full, empty[None], changed, groups, resamples=150, seed=5, training=training)
    assert (found.value, found.low, found.high) == pytest.approx(expected, abs=1e-10)


def test_means_agree_with_the_metric_bootstrap():
    """One condition, one seed: the interval that scores get, of the same resamples."""
    values = np.random.default_rng(0).exponential(size=50)
    found = Resampling(50, resamples=400, seed=3).means(values[None, None])[0].estimate()
    other = interval([lambda w: w @ values / w.sum(axis=1)], 50, resamples=400, seed=3)
    assert (found.value, found.low, found.high) == pytest.approx((other.value, other.low, other.high))


def test_numerator_and_denominator_share_their_resample():
    """A condition that loses exactly half of every query's gain: there is nothing to be unsure of."""
    rng = np.random.default_rng(2)
    full, empty, _ = losses(rng, seeds=1)
    found = Shares(full, empty, resamples=300).of((full + empty) / 2).share
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    # The rise itself is uncertain.
    rise = Shares(full, empty, resamples=300).of((full + empty) / 2).rise
    assert rise.high - rise.low > 0.02


def test_a_condition_that_changes_nothing_and_one_that_takes_all():
    full, empty, _ = losses(np.random.default_rng(3), seeds=1)
    shares = Shares(full, empty, resamples=300)
    same, alone = shares.of(full), shares.of(empty)
    assert (same.share.value, same.share.low, same.share.high) == (0, 0, 0)
    assert same.rise.p_value == 1
    assert (alone.share.value, alone.share.low, alone.share.high) == pytest.approx((1, 1, 1))
    assert alone.gain.value == 0 and alone.rise.p_value == pytest.approx(1 / 301)
    assert shares.gain.p_value == pytest.approx(1 / 301)


def test_explained_is_the_other_part():
    full, empty, changed = losses(np.random.default_rng(4))
    shares = Shares(full, empty, resamples=300)
    found = shares.of(changed)
    assert found.explained == remainder(found.share)
    assert found.explained.value == pytest.approx(found.gain.value / shares.gain.value)
    assert found.explained.low < found.explained.value < found.explained.high


@pytest.mark.parametrize("gain", [0.0, -0.4])
def test_shares_are_undefined_without_a_gain(gain):
    full, empty, changed = losses(np.random.default_rng(5), gain=gain)
    found = Shares(full, empty, resamples=300).of(changed)
    assert all(math.isnan(x) for x in (found.share.value, found.share.low, found.share.high))
    assert all(math.isfinite(x) for x in (found.rise.low, found.gain.low, found.loss.low))


def test_interval_covers_a_known_share():
    """Skewed noise, 3 seeds that differ, 60 queries, 300 times: 95% nominal, binomial error 1.3%."""
    rng = np.random.default_rng(6)
    hits = 0
    for trial in range(12):  # 25 data sets share their weights, which is what makes this fast
        resampling = Resampling(60, resamples=600, seed=trial)
        noise = rng.exponential(size=(2, 25, 1, 60)) - 1
        full = rng.normal(0, 0.1, (25, 3, 60))
        empty = resampling.means(0.4 + 0.3 * noise[0])
        changed = resampling.means(full + 0.12 + rng.normal(0, 0.02, (25, 3, 1)) + 0.2 * noise[1])
        for f, e, c in zip(resampling.means(full), empty, changed, strict=True):
            found = share_of((e - f).estimate(), c - f, e - f)
            hits += found.low <= 0.3 <= found.high
    assert 0.91 <= hits / 300 <= 0.985


def test_clusters_widen_the_interval():
    """Ten copies of each query tell no more than one."""
    rng = np.random.default_rng(7)
    full, empty, changed = losses(rng, n=40, seeds=1)
    one = Shares(full, empty, resamples=500).of(changed)
    copied = [np.repeat(np.atleast_2d(x), 10, axis=1) for x in (full, empty, changed)]
    clustered = Shares(*copied[:2], np.repeat(np.arange(40), 10), resamples=500).of(copied[2])
    blind = Shares(*copied[:2], resamples=500).of(copied[2])
    assert (clustered.share.low, clustered.share.high) == pytest.approx((one.share.low, one.share.high))
    assert clustered.rise.p_value == one.rise.p_value
    assert blind.share.high - blind.share.low < 0.5 * (one.share.high - one.share.low)


def test_seeds_that_disagree_widen_the_interval():
    rng = np.random.default_rng(8)
    full, empty, changed = losses(rng, n=200)
    apart = changed + np.array([[-0.2], [0.0], [0.2]])
    shares = Shares(full, empty, resamples=500)
    assert shares.of(apart).share.value == pytest.approx(shares.of(changed).share.value)
    widths = [found.share.high - found.share.low for found in (shares.of(apart), shares.of(changed))]
    assert widths[0] > 1.5 * widths[1]


def test_p_values_are_uniform_when_nothing_differs():
    rng = np.random.default_rng(9)
    resampling = Resampling(40, resamples=300)
    values = np.array(resampling.p_values([rng.standard_t(3, (1, 40)) for _ in range(400)]))
    for level in (0.05, 0.25, 0.5, 0.75):
        assert np.mean(values <= level) == pytest.approx(level, abs=3 * math.sqrt(level * (1 - level) / 400) + 0.02)


def test_p_value_is_the_exact_one():
    """Six pairs that all differ by one: 2 of 64 sign patterns are as extreme."""
    (p,) = Resampling(6, resamples=20_000).p_values([np.ones((1, 6))])
    assert p == pytest.approx(2 / 64, abs=0.004)


def test_bad_losses_are_refused():
    full, empty, changed = losses(np.random.default_rng(10))
    with pytest.raises(DataError, match=r"2 of 60 losses.*query 4"):
        Shares(full, np.where(np.isin(np.arange(60), (4, 7)), np.nan, empty))
    with pytest.raises(DataError, match="same queries"):
        Shares(full, empty[:50])
    with pytest.raises(DataError, match="one row per seed"):
        Shares(full, empty, resamples=100).of(changed[:2])
    with pytest.raises(DataError, match="group"):
        Shares(full, empty, np.zeros(3))
    with pytest.raises(DataError, match="independent"):
        Shares(full, empty, np.zeros(60))
    with pytest.raises(ConfigError, match="resamples"):
        Shares(full, empty, resamples=10)


def test_queries_needed_reach_their_power():
    """With that many queries the interval excludes the boundary four times out of five."""
    rng = np.random.default_rng(11)
    n = queries_needed(0.3, 0.06)
    assert n == math.ceil(7.849 * 0.3**2 / 0.06**2)
    draws = rng.normal(0.06, 0.3, (4000, n)).mean(axis=1)
    assert np.mean(draws > 1.96 * 0.3 / math.sqrt(n)) == pytest.approx(0.8, abs=0.03)
    with pytest.raises(ConfigError, match="positive"):
        queries_needed(0.3, 0.0)
