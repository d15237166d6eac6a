"""``coldframe export``: what is written, what is said, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tests.contract.cases import Case, task
from tests.tiny import tiny

from coldframe.cli import main
from coldframe.frozen.model import load_lm
from coldframe.pipeline.fit import fit


@pytest.fixture
def base(tmp_path: Path) -> str:
    model, tokenizer = tiny("llama")
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def artifact(tmp_path: Path, base: str, name: str, **settings: object) -> str:
    lm = load_lm(base, dtype="float32")
    fit(Case(name, name, settings).method(), lm, task(), training={"epochs": 1}, out=tmp_path / name, quiet=True)
    return str(tmp_path / name)


@pytest.mark.slow
def test_a_lora_is_written_and_the_server_is_told_how_to_start(
    tmp_path: Path, base: str, capsys: pytest.CaptureFixture[str], cache: Path
) -> None:
    folder, out = artifact(tmp_path, base, "lora", rank=2), str(tmp_path / "out")
    assert main(["export", folder, out]) == 0
    said = capsys.readouterr().out
    assert f"the folder {base}" in said and "The rank is 2." in said and "--max-lora-rank 8" in said
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["base_model_name_or_path"] == base
    before = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert main(["export", folder, out]) == 2
    assert "exists already" in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == before
    assert main(["export", folder, str(tmp_path / "two"), "--form", "checkpoint"]) == 2
    assert "no form 'checkpoint'" in capsys.readouterr().err


def test_soft_tokens_of_queries_and_weights_with_their_shapes(
    tmp_path: Path, base: str, capsys: pytest.CaptureFixture[str], cache: Path
) -> None:
    folder = artifact(tmp_path, base, "prompt-tuning", tokens=3)
    assert main(["export", folder, str(tmp_path / "out"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["form"] == "safetensors" and any("after the text" in note for note in result["notes"])
    assert {n: list(t.shape) for n, t in load_file(tmp_path / "out" / "soft_tokens.safetensors").items()} == {
        "every-query": [3, 32]
    }
    assert "| `prompt` | [3, 32] | float32 |" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_rows_of_the_store_leave_only_when_asked(
    tmp_path: Path, base: str, capsys: pytest.CaptureFixture[str], cache: Path
) -> None:
    folder, words = artifact(tmp_path, base, "icl-fixed", k=2), ["--query", "is it?", "--query", "or not?"]
    assert main(["export", folder, str(tmp_path / "out"), *words]) == 2
    assert "Rows of the store would leave this machine" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main(["export", folder, str(tmp_path / "out"), *words, "--share-rows"]) == 0
    prompts = json.loads((tmp_path / "out" / "prompts.json").read_text(encoding="utf-8"))
    assert [entry["query"] for entry in prompts] == ["is it?", "or not?"]
    assert all(entry["prompt"].count("Question:") == 3 for entry in prompts)
