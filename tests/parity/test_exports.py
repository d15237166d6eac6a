"""Exported adapters beside those who load them: peft on other architectures, and the weights of a GGUF checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.contract.cases import STORE, TWO, Case, built
from tests.tiny import tiny

from coldframe.errors import ConfigError
from coldframe.frozen.model import FrozenLM, load_lm
from coldframe.frozen.ports import Conditioning
from coldframe.methods.base import Method
from coldframe.methods.weight_deltas.adapter import SERVER_RANKS, Adapter, compose
from coldframe.methods.weight_deltas.gguf_lora import write_gguf
from coldframe.retrieval.store import Retrieved

peft = pytest.importorskip("peft", reason="needs the extra 'train'")
gguf = pytest.importorskip("gguf")
NOTHING = Retrieved.nothing(STORE, 1)
TOKENS = torch.tensor([[1, 20, 30, 40, 50]])
LORA = Case("lora", "lora", {"rank": 3, "alpha": 7.0})


def lora_on(architecture: str, folder: Path) -> tuple[FrozenLM, Method]:
    model, tokenizer = tiny(architecture)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    lm = load_lm(str(folder), dtype="float32")
    return lm, built(LORA, lm, TWO)


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2", "phi3", "bloom", "opt-projected", "gemma3_text"])
def test_auto_peft_finds_the_base_model_and_says_the_same(architecture: str, tmp_path: Path) -> None:
    lm, method = lora_on(architecture, tmp_path / "base")
    (adapter,) = compose(method, [""], NOTHING)
    adapter.save(tmp_path / "lora")
    ours = lm.logits(TOKENS, None, Conditioning(deltas=adapter.deltas))
    assert float((ours - lm.logits(TOKENS)).abs().max()) > 1e-2
    with torch.no_grad():
        theirs = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "lora", dtype=torch.float32)(input_ids=TOKENS)
    torch.testing.assert_close(theirs.logits, ours, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2", "qwen3", "gpt2", "phi", "phi3", "gemma3_text"])
def test_every_target_has_its_place_in_gguf(architecture: str, tmp_path: Path) -> None:
    lm, method = lora_on(architecture, tmp_path / "base")
    (adapter,) = compose(method, [""], NOTHING)
    write_gguf(tmp_path / "lora.gguf", adapter)
    reader = gguf.GGUFReader(tmp_path / "lora.gguf")
    shapes = {tensor.name: tensor.data.shape for tensor in reader.tensors}
    assert len(shapes) == 2 * len(adapter.factors)  # no two targets in one place
    sizes = sorted((tuple(a.shape), tuple(b.shape)) for a, b in adapter.factors.values())
    ends = {name.removesuffix(".lora_a") for name in shapes if name.endswith(".lora_a")}
    assert sorted((shapes[f"{end}.lora_a"], shapes[f"{end}.lora_b"]) for end in ends) == sizes
    assert float(reader.fields["adapter.lora.alpha"].contents()) == pytest.approx(7.0)


def test_query_and_key_rows_stand_as_in_a_checkpoint_that_llama_cpp_reads(tmp_path: Path) -> None:
    """llama.cpp's converter interleaves the halves of each head; transformers turns that back when it reads GGUF."""
    from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor

    lm, method = lora_on("llama", tmp_path / "base")
    (adapter,) = compose(method, [""], NOTHING)
    write_gguf(tmp_path / "lora.gguf", adapter)
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "lora.gguf").tensors}
    processor = LlamaTensorProcessor(lm.model.config.to_dict())
    for letter in "qk":
        a, b = (tensors[f"blk.1.attn_{letter}.weight.lora_{x}"] for x in "ab")
        back = processor.process(b @ a, f"blk.1.attn_{letter}.weight").weights
        ours_a, ours_b = adapter.factors[f"model.layers.1.self_attn.{letter}_proj"]
        np.testing.assert_allclose(back, (ours_b @ ours_a).numpy(), atol=1e-6)
        assert not np.allclose(b, ours_b.numpy())


@pytest.mark.parametrize("architecture", ["bloom", "falcon", "gpt_neox", "opt"])
def test_what_llama_cpp_holds_otherwise_is_refused(architecture: str, tmp_path: Path) -> None:
    _, method = lora_on(architecture, tmp_path / "base")
    (adapter,) = compose(method, [""], NOTHING)
    with pytest.raises(ConfigError, match="in another form than the checkpoint|cannot be written as GGUF"):
        write_gguf(tmp_path / "lora.gguf", adapter)


def test_the_rank_that_a_server_needs() -> None:
    lm = FrozenLM(*tiny("llama"))

    def of(rank: int) -> Adapter:
        return Adapter(lm, {"model.layers.0.mlp.up_proj": (torch.zeros(rank, 32), torch.zeros(48, rank))}, 0.5)

    assert [of(rank).server_rank for rank in (1, 2, 8, 9, 300, 512)] == [1, 8, 8, 16, 320, 512]
    assert of(6).config()["lora_alpha"] == 3 and isinstance(of(6).config()["lora_alpha"], int)
    with pytest.raises(ConfigError, match="at most 512"):
        of(SERVER_RANKS[-1] + 1).server_rank  # noqa: B018
