"""PEAR as a method: made once, kept, and composed with the other ports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from coldframe.methods.head_gains.coefficients import GainTrainer
from tests.contract.cases import QUERIES, lm_of, task
from tests.pear.planted import SUPPRESSOR

from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Conditioning, Prompt
from coldframe.methods.head_gains import discovery
from coldframe.methods.head_gains.config import ReweightConfig
from coldframe.methods.head_gains.pear import PEAR, reweight
from coldframe.pipeline.fit import fit
from coldframe.pipeline.pipeline import load

QUICK = ReweightConfig(repetitions=((12, 10),), length=8, batch_size=6, steps=4, evaluate_every=2, held_out=8, heads=1)


def test_what_is_made_is_kept_and_another_k_uses_the_same_effects(
    lm: FrozenLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = reweight(lm, QUICK)
    assert first.heads == (SUPPRESSOR,) and first.trained.gains[SUPPRESSOR] < 1
    monkeypatch.setattr(discovery, "_measure", lambda *_: pytest.fail("measured again"))
    assert reweight(lm, QUICK.replace(heads=2)).heads[0] == SUPPRESSOR
    assert not torch.equal(reweight(lm, QUICK.replace(seed=0, learning_rate=0.01)).trained.gains, first.trained.gains)
    monkeypatch.setattr(GainTrainer, "_step", lambda *_: pytest.fail("trained again"))
    again = reweight(lm, QUICK)
    assert torch.equal(again.trained.gains, first.trained.gains) and again.trained.history == first.trained.history


def test_other_discovery_settings_or_weights_are_measured_anew(lm: FrozenLM, monkeypatch: pytest.MonkeyPatch) -> None:
    reweight(lm, QUICK)
    monkeypatch.setattr(discovery, "_measure", lambda *_: (_ for _ in ()).throw(KeyError("measured")))
    for change in ({"seed": 1}, {"repetitions": ((12, 9),)}, {"bos": "always"}, {"mean_over": "sequence"}):
        with pytest.raises(KeyError, match="measured"):
            reweight(lm, QUICK.replace(**change))
    with pytest.raises(KeyError, match="measured"):
        reweight(lm_of("gpt2"), QUICK)


SETTINGS: dict[str, Any] = {"heads": 2, "fixed": 0.3, "repetitions": ((4, 6),), "length": 6, "held_out": 2}


def test_the_gains_stand_in_the_artifact_and_are_not_made_when_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = lm_of("llama")
    pipeline = fit(PEAR(**SETTINGS), lm, task(), out=tmp_path, quiet=True)
    assert int((pipeline.method.gains == torch.tensor(0.3)).sum()) == 2 and pipeline.history == []
    monkeypatch.setattr("coldframe.methods.head_gains.pear.reweight", lambda *_: pytest.fail("made again"))
    again = load(tmp_path, lm)
    assert torch.equal(again.method.gains, pipeline.method.gains)
    assert again.predict_proba(QUERIES).tolist() == pipeline.predict_proba(QUERIES).tolist()


def test_gains_are_trained_where_the_first_prediction_needs_them(own_cache: Any) -> None:
    settings = {**SETTINGS, "fixed": None, "steps": 6, "batch_size": 8, "evaluate_every": 1, "learning_rate": 1e-2}
    settings |= {"held_out": 8, "patience": 0}
    pipeline = fit(PEAR(**settings), lm_of("llama"), task(), quiet=True)
    assert pipeline.predict_proba(QUERIES).shape == (len(QUERIES), 2)
    assert int((pipeline.method.gains != 1).sum()) == 2


def test_gains_are_one_port_of_several() -> None:
    lm, method = lm_of("llama"), PEAR(**SETTINGS)
    fit(method, lm, task(), quiet=True)
    gains = method.condition(["x"], None)  # type: ignore[arg-type]
    soft = Conditioning(soft_tokens=torch.randn(2, lm.d_model), contexts=(("An exemplar.\n",),))
    both = gains.merge(soft)
    scores = [lm.label_scores([Prompt("is it?")], ["yes", "no"], c) for c in (gains, soft, both)]
    assert both.head_gains is not None and both.soft_tokens is not None and both.contexts is not None
    assert not torch.allclose(scores[2], scores[0], atol=1e-2) and not torch.allclose(scores[2], scores[1], atol=1e-2)
