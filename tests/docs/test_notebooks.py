"""The notebooks run from top to bottom: with a tiny model and few rows, and, end to end, with the models they name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.tiny import tiny, tiny_tokenizer
from transformers import BertConfig, BertModel

from coldframe.errors import ColdframeError

NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs/notebooks").glob("*.ipynb"))
FIRST, RETRIEVAL = "first-adaptation", "is-my-retrieval-doing-anything"


def notebook(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def code_cells(name: str) -> list[str]:
    (path,) = [path for path in NOTEBOOKS if path.stem == name]
    return ["".join(cell["source"]) for cell in notebook(path)["cells"] if cell["cell_type"] == "code"]


def with_settings(code: str, **settings: str | int) -> str:
    """The settings cell with other values; a setting that is not there is an error of the test."""
    for name, value in settings.items():
        code, count = re.subn(rf"^{name} = (\S+)", f"{name} = {value!r}", code, flags=re.M)
        assert count == 1, name
    return code


def run(cells: list[str]) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for i, code in enumerate(cells):
        exec(compile(code, f"code cell {i}", "exec"), names)
    return names


@pytest.fixture
def folder(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a tiny model, a tiny encoder and a small table."""
    model, tokenizer = tiny("llama")
    model.save_pretrained(tmp_path / "lm")
    tokenizer.save_pretrained(tmp_path / "lm")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(tiny_tokenizer()), **sizes)).save_pretrained(tmp_path / "encoder")
    tiny_tokenizer().save_pretrained(tmp_path / "encoder")
    rows = [f"{word} number {i},{word}" for i in range(20) for word in ("red", "blue", "green")]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_first_adaptation(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings, *cells = code_cells(FIRST)
    settings = with_settings(settings, MODEL="lm", DATA="rows.csv", ENCODER="hf:encoder:mean", EPOCHS=1)
    cells = [cell.replace("test_size=200", "test_size=12") for cell in cells]
    names = run([settings, *cells])
    printed = capsys.readouterr().out
    assert names["results"]["verdict"]["headline"] in printed
    assert re.search(r"^mha-esp +\d+\.\d \[\d+\.\d, \d+\.\d\]$", printed, re.M)
    assert (folder / "runs/first-adaptation/coldframe_config.json").is_file()
    assert (folder / "runs/first-comparison/report.html").is_file()


@pytest.mark.slow
def test_is_my_retrieval_doing_anything(folder: Path) -> None:
    settings, *cells = code_cells(RETRIEVAL)
    names = run([with_settings(settings, MODEL="lm"), *cells])
    assert names["diagnosis"].n == names["broken"].n == 40
    assert {ablation.condition for ablation in names["diagnosis"].store_ablation.ablations} >= {"swapped", "random"}
    assert (folder / "runs/my-retrieval.html").is_file()


@pytest.mark.e2e
def test_the_real_model_sees_which_retriever_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        names = run(code_cells(RETRIEVAL))
    except ColdframeError as error:
        if "package index" in str(error):
            pytest.skip(f"the package index cannot be reached: {error}")
        raise
    assert names["diagnosis"].verdict.outcome == "retrieval-driven"
    assert names["broken"].verdict.outcome == "prompt-tuning-like"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_small_and_have_no_outputs(path: Path) -> None:
    content = notebook(path)
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5) and path.stat().st_size < 20_000
    assert len({cell["id"] for cell in content["cells"]}) == len(content["cells"])
    for cell in content["cells"]:
        assert cell["cell_type"] == "markdown" or (cell["outputs"], cell["execution_count"]) == ([], None)
