"""An adapter as a LoRA folder says in peft what it says here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.methods.weight_deltas.support import facts, fitted, passages_of
from tests.tiny import tiny

from coldframe.errors import ConfigError, DataError
from coldframe.frozen.base_name import about_base, base_of
from coldframe.frozen.model import FrozenLM, load_lm
from coldframe.frozen.ports import Conditioning
from coldframe.methods.weight_deltas.dyprag import DyPRAG
from coldframe.methods.weight_deltas.passage_adapters import PassageAdapters
from coldframe.methods.weight_deltas.poly_prag import PolyPRAG
from coldframe.methods.weight_deltas.prag import PRAG
from coldframe.pipeline.pipeline import Pipeline

pytest.importorskip("bm25s")
FOUR = facts(4)
METHODS = {
    "prag": lambda: PRAG(),
    "poly-prag": lambda: PolyPRAG(adapters=3),
    "dyprag": lambda: DyPRAG(width=4, init_std=0.1, teacher_epochs=1),
}


@pytest.fixture(scope="module", params=METHODS)
def pipeline(request: pytest.FixtureRequest) -> Pipeline:
    return fitted(METHODS[request.param](), task=FOUR, epochs=4)


def same_in_peft(pipeline: Pipeline, ids: list[str], folder: Path, architecture: str) -> Any:
    peft = pytest.importorskip("peft")
    lm, method = pipeline.lm, pipeline.method
    assert isinstance(method, PassageAdapters)
    assert pipeline.export(folder, entries=ids).folder == folder
    wrapped = peft.PeftModel.from_pretrained(tiny(architecture)[0], str(folder)).eval()
    tokens, bank = torch.tensor([[1, 20, 30, 40, 50]]), method.adapters
    factors = method.factors([ids])
    ours = lm.logits(tokens, None, Conditioning(deltas=bank.layout.deltas(factors, bank.scale)))
    torch.testing.assert_close(ours, wrapped(input_ids=tokens).logits, atol=1e-4, rtol=1e-4)
    assert float((ours - lm.logits(tokens)).abs().max()) > 1e-3
    return wrapped.peft_config["default"]


@pytest.mark.parametrize("combine", ["auto", "mean", "ties"])
def test_an_exported_adapter_is_the_same_in_peft(pipeline: Pipeline, combine: str, tmp_path: Path) -> None:
    changed, ids = pipeline.replace(combine=combine), [passage.id for passage in passages_of(FOUR)[:2]]
    config = same_in_peft(changed, ids, tmp_path / "lora", "llama")
    assert sorted(config.target_modules) == ["down_proj", "gate_proj", "up_proj"]
    with pytest.raises(ConfigError, match="exists already"):
        changed.export(tmp_path / "lora", entries=ids)
    with pytest.raises(DataError, match="no passage 'nobody'"):
        changed.export(tmp_path / "other", entries=["nobody"])
    with pytest.raises(DataError, match="no passage to export"):
        changed.export(tmp_path / "other")


def test_a_control_is_exported_as_it_answers(tmp_path: Path) -> None:
    pipeline = fitted(PolyPRAG(adapters=3), task=FOUR, epochs=2).replace(routing="random")
    same_in_peft(pipeline, [passages_of(FOUR)[0].id], tmp_path / "lora", "llama")


@pytest.mark.parametrize("name", ["prag", "dyprag"])
def test_export_where_names_are_not_unique(name: str, tmp_path: Path) -> None:
    pipeline = fitted(METHODS[name](), FrozenLM(*tiny("gpt2")), FOUR, epochs=1)
    same_in_peft(pipeline, [passages_of(FOUR)[0].id], tmp_path / "lora", "gpt2")


def test_the_export_names_what_opens_the_base_model(tmp_path: Path, cache: Path) -> None:
    """A short name of ours, such as smollm2, is the name of no folder and of nothing on a hub."""
    model, tokenizer = tiny("llama")
    model.save_pretrained(tmp_path / "checkpoint")
    tokenizer.save_pretrained(tmp_path / "checkpoint")
    lm = load_lm(str(tmp_path / "checkpoint"), dtype="float32")
    folder = str(tmp_path / "checkpoint")
    lm.provenance = {"name": "owner/short", "source": "pypi", "revision": "1.0"}
    assert base_of(lm) == {"base_model_name_or_path": folder, "revision": None}
    assert f"the folder {folder}" in about_base(lm)
    lm.provenance = {"name": "owner/short", "source": "hub", "revision": "abc"}
    assert base_of(lm) == {"base_model_name_or_path": "owner/short", "revision": "abc"}
    assert "owner/short on the hub, at revision abc" in about_base(lm)
    memory = FrozenLM(*tiny("llama"), {"name": "mine", "source": "memory"})
    assert base_of(memory)["base_model_name_or_path"] == "mine" and "in memory" in about_base(memory)


def test_several_queries_get_a_folder_each_and_the_way_to_serve_them(pipeline: Pipeline, tmp_path: Path) -> None:
    questions = ["Who is the mayor of Lovokor?", "Where?"]
    exported = pipeline.export(tmp_path / "adapters", queries=questions)
    folders = sorted(path.name for path in (tmp_path / "adapters").iterdir() if path.is_dir())
    assert folders == ["query-1", "query-2"]
    about = json.loads((tmp_path / "adapters" / "coldframe_export.json").read_text(encoding="utf-8"))
    assert about["queries"] == dict(zip(folders, questions, strict=True))
    said = " ".join(exported.notes)
    assert f"VLLM_LORA_RESOLVER_CACHE_DIR={tmp_path / 'adapters'}" in said and "--max-lora-rank 8" in said
    assert "The rank is 2." in said
    with pytest.raises(ConfigError, match="of queries or of entries"):
        pipeline.export(tmp_path / "both", queries=questions, entries=[passages_of(FOUR)[0].id])
    with pytest.raises(ConfigError, match="no form 'safetensors'"):
        pipeline.export(tmp_path / "both", queries=questions, form="safetensors")


@pytest.mark.parametrize(("combine", "files", "scale"), [("sum", 2, 1.0), ("mean", 2, 0.5), ("ties", 1, 1.0)])
def test_llama_cpp_adds_up_the_adapters_of_passages(combine: str, files: int, scale: float, tmp_path: Path) -> None:
    ids = [passage.id for passage in passages_of(FOUR)[:2]]
    pipeline = fitted(METHODS["prag"](), task=FOUR, epochs=1).replace(combine=combine)
    pipeline.export(tmp_path / "out", entries=ids, form="gguf")
    scales = json.loads((tmp_path / "out" / "scales.json").read_text(encoding="utf-8"))
    assert len(list((tmp_path / "out").glob("*.gguf"))) == files
    assert scales["requests"] == [{"name": "entries", "lora": [{"id": n, "scale": scale} for n in range(files)]}]
    assert [entry["of"] for entry in scales["adapters"]] == (ids if files == 2 else ["entries"])
