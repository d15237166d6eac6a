"""Code that lies where coldframe looks is never run."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import ROOT
from tests.tiny import tiny

from coldframe.errors import ColdframeError
from coldframe.frozen.model_sources import load_checkpoint
from coldframe.retrieval.encoders import load_encoder

SOURCES = sorted((ROOT / "src").rglob("*.py"))
LOADERS = {"AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoTokenizer", "SentenceTransformer"}


def calls() -> list[tuple[str, ast.Call, ast.FunctionDef | None]]:
    """Every call of a loader of transformers or sentence-transformers, and the function that it stands in."""
    calls = []
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
            for node in ast.walk(function):
                if not isinstance(node, ast.Call):
                    continue
                called = node.func
                if isinstance(called, ast.Attribute) and called.attr == "from_pretrained":
                    called = called.value
                if isinstance(called, ast.Name) and called.id in LOADERS:
                    calls.append((f"{path.name}:{node.lineno}", node, function))
    return calls


@pytest.mark.slow
def test_every_loader_is_told_to_run_no_code() -> None:
    places = calls()
    assert len(places) >= 7
    for place, call, function in places:
        words = {keyword.arg: keyword.value for keyword in call.keywords}
        if "trust_remote_code" in words:
            assert isinstance(value := words["trust_remote_code"], ast.Constant) and value.value is False, place
            continue
        assert None in words and function is not None, place  # **options: a mapping that says so, in the same function
        assert "'trust_remote_code': False" in ast.unparse(function), place


def test_nobody_trusts_remote_code() -> None:
    for path in SOURCES:
        text = path.read_text(encoding="utf-8").replace(" ", "")
        assert "trust_remote_code=True" not in text and "'trust_remote_code':True" not in text.replace('"', "'"), path


OWN = "open({ran!r}, 'w').close()\nclass Own:\n    pass\n"


def with_code(folder: Path, **settings: Any) -> Path:
    """A model's folder with code in it that leaves a file behind when it is run; where that file would be."""
    ran = folder.parent / "ran"
    for name in ("own.py", "modeling_own.py", "tokenization_own.py"):
        (folder / name).write_text(OWN.format(ran=str(ran)))
    config = json.loads((folder / "config.json").read_text())
    names = {f"Auto{kind}": "own.Own" for kind in ("Config", "Model", "ModelForCausalLM")}
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": names, **settings}))
    return ran


@pytest.fixture
def model(tmp_path: Path) -> Path:
    lm, tokenizer = tiny("llama")
    lm.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    settings = json.loads((tmp_path / "m" / "tokenizer_config.json").read_text())
    settings["auto_map"] = {"AutoTokenizer": ["own.Own", "own.Own"]}
    (tmp_path / "m" / "tokenizer_config.json").write_text(json.dumps(settings))
    return tmp_path / "m"


@pytest.mark.parametrize("known", [True, False])
def test_code_of_a_model_s_folder_is_not_run(known: bool, model: Path) -> None:
    ran = with_code(model, **({} if known else {"model_type": "own"}))
    try:
        load_checkpoint(str(model), torch.float32)
        loaded = True
    except ColdframeError:
        loaded = False
    assert not ran.exists() and loaded == known


@pytest.mark.parametrize("family", ["hf", "st"])
def test_code_of_an_encoder_s_folder_is_not_run(family: str, model: Path) -> None:
    if family == "st":
        pytest.importorskip("sentence_transformers")
    ran = with_code(model)
    modules = [{"idx": 0, "name": "0", "path": "", "type": "own.Own"}]
    (model / "modules.json").write_text(json.dumps(modules))
    (model / "config_sentence_transformers.json").write_text("{}")
    try:
        load_encoder(f"{family}:{model}").encode(["a"])
    except ColdframeError:
        pass
    assert not ran.exists() and "own" not in sys.modules


@pytest.mark.slow
def test_a_pip_in_the_working_directory_is_not_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    for folder in (tmp_path / "work", tmp_path / "path"):
        folder.mkdir()
        (folder / "pip.py").write_text(f"open({str(ran)!r}, 'w')")
    code = (
        "from coldframe.storage.downloads import pypi_file\n"
        "from coldframe.errors import ColdframeError\n"
        "try:\n    pypi_file('cf-carrier', '1.2', 'x', '0' * 64)\n"
        "except ColdframeError as error:\n    print(error)"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*filter(None, sys.path), str(tmp_path / "path")]),
        "COLDFRAME_CACHE": str(tmp_path / "cache"),
        "PIP_NO_INDEX": "1",
    }
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, cwd=tmp_path / "work", env=environment, capture_output=True, text=True, check=True)
    assert not ran.exists() and "Cannot fetch cf-carrier 1.2 from the package index (ERROR" in out.stdout
