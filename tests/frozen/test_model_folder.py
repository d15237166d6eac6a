"""A model's folder: verified where it says what it was, and looked at before anything is allocated for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny import tiny

from coldframe.errors import ArtifactError, ColdframeError, ConfigError, ModelError
from coldframe.frozen.model import load_lm
from coldframe.frozen.model_folder import PROVENANCE, checksums
from coldframe.frozen.model_sources import load_checkpoint, locate, weight_hash


@pytest.fixture
def folder(cache: Path, tmp_path: Path) -> Path:
    model, tokenizer = tiny("llama")
    model.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    return tmp_path / "m"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_one_byte_of_a_cached_model_is_found(name: str, folder: Path) -> None:
    provenance = {"name": "tiny", "source": "pypi", **checksums(folder)}
    (folder / PROVENANCE).write_text(json.dumps(provenance))
    assert "other_sha256" not in locate(str(folder))[1]
    data = bytearray((folder / name).read_bytes())
    data[-2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ArtifactError, match=f"{name} is not the file that was saved.*Delete the folder {folder}"):
        load_checkpoint(str(folder), torch.float32)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 5000, '{"safetensors_sha256": 3}', '{"other_sha256": ["a"]}'])
def test_a_provenance_that_is_none_is_told(text: str, folder: Path) -> None:
    (folder / PROVENANCE).write_text(text)
    with pytest.raises(ModelError, match="coldframe_provenance.json is damaged"):
        locate(str(folder))


def test_a_provenance_names_no_file_outside(folder: Path) -> None:
    (folder / PROVENANCE).write_text('{"safetensors_sha256": {"../secret": "00"}}')
    with pytest.raises(ArtifactError, match="outside of its folder"):
        locate(str(folder))


@pytest.mark.parametrize(
    "claim",
    [{"num_hidden_layers": 10**6}, {"num_attention_heads": 10**9}, {"vocab_size": 10**12}, {"hidden_size": 2**40}],
)
def test_a_config_that_claims_too_much_is_refused(claim: dict[str, int], folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | claim))
    with pytest.raises(ModelError, match=f"claims too much: {next(iter(claim))}"):
        load_checkpoint(str(folder), torch.float32)


@pytest.mark.parametrize("text", ["[" * 5000, "{}", "[]", "1" * 5000, '{"model_type": "llama", "rope_scaling": 3}'])
def test_a_config_that_is_none_is_told(text: str, folder: Path) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelError, match="Cannot load the model"):
        load_checkpoint(str(folder), torch.float32)


def test_weights_that_are_absent_are_not_drawn_at_random(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 of the model's weights"):
        load_checkpoint(str(folder), torch.float32)


# ---- models and devices that are there already ------------------------------------------------------------


def test_a_loaded_model_is_taken_with_its_tokenizer(folder: Path) -> None:
    model, tokenizer = tiny("llama")
    lm = load_lm(model, tokenizer, device=torch.device("cpu"))
    assert lm.model is model and lm.provenance["source"] == "memory" and not model.training
    with pytest.raises(ConfigError, match="needs its tokenizer"):
        load_lm(model)
    with pytest.raises(ConfigError, match="brings its tokenizer"):
        load_lm(str(folder), tokenizer)


def test_dtypes_devices_and_homes_as_torch_and_shells_have_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    by_object = load_lm(folder, dtype=torch.float32, device=torch.device("cpu"))
    by_name = load_lm("~/m", dtype="float32", device="cpu")
    assert by_object.dtype == by_name.dtype == torch.float32 and by_object.weight_hash == by_name.weight_hash
    assert by_name.weight_hash == weight_hash(tiny("llama")[0])
    assert load_lm(folder, dtype=torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize("device", ["gpu", "cuda:x", 3.5, "xpu", "mps", "cuda:77", "meta"])
def test_a_device_that_is_not_here_is_told_in_one_line(device: Any, folder: Path) -> None:
    with pytest.raises(ColdframeError, match=r"Unknown device|There is no device") as caught:
        load_lm(folder, device=device)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", ["int8", "float", "floats", "nn", torch.int8, 3])
def test_a_dtype_that_is_none_is_told(dtype: Any, folder: Path) -> None:
    if dtype == "float":
        assert load_lm(folder, dtype=dtype).dtype == torch.float32
        return
    with pytest.raises(ConfigError, match="Unknown dtype"):
        load_lm(folder, dtype=dtype)
