"""``coldframe reweight`` and ``coldframe unfold``, end to end on the planted model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.cli.conftest import Ran
from tests.methods.head_gains.planted import SUPPRESSOR, planted
from tests.tiny import tiny

from coldframe.frozen.model import load_lm
from coldframe.methods.head_gains.gains_file import read_gains
from coldframe.training.trainer import Trainer

QUICK = ("--repetitions", 12, 10, 8, 15, "--length", 8, "--batch-size", 6, "--steps", 4, "--evaluate-every", 2)
QUICK += ("--held-out", 8, "--dtype", "float32", "--quiet")
Run = Callable[..., Ran]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "planted"
    model, tokens = planted()
    model.save_pretrained(path)
    tokens.save_pretrained(path)
    return path


@pytest.mark.slow
def test_a_model_is_reweighted_and_the_checkpoint_is_a_model_like_any_other(
    run: Run, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new"
    ran = run("reweight", folder, "--out", out, "--json", *QUICK)
    assert ran.status == 0, ran.err
    result = ran.json
    assert (result["heads"][0]["layer"], result["heads"][0]["head"]) == SUPPRESSOR
    assert result["heads"][0]["gain"] < 1 and result["heads"][0]["effect"] > 0.5
    assert result["loss_after"] < result["loss_before"] and -1 <= result["stability"] <= 1
    assert result["weights"]["folded"] and result["checkpoint"] == str(out)
    page = (out / "head_gains" / "report.html").read_text()
    assert result["report"] == str(out / "head_gains" / "report.html")
    assert "Which heads" in page and "Whether it answers better was not measured" in page
    gains, base, new = read_gains(out).gains, load_lm(str(folder), dtype="float32"), load_lm(str(out), dtype="float32")
    assert new.provenance["name"] == str(out) and new.weight_hash != base.weight_hash
    ids = torch.tensor([[5, 6, 7, 8, 5, 6, 7, 8]])
    assert float((new.logits(ids) - base.logits(ids)).abs().max()) > 1e-3
    assert sorted(gains[gains != 1].tolist()) == sorted(head["gain"] for head in result["heads"])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train", lambda self: pytest.fail("trained before it was refused"))
        ran = run("reweight", out, "--out", tmp_path / "twice", *QUICK)
    assert ran.status == 2 and "reweighted already" in ran.err and "--out DIR" in ran.err

    ran = run("unfold", out, "--out", tmp_path / "back", "--base", folder, "--json")
    assert ran.status == 0 and ran.json["exact"] is True
    assert load_lm(str(tmp_path / "back"), dtype="float32").weight_hash == base.weight_hash
    ran = run("unfold", out, "--out", tmp_path / "near", "--json")
    near = load_lm(str(tmp_path / "near"), dtype="float32")
    assert ran.json["exact"] is (near.weight_hash == base.weight_hash)
    torch.testing.assert_close(near.logits(ids), base.logits(ids), atol=1e-4, rtol=0)


@pytest.mark.slow
def test_heads_that_are_cut_out_have_a_page_too(run: Run, folder: Path, tmp_path: Path) -> None:
    ran = run("reweight", folder, "--out", tmp_path / "control", "--fixed", 0, *QUICK)
    assert ran.status == 0, ran.err
    assert "2.2" in ran.out and "0.000" in ran.out and "coldframe unfold" in ran.out
    assert "loss on held-out random sequences" in ran.out
    assert "Which heads" in (tmp_path / "control" / "head_gains" / "report.html").read_text()


@pytest.mark.slow
def test_an_interrupted_command_goes_on(
    run: Run, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, done = Trainer._step, []

    def stopped(self: Trainer, group: Any, number: int) -> Any:
        done.append(number)
        if len(done) == 4:
            raise KeyboardInterrupt
        return step(self, group, number)

    monkeypatch.setattr(Trainer, "_step", stopped)
    ran = run("reweight", folder, "--out", tmp_path / "new", *QUICK)
    assert ran.status == 130 and "goes on" in ran.err and not (tmp_path / "new").exists()
    assert run("reweight", folder, "--out", tmp_path / "new", *QUICK).status == 0
    assert done == [0, 1, 2, 3, 2, 3]


@pytest.mark.slow
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
        ran = run("reweight", model, "--out", tmp_path / "new", *QUICK, *words)
        assert ran.status == 2 and ran.out == "", (words, ran)
        assert ran.err.splitlines()[-1].startswith("coldframe: error: ")
        assert all(part in ran.err for part in parts), ran.err
    assert not (tmp_path / "new").exists()
    ran = run("unfold", folder, "--out", tmp_path / "new")
    assert ran.status == 2 and "holds no head gains" in ran.err


def test_an_architecture_without_known_heads_is_told(run: Run, folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, StableLmConfig

    config = StableLmConfig(
        vocab_size=63, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=16
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "other")
    load_lm(str(folder)).tokenizer.save_pretrained(tmp_path / "other")
    ran = run("reweight", tmp_path / "other", "--out", tmp_path / "new", *QUICK)
    assert ran.status == 2 and "ANATOMIES['stablelm']" in ran.err and "o_proj" in ran.err
