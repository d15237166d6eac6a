"""``coldframe reweight`` and ``coldframe unfold``, end to end on the planted model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.pear.planted import SUPPRESSOR
from tests.tiny import tiny

from coldframe.cli import main
from coldframe.frozen.model import load_lm
from coldframe.methods.head_gains.coefficients import GainTrainer
from coldframe.methods.head_gains.gains_file import read_gains

QUICK = ("--repetitions", 12, 10, 8, 15, "--length", 8, "--batch-size", 6, "--steps", 4, "--evaluate-every", 2)
QUICK += ("--held-out", 8, "--dtype", "float32", "--quiet")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: Any) -> tuple[int, str, str]:
        capsys.readouterr()
        return main([str(word) for word in words]), *capsys.readouterr()

    return call


def test_a_model_is_reweighted_and_the_checkpoint_is_a_model_like_any_other(
    run: Run, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new"
    status, printed, err = run("reweight", folder, "--out", out, "--json", *QUICK)
    assert status == 0, err
    found = json.loads(printed)
    assert (found["heads"][0]["layer"], found["heads"][0]["head"]) == SUPPRESSOR
    assert found["heads"][0]["gain"] < 1 and found["heads"][0]["effect"] > 0.5
    assert found["loss_after"] < found["loss_before"] and -1 <= found["stability"] <= 1
    assert found["weights"]["folded"] and found["checkpoint"] == str(out)
    page = (out / "head_gains" / "report.html").read_text()
    assert found["report"] == str(out / "head_gains" / "report.html")
    assert "Which heads" in page and "Whether it answers better was not measured" in page
    gains, base, new = read_gains(out).gains, load_lm(str(folder), dtype="float32"), load_lm(str(out), dtype="float32")
    assert new.provenance["name"] == str(out) and new.weight_hash != base.weight_hash
    ids = torch.tensor([[5, 6, 7, 8, 5, 6, 7, 8]])
    assert float((new.logits(ids) - base.logits(ids)).abs().max()) > 1e-3
    assert sorted(gains[gains != 1].tolist()) == sorted(one["gain"] for one in found["heads"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GainTrainer, "train", lambda self: pytest.fail("trained before it was refused"))
        status, _, err = run("reweight", out, "--out", tmp_path / "twice", *QUICK)
    assert status == 2 and "reweighted already" in err and "--out DIR" in err

    status, printed, _ = run("reweight", folder, "--out", tmp_path / "control", "--fixed", 0, *QUICK)
    assert status == 0 and "2.2" in printed and "0.000" in printed and "coldframe unfold" in printed

    status, printed, _ = run("unfold", out, "--out", tmp_path / "back", "--base", folder, "--json")
    assert status == 0 and json.loads(printed)["exact"] is True
    assert load_lm(str(tmp_path / "back"), dtype="float32").weight_hash == base.weight_hash
    status, printed, _ = run("unfold", out, "--out", tmp_path / "near", "--json")
    near = load_lm(str(tmp_path / "near"), dtype="float32")
    assert json.loads(printed)["exact"] is (near.weight_hash == base.weight_hash)
    torch.testing.assert_close(near.logits(ids), base.logits(ids), atol=1e-4, rtol=0)


def test_an_interrupted_command_goes_on(
    run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, done = GainTrainer._step, []

    def stopped(self: GainTrainer, number: int) -> float:
        done.append(number)
        if len(done) == 4:
            raise KeyboardInterrupt
        return step(self, number)

    monkeypatch.setattr(GainTrainer, "_step", stopped)
    status, _, err = run("reweight", folder, "--out", tmp_path / "new", *QUICK)
    assert status == 130 and "goes on" in err and not (tmp_path / "new").exists()
    assert run("reweight", folder, "--out", tmp_path / "new", *QUICK)[0] == 0
    assert done == [0, 1, 2, 3, 2, 3]


def test_bad_input_is_told(run: Run, folder: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    small, tokens = tiny("llama")
    for name in ("infinite", "wordless"):
        small.save_pretrained(tmp_path / name)
    tokens.save_pretrained(tmp_path / "infinite")
    small.lm_head.weight.data[0, 0] = torch.nan
    small.model.layers[2].self_attn.o_proj.weight.data[0, 0] = torch.nan
    small.save_pretrained(tmp_path / "infinite")
    load_lm(str(folder)).tokenizer.save_pretrained(tmp_path / "wordless")
    cases: list[tuple[Any, tuple[Any, ...], tuple[str, ...]]] = [
        (folder, ("--out", taken), ("exists already", "Choose another --out")),
        (folder, ("--heads", 13), ("heads=13", "at most 12")),
        (folder, ("--length", 40), ("longer than the model's context", "80 tokens", "at most 64")),
        (folder, ("--repetitions", 4, 16), ("vocabulary is too small", "60 tokens")),
        (folder, ("--steps", 0), ("steps must be at least 1",)),
        (tmp_path / "infinite", (), ("Layer 2", "not finite")),
        (tmp_path / "wordless", ("--repetitions", 4, 20), ("vocabulary is too small",)),
        (tmp_path / "nowhere", (), ("Cannot get the model",)),
    ]
    for model, words, parts in cases:
        status, out, err = run("reweight", model, "--out", tmp_path / "new", *QUICK, *words)
        assert status == 2 and out == "", (words, out, err)
        assert err.splitlines()[-1].startswith("coldframe: error: ") and all(part in err for part in parts), err
    assert not (tmp_path / "new").exists()
    status, _, err = run("unfold", folder, "--out", tmp_path / "new")
    assert status == 2 and "holds no head gains" in err


def test_an_architecture_without_known_heads_is_told(run: Run, folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, StableLmConfig

    config = StableLmConfig(
        vocab_size=63, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=16
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "other")
    load_lm(str(folder)).tokenizer.save_pretrained(tmp_path / "other")
    status, _, err = run("reweight", tmp_path / "other", "--out", tmp_path / "new", *QUICK)
    assert status == 2 and "ANATOMIES['stablelm']" in err and "o_proj" in err
