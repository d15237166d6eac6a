"""PEAR as a method: made once, kept for every task, one port of several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contract.cases import QUERIES, WRITE, lm_of, task
from tests.methods.head_gains.planted import SUPPRESSOR

from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Conditioning, Prompt
from coldframe.methods.head_gains import discovery
from coldframe.methods.head_gains.config import ReweightConfig
from coldframe.methods.head_gains.pear import PEAR
from coldframe.pipeline.fit import fit
from coldframe.pipeline.pipeline import load
from coldframe.pipeline.reweight import reweight
from coldframe.training.trainer import Trainer

QUICK = ReweightConfig(repetitions=((12, 10),), length=8, batch_size=6, steps=4, evaluate_every=2, held_out=8, heads=1)
FIXED: dict[str, Any] = {"heads": 2, "fixed": 0.3, "repetitions": ((4, 6),), "length": 6, "held_out": 2}
TRAINED = {**FIXED, "fixed": None, "steps": 6, "batch_size": 8, "evaluate_every": 1, "learning_rate": 1e-2}
TRAINED |= {"held_out": 8, "patience": 0}


@pytest.mark.slow
def test_what_is_made_is_kept_and_another_k_uses_the_same_effects(
    lm: FrozenLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = reweight(lm, QUICK)
    assert first.heads == (SUPPRESSOR,) and first.gains[SUPPRESSOR] < 1
    assert [sorted(record) for record in first.history[1:]] == [["step", "train_loss", "validation_loss"]] * 2
    monkeypatch.setattr(discovery, "_measure", lambda *_: pytest.fail("measured again"))
    assert reweight(lm, QUICK.replace(heads=2)).heads[0] == SUPPRESSOR
    assert not torch.equal(reweight(lm, QUICK.replace(seed=0, learning_rate=0.01)).gains, first.gains)
    monkeypatch.setattr(Trainer, "_step", lambda *_: pytest.fail("trained again"))
    again = reweight(lm, QUICK)
    assert torch.equal(again.gains, first.gains) and again.history == first.history


def test_other_discovery_settings_or_weights_are_measured_anew(lm: FrozenLM, monkeypatch: pytest.MonkeyPatch) -> None:
    reweight(lm, QUICK)
    monkeypatch.setattr(discovery, "_measure", lambda *_: (_ for _ in ()).throw(KeyError("measured")))
    for change in ({"seed": 1}, {"repetitions": ((12, 9),)}, {"bos": "always"}, {"mean_over": "sequence"}):
        with pytest.raises(KeyError, match="measured"):
            reweight(lm, QUICK.replace(**change))
    with pytest.raises(KeyError, match="measured"):
        reweight(lm_of("gpt2"), QUICK)


def test_every_task_has_the_same_gains_and_only_the_first_trains_them(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = lm_of("llama")
    first = fit(PEAR(**TRAINED), lm, task(), quiet=True)
    monkeypatch.setattr(Trainer, "_step", lambda *_: pytest.fail("trained again"))
    again = fit(PEAR(**TRAINED), lm, task(WRITE, rows=2), quiet=True, objective="answer", seed=3, patience=1)
    assert torch.equal(again.method.gains, first.method.gains)
    assert again.method.reweighting.history == first.method.reweighting.history
    assert torch.equal(reweight(lm, ReweightConfig.from_dict(TRAINED)).gains, first.method.gains)


def test_the_gains_stand_in_the_artifact_and_are_not_made_when_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = lm_of("llama")
    pipeline = fit(PEAR(**FIXED), lm, task(), out=tmp_path, quiet=True)
    assert int((pipeline.method.gains == torch.tensor(0.3)).sum()) == 2 and pipeline.history == []
    monkeypatch.setattr(PEAR, "problems", lambda *_: pytest.fail("made again"))
    again = load(tmp_path, lm)
    assert torch.equal(again.method.gains, pipeline.method.gains)
    assert again.method.heads == pipeline.method.heads  # type: ignore[attr-defined]
    assert again.predict_proba(QUERIES).tolist() == pipeline.predict_proba(QUERIES).tolist()


def test_a_fitted_pipeline_says_what_was_trained() -> None:
    pipeline = fit(PEAR(**TRAINED), lm_of("llama"), task(), quiet=True)
    assert [record["step"] for record in pipeline.history] == list(range(7))
    assert pipeline.method.trained_parameters == int((pipeline.method.gains != 1).sum()) == 2


def test_gains_are_one_port_of_several() -> None:
    lm, method = lm_of("llama"), PEAR(**FIXED)
    fit(method, lm, task(), quiet=True)
    gains = method.condition(["x"], None)  # type: ignore[arg-type]
    soft = Conditioning(soft_tokens=torch.randn(2, lm.d_model), contexts=(("An exemplar.\n",),))
    both = gains.merge(soft)
    scores = [lm.label_scores([Prompt("is it?")], ["yes", "no"], c) for c in (gains, soft, both)]
    assert both.head_gains is not None and both.soft_tokens is not None and both.contexts is not None
    assert not torch.allclose(scores[2], scores[0], atol=1e-2) and not torch.allclose(scores[2], scores[1], atol=1e-2)


def test_a_fitted_pipeline_is_exported_as_a_checkpoint(folder: Path, tmp_path: Path) -> None:
    from coldframe.frozen.model import load_lm

    lm = load_lm(str(folder), dtype="float32")
    settings = {"heads": 1, "fixed": 0.5, "repetitions": ((12, 10),), "length": 8, "held_out": 4}
    pipeline = fit(PEAR(**settings), lm, task(WRITE, rows=2), quiet=True)
    pipeline.export(tmp_path / "new")
    exported, ids = load_lm(str(tmp_path / "new"), dtype="float32"), torch.tensor([[5, 6, 7, 8, 5, 6, 7, 8]])
    gains = Conditioning(head_gains=pipeline.method.gains.detach())
    torch.testing.assert_close(exported.logits(ids), lm.logits(ids, conditioning=gains), atol=1e-4, rtol=0)
    assert json.loads((tmp_path / "new" / "config.json").read_text())["coldframe_head_gains"]["method"] == "pear"
