from __future__ import annotations

import json
import math

import numpy as np
import pytest
from reproduction.calibration import (
    EDGES,
    HARD,
    OUTCOMES,
    SHARES,
    SIZES,
    Calibration,
    calibrate,
    full_plan,
    render_markdown,
    wilson,
)
from reproduction.planted import Planted, judge, simulate

from coldframe.errors import ConfigError
from reproduction import calibration

QUICK = {"resamples": 300}


def test_what_is_planted_is_there():
    """Shares, spreads, correlation and the seeds' spread of 400 pipelines, against the docstring."""
    planted = Planted(share=0.3, query=1, n=200, training=0.1)
    made = simulate(planted, 400, np.random.default_rng(0))
    gain = made["empty"] - made["full"]
    assert gain.mean() == pytest.approx(0.4, abs=0.005)
    lost = {"swapped": 0.3, "predicted token": 0.3, "swapped-conditioning": 1.0, "mean token": 1.0}
    lost |= {"query-only": 0.3, "prompt-tuning": 1.0, "reparameterised": 1.0, "constant": 1.0}
    for name, share in lost.items():
        assert (made[name] - made["full"]).mean() / gain.mean() == pytest.approx(share, abs=0.015), name
    static = simulate(Planted(share=0.3, n=200), 100, np.random.default_rng(0))
    assert (static["constant"] - static["full"]).mean() == pytest.approx(0.3 * 0.4, abs=0.01)

    rise = made["swapped"] - made["full"]
    assert rise.std(axis=-1).mean() == pytest.approx(math.hypot(0.25, 0.12), rel=0.05)
    assert ((rise - rise.mean()) ** 3).mean() / rise.std() ** 3 > 1.5  # skewed
    # Over seeds the trainings' noise averages out, but for the part of it that all of a query's losses share.
    pairs = np.corrcoef(gain.mean(axis=1).ravel(), rise.mean(axis=1).ravel())[0, 1]
    assert pairs == pytest.approx(0.5 * 0.25 * 0.45 / math.hypot(0.25, 0.07) / math.hypot(0.45, 0.07), abs=0.05)
    # Trainings differ by 0.1 G, the same training under a condition by half of that.
    assert gain.mean(axis=-1).std(axis=1, ddof=1).mean() == pytest.approx(0.04 * 0.886, rel=0.12)
    assert rise.mean(axis=-1).std(axis=1, ddof=1).mean() == pytest.approx(0.02 * 0.886, rel=0.2)


@pytest.mark.parametrize(
    ("planted", "truth", "false"),
    [
        (Planted(share=0.0), "prompt-tuning-like", {"retrieval-driven", "query-driven", "mixed"}),
        (Planted(share=0.0, query=1), "query-driven", {"retrieval-driven", "prompt-tuning-like", "mixed"}),
        (Planted(share=0.3), "mixed", {"retrieval-driven", "query-driven", "prompt-tuning-like"}),
        (Planted(share=0.1), None, {"retrieval-driven", "query-driven", "prompt-tuning-like", "mixed"}),
        (Planted(share=0.5), "mixed", {"retrieval-driven", "query-driven", "prompt-tuning-like"}),
        (Planted(share=0.8), "retrieval-driven", {"query-driven", "prompt-tuning-like"}),
        (Planted(gain=0.0, share=0.8), "cannot-tell", {*OUTCOMES} - {"cannot-tell"}),
    ],
)
def test_true_and_false_outcomes(planted, truth, false):
    assert {outcome for outcome in OUTCOMES if planted.false(outcome)} == false
    assert truth is None or [outcome for outcome in OUTCOMES if planted.right(outcome)] == [truth]


@pytest.mark.slow
def test_clear_cases_are_told():
    for planted, truth in (
        (Planted(share=0.0, n=1500), "prompt-tuning-like"),
        (Planted(share=0.0, query=1, n=1500), "query-driven"),
        (Planted(share=0.3, n=779), "mixed"),
        (Planted(share=0.9, n=300), "retrieval-driven"),
    ):
        verdicts = list(judge(planted, 20, **QUICK))
        assert sum(alone == truth for alone, _ in verdicts) >= 18, planted
        assert sum(joint == truth for _, joint in verdicts) >= 18, planted


@pytest.mark.slow
@pytest.mark.parametrize("share", EDGES)
def test_false_verdicts_are_rare(share):
    """At the edges, where they are likeliest: at most 5% are false, 2.5% where one side of an edge counts."""
    cell = calibrate([(Planted(share=share, n=150), 200)], **QUICK).cells[0]
    for voice in calibration.VOICES:
        assert wilson(cell.count(voice, Planted.false), cell.trials)[0] < 0.05


def test_trials_are_counted_and_the_same_seed_gives_the_same():
    plan = [(Planted(share=0.2, n=50), 30), (Planted(share=0.9, n=50), 10)]
    found = calibrate(plan, **QUICK)
    assert [(cell.planted, cell.trials, sum(cell.store_ablation)) for cell in found.cells] == [
        (planted, trials, trials) for planted, trials in plan
    ]
    assert calibrate(plan, **QUICK) == found
    assert Calibration.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_plan_has_every_cell():
    plan = dict(full_plan(60))
    assert {(p.share, p.n, p.query) for p in plan} >= {(s, n, q) for s in SHARES for n in SIZES for q in (0, 1)}
    assert plan[Planted(share=0.5, n=100)] == 60 and plan[Planted(share=0.55, n=100)] == 10
    assert all(any(p.seeds == case.seeds and p.gain == case.gain for p in plan) for case in HARD.values())
    with pytest.raises(ConfigError, match="pipelines"):
        full_plan(3)


def test_wilson_has_the_known_values():
    assert wilson(5, 100) == pytest.approx((0.02154, 0.11175), abs=1e-5)
    assert wilson(0, 10) == pytest.approx((0.0, 0.27753), abs=1e-5)
    assert wilson(10, 10)[1] == pytest.approx(1.0)


@pytest.mark.slow
def test_the_command_writes_numbers_tables_and_plot(tmp_path, monkeypatch, capsys):
    small = [
        (Planted(share=share, query=query, n=n), 5) for share in (0.0, 0.1, 1.0) for query in (0, 1) for n in SIZES
    ]
    monkeypatch.setattr(calibration, "full_plan", lambda trials: small)
    calibration.main(["--out", str(tmp_path / "new"), "--resamples", "100"])
    found = Calibration.from_dict(json.loads((tmp_path / "new/calibration.json").read_text()))
    assert [cell.planted for cell in found.cells] == [planted for planted, _ in small]
    page = (tmp_path / "new/calibration.md").read_text()
    assert page == render_markdown(found)
    assert "| 0.00 | retrieval-driven | store ablation alone | 0.0% [0.0, 27.8] |" in page  # ten pipelines, q = 0 and 1
    assert "| 1.00 | retrieval-driven | all three | 100% | 100% | 100% | 100% |" in page
    drawing = (tmp_path / "new/calibration.svg").read_text()
    assert all(f"n = {n}, all three" in drawing for n in SIZES)
    assert str(tmp_path) not in drawing
    assert "5 pipelines" in capsys.readouterr().err
