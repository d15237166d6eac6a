"""Folding: the same model as gains on the heads, an ordinary checkpoint, and the way back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny import ARCHITECTURES, tiny
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from coldframe.errors import ArtifactError, ColdframeError, ConfigError, ModelError
from coldframe.frozen.model import FrozenLM, load_lm
from coldframe.frozen.ports import Conditioning
from coldframe.methods.head_gains.checkpoint_files import find_tensor
from coldframe.methods.head_gains.config import ReweightConfig
from coldframe.methods.head_gains.discovery import Effects
from coldframe.methods.head_gains.fold import attach, fold_columns, save_reweighted, unfold, unfold_columns
from coldframe.methods.head_gains.gains_file import read_gains
from coldframe.methods.head_gains.reweighting import Reweighting
from coldframe.storage.artifact import MANIFEST

IDS = torch.tensor([[5, 80, 9, 77, 200, 31, 8, 80, 9]])
CONFIG = ReweightConfig(heads=3)


def saved(path: Path, architecture: str = "llama", dtype: torch.dtype = torch.float32, **options: Any) -> Path:
    model, tokens = tiny(architecture)
    model.to(dtype).save_pretrained(path, **options)
    tokens.save_pretrained(path)
    return path


def gains_of(lm: FrozenLM) -> Tensor:
    gains = torch.ones(lm.anatomy.n_layers, lm.anatomy.n_heads)
    gains[0, 1], gains[-1, 0], gains[-1, 3] = 0.7, 1.3, 0.41
    return gains


def reweighting_of(gains: Tensor) -> Reweighting:
    """As if its heads were found and their gains trained."""
    shape = (1, *gains.shape)
    history = ({"step": 0.0, "validation_loss": 2.0}, {"step": 1.0, "validation_loss": 1.0})
    heads = tuple((int(layer), int(head)) for layer, head in (gains != 1).nonzero())
    return Reweighting(heads, Effects(torch.zeros(1), torch.rand(shape)), gains, history)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_folded_checkpoint_is_the_model_with_gains_on_its_heads(architecture: str, tmp_path: Path) -> None:
    base = saved(tmp_path / "base", architecture)
    lm = load_lm(str(base), dtype="float32")
    gains = gains_of(lm)
    wanted = lm.logits(IDS, conditioning=Conditioning(head_gains=gains))
    done = save_reweighted(lm, CONFIG, reweighting_of(gains), tmp_path / "new")
    assert done.folded and done.dtype == "float32" and 0 < done.rounding < 1e-6
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "new", dtype=torch.float32).eval()
    torch.testing.assert_close(plain(input_ids=IDS).logits, wanted, atol=1e-4, rtol=1e-4)
    assert float((wanted - lm.logits(IDS)).abs().max()) > 1e-2
    # Only what was scaled is other than before.
    before, after = (load_file(path / "model.safetensors") for path in (base, tmp_path / "new"))
    other = {name for name in before if not torch.equal(before[name], after[name])}
    assert set(before) == set(after)
    assert len(other) == 2 and other == {entry["name"] for entry in read_gains(tmp_path / "new").manifest["tensors"]}


def test_gains_of_one_leave_the_base_model_bit_for_bit(tmp_path: Path) -> None:
    lm = load_lm(str(saved(tmp_path / "base", dtype=torch.bfloat16)), dtype="bfloat16")
    ones = torch.ones(3, 4)
    assert torch.equal(lm.logits(IDS, conditioning=Conditioning(head_gains=ones)), lm.logits(IDS))
    weight = lm.anatomy.o_proj(1).weight
    assert torch.equal(fold_columns(weight, ones[0]), weight)
    one_head = torch.tensor([1.0, 0.8, 1.0, 1.0])
    others = [i for i in range(32) if not 8 <= i < 16]
    folded = fold_columns(weight, one_head)
    assert torch.equal(folded[:, others], weight[:, others]) and not torch.equal(folded, weight)


def test_bfloat16_weights_are_scaled_in_float32_and_rounded_once(tmp_path: Path) -> None:
    weight = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    gains = torch.tensor([1.003, 0.9])  # 1.003 is 1 in bf16
    wanted = weight.double() * torch.tensor([1.003, 0.9], dtype=torch.float32).double().repeat_interleave(4)
    folded = fold_columns(weight, gains)
    assert torch.equal(folded, wanted.bfloat16())
    assert not torch.equal(folded[:, :4], weight[:, :4])
    assert torch.equal(fold_columns(weight.T.contiguous(), gains, axis=0), folded.T)
    close = (unfold_columns(folded, gains).double() / weight.double() - 1).abs().max()
    assert 0 < close <= 2**-7


def test_weights_keep_the_dtype_of_the_checkpoint_however_the_model_was_loaded(tmp_path: Path) -> None:
    base = saved(tmp_path / "base")
    lm = load_lm(str(base), dtype="bfloat16")
    done = save_reweighted(lm, CONFIG, reweighting_of(gains_of(lm)), tmp_path / "new")
    assert done.dtype == "float32"
    name = "model.layers.0.self_attn.o_proj.weight"
    before, after = (load_file(path / "model.safetensors")[name] for path in (base, tmp_path / "new"))
    assert torch.equal(after, fold_columns(before, gains_of(lm)[0]))


def test_everything_but_a_note_is_as_it_was(tmp_path: Path) -> None:
    base = saved(tmp_path / "base", dtype=torch.bfloat16)
    (base / "README.md").write_text("the base model's card")
    (base / "LICENSE").write_text("the licence")
    (base / "pytorch_model.bin").write_bytes(b"a pickle")
    lm = load_lm(str(base))
    save_reweighted(lm, CONFIG, reweighting_of(gains_of(lm)), tmp_path / "new")
    names = {path.name for path in (tmp_path / "new").iterdir()}
    assert names == {path.name for path in base.iterdir()} - {"README.md", "pytorch_model.bin"} | {"head_gains"}
    for name in names - {"head_gains", "config.json", "model.safetensors"}:
        assert (tmp_path / "new" / name).read_bytes() == (base / name).read_bytes()
    config = json.loads((tmp_path / "new" / "config.json").read_text())
    note = config.pop("coldframe_head_gains")
    assert config == json.loads((base / "config.json").read_text())
    assert note["base_weight_hash"] == lm.weight_hash and (tmp_path / "new" / note["gains"]).is_file()
    assert sum(path.stat().st_size for path in (tmp_path / "new" / "head_gains").iterdir()) < 20_000
    tokens = AutoTokenizer.from_pretrained(tmp_path / "new")
    assert tokens("a question").input_ids == lm.tokenizer("a question").input_ids


def test_shards_are_kept(tmp_path: Path) -> None:
    base = saved(tmp_path / "base", max_shard_size="20KB")
    assert len(list(base.glob("*.safetensors"))) > 2
    lm = load_lm(str(base), dtype="float32")
    save_reweighted(lm, CONFIG, reweighting_of(gains_of(lm)), tmp_path / "new")
    assert {p.name for p in base.glob("*.safetensors")} == {p.name for p in (tmp_path / "new").glob("*.safetensors")}
    wanted = lm.logits(IDS, conditioning=Conditioning(head_gains=gains_of(lm)))
    torch.testing.assert_close(load_lm(str(tmp_path / "new"), dtype="float32").logits(IDS), wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unfolding_gives_the_base_back_and_says_where_rounding_forbids_it(dtype: torch.dtype, tmp_path: Path) -> None:
    base = saved(tmp_path / "base", dtype=dtype)
    lm = load_lm(str(base))
    gains = gains_of(lm)
    gains[1, 2] = 0.5  # a power of two rounds nothing
    save_reweighted(lm, CONFIG, reweighting_of(gains), tmp_path / "new")
    alone = unfold(tmp_path / "new", tmp_path / "alone")
    before, after = (load_file(path / "model.safetensors") for path in (base, tmp_path / "alone"))
    other = {name for name in before if not torch.equal(before[name], after[name])}
    assert len(alone.tensors) == 3 and set(alone.inexact) == other
    assert "model.layers.1.self_attn.o_proj.weight" not in other
    if dtype == torch.bfloat16:
        assert other
    step = 2**-7 if dtype == torch.bfloat16 else 2**-22
    assert all(torch.allclose(before[name].double(), after[name].double(), rtol=step, atol=0) for name in before)
    exact = unfold(tmp_path / "new", tmp_path / "exact", base=str(base))
    assert exact.inexact == ()
    assert (tmp_path / "exact" / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()
    for name in ("config.json", "tokenizer.json", "generation_config.json"):
        assert json.loads((tmp_path / "exact" / name).read_text()) == json.loads((base / name).read_text())
    assert not (tmp_path / "exact" / "head_gains").exists()


def test_unfolding_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    base, other = saved(tmp_path / "base"), saved(tmp_path / "other", "mistral")
    lm = load_lm(str(base), dtype="float32")
    gains, new = gains_of(lm), tmp_path / "new"
    gains[1, 0] = 0.0
    save_reweighted(lm, CONFIG, reweighting_of(gains), new)
    with pytest.raises(ArtifactError, match="A gain is 0.*Name the base model"):
        unfold(new, tmp_path / "out")
    with pytest.raises(ArtifactError, match="not the model that was reweighted"):
        unfold(new, tmp_path / "out", base=str(other))
    assert unfold(new, tmp_path / "right", base=str(base)).inexact == ()
    with pytest.raises(ArtifactError, match="holds no head gains"):
        unfold(base, tmp_path / "out")
    tensors = load_file(new / "model.safetensors")
    tensors["model.layers.1.self_attn.o_proj.weight"] += 1
    save_file(tensors, new / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match="changed after the gains were folded"):
        unfold(new, tmp_path / "out", base=str(base))
    assert not (tmp_path / "out").exists()


def test_a_folder_that_exists_is_never_overwritten_and_nothing_is_folded_twice(tmp_path: Path) -> None:
    lm = load_lm(str(saved(tmp_path / "base")), dtype="float32")
    (tmp_path / "there").mkdir()
    with pytest.raises(ColdframeError, match="exists already"):
        save_reweighted(lm, CONFIG, reweighting_of(gains_of(lm)), tmp_path / "there")
    save_reweighted(lm, CONFIG, reweighting_of(gains_of(lm)), tmp_path / "new")
    again = load_lm(str(tmp_path / "new"), dtype="float32")
    with pytest.raises(ConfigError, match="reweighted already.*coldframe unfold"):
        save_reweighted(again, CONFIG, reweighting_of(gains_of(lm)), tmp_path / "twice")
    model, tokens = tiny("llama")
    with pytest.raises(ConfigError, match="made in memory"):
        save_reweighted(FrozenLM(model, tokens), CONFIG, reweighting_of(gains_of(lm)), tmp_path / "memory")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "new", "there"]


def packed(lm: FrozenLM) -> FrozenLM:
    """The output projections in 8-bit integers, run by torch's own kernels."""
    for layer in lm.anatomy.layers:
        linear = layer.self_attn.o_proj
        linear.qconfig = torch.ao.quantization.default_dynamic_qconfig
        layer.self_attn.o_proj = torch.ao.nn.quantized.dynamic.Linear.from_float(linear)
    return FrozenLM(lm.model, lm.tokenizer, lm.provenance)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_packed_weights_keep_their_gains_as_hooks(tmp_path: Path) -> None:
    base = str(saved(tmp_path / "base"))
    lm = packed(load_lm(base, dtype="float32"))
    gains = gains_of(lm)
    done = save_reweighted(lm, CONFIG, reweighting_of(gains), tmp_path / "new")
    assert not done.folded and [path.name for path in (tmp_path / "new").iterdir()] == ["head_gains"]
    assert read_gains(tmp_path / "new").manifest["folded"] is False
    wanted = lm.logits(IDS, conditioning=Conditioning(head_gains=gains))
    assert float((wanted - lm.logits(IDS)).abs().max()) > 1e-2
    again = packed(load_lm(base, dtype="float32"))
    before = again.weight_hash
    attach(again, tmp_path / "new")
    assert torch.equal(again.logits(IDS), wanted)
    # What is fitted on it now belongs to nothing else, and gains do not go onto it twice.
    assert again.weight_hash == again.hash_now() != before
    with pytest.raises(ArtifactError, match="another model"):
        attach(again, tmp_path / "new")
    with pytest.raises(ArtifactError, match="nothing to take out"):
        unfold(tmp_path / "new", tmp_path / "out")
    with pytest.raises(ArtifactError, match="another model"):
        attach(load_lm(str(saved(tmp_path / "other", "mistral")), dtype="float32"), tmp_path / "new")


def test_damaged_gains_are_told(tmp_path: Path) -> None:
    lm = load_lm(str(saved(tmp_path / "base")), dtype="float32")
    save_reweighted(lm, CONFIG, reweighting_of(gains_of(lm)), tmp_path / "new")
    for name, damage, message in (
        ("gains.safetensors", b"short", "not the file that was saved"),
        (MANIFEST, b"{}", "damaged"),
        (MANIFEST, b'{"format": 9, "files": {"gains.safetensors": ""}}', "newer coldframe"),
    ):
        shutil.copytree(tmp_path / "new", tmp_path / "copy")
        (tmp_path / "copy" / "head_gains" / name).write_bytes(damage)
        with pytest.raises(ArtifactError, match=message):
            read_gains(tmp_path / "copy")
        shutil.rmtree(tmp_path / "copy")


def test_a_checkpoint_with_other_names_is_told() -> None:
    assert find_tensor(["a.h.1.o.weight", "h.11.o.weight"], "h.1.o.weight") == "a.h.1.o.weight"
    for names in (["x.weight"], ["a.h.1.o.weight", "b.h.1.o.weight"]):
        with pytest.raises(ModelError, match="names its weights in an unknown way"):
            find_tensor(names, "h.1.o.weight")
