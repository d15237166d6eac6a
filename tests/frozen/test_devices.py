"""What people pass for a model, its numbers and its place: names, torch's objects, a model that is loaded already."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.tiny import tiny

import coldframe as cf
from coldframe.errors import ConfigError
from coldframe.frozen.ports import Prompt


def test_a_loaded_model_with_its_tokenizer() -> None:
    model, tokenizer = tiny("llama")
    lm = cf.load_lm(model, tokenizer)
    assert lm.model is model and not any(p.requires_grad for p in model.parameters()) and not model.training
    assert lm.label_scores([Prompt("is it")], ["yes", "no"]).shape == (1, 2)
    with pytest.raises(ConfigError, match="needs its tokenizer"):
        cf.load_lm(model)
    with pytest.raises(ConfigError, match="brings its tokenizer"):
        cf.load_lm("smollm2", tokenizer)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16", "torch.bfloat16"])
@pytest.mark.parametrize("device", [torch.device("cpu"), "cpu", "auto"])
def test_torch_s_own_objects(dtype: object, device: object, tmp_path: Path) -> None:
    model, tokenizer = tiny("llama")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    lm = cf.load_lm(str(tmp_path), dtype=dtype, device=device)
    assert lm.dtype == torch.bfloat16
    loaded = cf.load_lm(tiny("llama")[0], tokenizer, dtype=dtype, device=device)
    assert loaded.dtype == torch.bfloat16


@pytest.mark.parametrize("device", ["cuda:99", "mps:3", "gpu", "", "cuda:x", torch.device("cuda", 99)])
def test_a_device_that_is_not_there(device: object) -> None:
    with pytest.raises(ConfigError, match="There is no device") as error:
        cf.load_lm("no-such-model", device=device)
    assert "Expected: cpu" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", ["int8", "float", "", torch.int64, "bf16"])
def test_a_dtype_that_is_none(dtype: object) -> None:
    if dtype == "float":  # torch's word for float32
        assert cf.load_lm(*tiny("llama"), dtype=dtype).dtype == torch.float32
        return
    with pytest.raises(ConfigError, match="Unknown dtype"):
        cf.load_lm(*tiny("llama"), dtype=dtype)
