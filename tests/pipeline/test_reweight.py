"""A recipe that reweights its model: made once, found again, and an artifact on it loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny import tiny

import coldframe as cf
from coldframe.cli import main
from coldframe.cli.options import ModelFlags
from coldframe.errors import ConfigError
from coldframe.frozen.ports import Conditioning
from coldframe.methods.head_gains.gains_file import read_gains
from coldframe.pipeline import reweight

SETTINGS: dict[str, Any] = {
    "heads": 3, "steps": 10, "evaluate_every": 2, "repetitions": [[12, 8], [10, 10]], "length": 20, "batch_size": 32,
    "held_out": 60, "learning_rate": 0.01,
}  # fmt: skip

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models") / "small"
    model, tokenizer = tiny("llama")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.slow
def test_the_model_of_a_recipe_is_the_base_with_its_gains(small: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base = ModelFlags(small, dtype="float32").load()
    lm = ModelFlags(small, dtype="float32", reweight=SETTINGS).load()
    gains = read_gains(lm.provenance["name"]).gains
    assert int((gains != 1).sum()) == 3
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    assert torch.allclose(lm.logits(ids), base.logits(ids, None, Conditioning(head_gains=gains)), atol=1e-4)

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("made again")

    monkeypatch.setattr(reweight, "save_reweighted", never)
    assert ModelFlags(small, dtype="float32", reweight=SETTINGS).load().weight_hash == lm.weight_hash
    with pytest.raises(AssertionError, match="made again"):
        ModelFlags(small, dtype="float32", reweight={**SETTINGS, "heads": 2}).load()
    with pytest.raises(ConfigError, match="Unknown key 'head' .* 'heads'"):
        ModelFlags(small, reweight={"head": 2}).load()


@pytest.mark.slow
def test_an_artifact_on_it_loads_and_predicts_the_same(
    small: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"it is {word} {i},{word}" for i in range(12) for word in ("yes", "no")]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    recipe = {"model": {"model": small, "dtype": "float32", "reweight": SETTINGS}, "method": "icl"}
    (tmp_path / "recipe.json").write_text(json.dumps({**recipe, "method_settings": {"k": 2}}))
    words = ["fit", tmp_path / "rows.csv", "--recipe", tmp_path / "recipe.json", "--out", tmp_path / "out", "--quiet"]
    assert main([str(word) for word in words]) == 0, capsys.readouterr().err
    pipeline = cf.load(tmp_path / "out")
    assert "-pear-" in pipeline.lm.provenance["name"]
    assert pipeline.predict_proba(["it is yes 3"]).shape == (1, 2)
