"""A checkpoint without its weights in memory says of itself what the loaded model says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny import ARCHITECTURES, tiny

from coldframe.errors import ModelError
from coldframe.frozen.model import load_lm
from coldframe.frozen.skeleton import Skeleton


def saved(architecture: str, folder: Path, dtype: torch.dtype = torch.float32, **options: str) -> Path:
    model, tokenizer = tiny(architecture)
    model.to(dtype).save_pretrained(folder, **options)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_hash_and_embeddings_are_those_of_the_loaded_model(architecture: str, cache: Path, tmp_path: Path) -> None:
    skeleton = Skeleton(str(saved(architecture, tmp_path / "model", torch.bfloat16)))
    ids = torch.tensor([0, 5, 77, 5])
    for dtype in (torch.float32, torch.bfloat16):
        lm = load_lm(tmp_path / "model", dtype=dtype, device="cpu")
        assert skeleton.weight_hash(dtype) == lm.weight_hash
        assert torch.equal(skeleton.embed(ids, dtype), lm.embed(ids))
    assert (skeleton.anatomy.d_model, skeleton.anatomy.max_positions) == (lm.d_model, lm.max_positions)
    assert skeleton.model.generation_config.eos_token_id == lm.generation_config.eos_token_id


def test_no_weight_is_in_memory(tmp_path: Path) -> None:
    skeleton = Skeleton(str(saved("llama", tmp_path / "model")))
    assert {parameter.device.type for parameter in skeleton.model.parameters()} == {"meta"}
    mapped = Path("/proc/self/maps")
    if mapped.exists():
        assert str(tmp_path / "model" / "model.safetensors") in mapped.read_text()


def test_a_checkpoint_in_several_files(cache: Path, tmp_path: Path) -> None:
    folder = saved("llama", tmp_path / "model", max_shard_size="20kB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    lm = load_lm(folder, dtype="float32", device="cpu")
    assert Skeleton(str(folder)).weight_hash(torch.float32) == lm.weight_hash


def test_the_hash_is_remembered_until_a_file_changes(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved("llama", tmp_path / "model")
    before = Skeleton(str(folder)).weight_hash(torch.float32)
    with monkeypatch.context() as patch:
        patch.setattr(Skeleton, "_tensor", lambda self, name: pytest.fail(f"{name} was read again"))
        patch.setattr(Skeleton, "__init__", lambda self, name: None)
        again = Skeleton(str(folder))
        again._places = {"any": (folder / "model.safetensors", "any")}
        assert again.weight_hash(torch.float32) == before
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    changed = Skeleton(str(folder)).weight_hash(torch.float32)
    assert changed != before and changed == load_lm(folder, dtype="float32", device="cpu").weight_hash


@pytest.mark.parametrize("damage", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_damaged_folder_is_told(damage: str, tmp_path: Path) -> None:
    folder = saved("llama", tmp_path / "model")
    (folder / damage).write_text("{")
    with pytest.raises(ModelError, match="Cannot read the checkpoint"):
        Skeleton(str(folder))


def test_an_embedding_of_another_shape_is_told(tmp_path: Path) -> None:
    folder = saved("llama", tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"] = tensors["model.embed_tokens.weight"][:-1].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="embed_tokens.weight has another shape"):
        Skeleton(str(folder))
