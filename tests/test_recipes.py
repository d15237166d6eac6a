"""Every recipe runs: its own settings, for two optimiser steps, on a tiny model and a few rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cli.conftest import COLOURS, MOLECULES
from tests.tiny import tiny, tiny_tokenizer
from transformers import BertConfig, BertModel

from coldframe.cli import main
from coldframe.cli.compare import Compare
from coldframe.cli.fit import Fit
from coldframe.cli.parsing import parse
from coldframe.methods.registry import all_methods
from coldframe.retrieval.encoders import load_encoder
from coldframe.tasks import builtin_names
from coldframe.tasks.metrics import METRICS

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))
BATCH = 10  # of the 14 to 20 rows that are left for training: two steps


def is_comparison(recipe: Path) -> bool:
    return "methods" in yaml.safe_load(recipe.read_text())


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model, tokenizer = tiny("llama")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny BERT in MiniLM's place, because recipes may fine-tune it."""
    folder = tmp_path_factory.mktemp("models") / "bert"
    tokenizer = tiny_tokenizer()
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return f"hf:{folder}:mean"


@pytest.fixture
def rows(tmp_path: Path) -> dict[str, Sequence[object]]:
    """A few rows, for recipes on molecules and for recipes on text, with the words that name them."""
    smiles = [*MOLECULES, "CCCO", "CCCN", "OCCN", "c1ccccc1C", "CC(C)O", "NCCO", "CCSC", "C1CCNCC1", "C1CCOCC1", "CCF"]
    molecules = [f"{text},{'Yes' if 'O' in text else 'No'}" for text in smiles]
    texts = [f"{name} {i},{colour}" for i in range(3) for colour, names in COLOURS.items() for name in names.split()]
    (tmp_path / "molecules.csv").write_text("\n".join(["smiles,label", *molecules]) + "\n")
    (tmp_path / "texts.csv").write_text("\n".join(["text,label", *texts[:26]]) + "\n")
    return {
        "molecules": (tmp_path / "molecules.csv", "--split", "stratified"),
        "text": (tmp_path / "texts.csv",),
    }


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipe_runs(
    recipe: Path,
    rows: dict[str, Sequence[object]],
    lm: str,
    encoder: str,
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def load(spec: str) -> Any:
        return load_encoder(encoder if spec == "minilm" else spec)

    for module in ("pipeline.setup", "retrieval.retriever"):
        monkeypatch.setattr(f"coldframe.{module}.load_encoder", load)
    monkeypatch.setattr("coldframe.methods.without_model.random_forest.RandomForest.tried", (1,))
    comparison = is_comparison(recipe)
    asked = parse(Compare if comparison else Fit, "test", ["--recipe", str(recipe)])
    if asked.model.reweight is not None:  # a random model does not copy, so any five of its heads may not help: all do
        values = yaml.safe_load(recipe.read_text())
        values["model"]["reweight"]["choose"] = "all"
        recipe = tmp_path / recipe.name
        recipe.write_text(yaml.safe_dump(values))
    data = rows["text" if asked.task.data in ("trec", "facts", "dense-store") else "molecules"]
    words = [*data, "--recipe", recipe, "--model", lm, "--epochs", 1, "--batch-size", BATCH, "--out", tmp_path / "out"]
    words += ["--test-size", 0.2, "--validation-size", 0.15, "--json", "--quiet"]  # shares: the rows are few
    if comparison:
        words += ["--seeds", 0, "--shuffles", 1, "--no-costs"]
    status = main(["compare" if comparison else "fit", *map(str, words)])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    found = json.loads(captured.out)
    if comparison:
        names = {row["name"] for row in found["rows"]}
        rows_of = {row.partition("=")[0] for row in asked.methods}
        assert rows_of | {"encoder + linear head", "random forest"} <= names
        assert len(json.loads((tmp_path / "out" / "report.json").read_text())["sweeps"]) == len(asked.sweeps)
    else:
        assert found["method"] == asked.method
        assert [record["step"] for record in found["history"]] == ([2.0] if found["trainable_parameters"] else [])


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipe_says_how_to_run_it_and_names_what_exists(recipe: Path) -> None:
    text = recipe.read_text()
    comparison = is_comparison(recipe)
    call = f"coldframe {'compare' if comparison else 'fit'} --recipe recipes/{recipe.name}"
    assert recipe.stem == "demo" or call in text
    asked = parse(Compare if comparison else Fit, "test", ["--recipe", str(recipe)])
    assert asked.task.data in builtin_names()
    assert {row.rpartition("=")[2] for row in (asked.methods if comparison else [asked.method])} <= set(all_methods())
    for number in asked.published if comparison else ():
        assert number["method"] in asked.methods and number["metric"] in METRICS and 0 <= number["value"] <= 100


def test_the_demo_shows_what_it_must() -> None:
    asked = parse(Compare, "demo", ["--recipe", "demo"])
    assert asked.task.data == "b3db" and asked.model.model == "smollm2" and asked.controls
    assert {"zero-shot", "icl-fixed", "icl", "prompt-tuning", "idpg", "mha-esp"} <= set(asked.methods)
