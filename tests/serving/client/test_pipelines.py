"""Artifacts before a server: load, predict, evaluate, compare, diagnose, and the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.contract.cases import METHODS, task
from tests.serving.soft_server import SoftServer

import coldframe as cf
from coldframe.cli import main
from coldframe.errors import ArtifactError, ConfigError
from coldframe.frozen.model import FrozenLM, load_lm
from coldframe.pipeline.pipeline import Pipeline
from coldframe.serving.artifacts import remote_for
from coldframe.serving.remote import RemoteLM

Remote = Callable[..., RemoteLM]
MHA_ESP = next(case for case in METHODS if case.id == "mha-esp")


@pytest.fixture
def fitted(checkpoint: Callable[[str], Path], tmp_path: Path) -> Pipeline:
    lm = load_lm(checkpoint("llama"), dtype="float32")
    return cf.fit(MHA_ESP.method(), lm, task(), epochs=1, out=tmp_path / "artifact", quiet=True)


def test_an_artifact_answers_the_same_before_a_server(fitted: Pipeline, remote: Remote, tmp_path: Path) -> None:
    texts = [example.text for example in task().train]
    served = cf.load(tmp_path / "artifact", lm=remote())
    np.testing.assert_allclose(served.predict_proba(texts), fitted.predict_proba(texts), atol=1e-4)
    assert served.predict(texts) == fitted.predict(texts)
    rows = task().train
    assert served.evaluate(rows)["accuracy"] == fitted.evaluate(rows)["accuracy"]


def test_the_dtype_of_the_server_may_be_another_one_than_that_of_training(
    fitted: Pipeline, remote: Remote, tmp_path: Path
) -> None:
    """The checkpoint is what has to be the same."""
    texts = [example.text for example in task().train]
    served = cf.load(tmp_path / "artifact", lm=remote(dtype="bfloat16"))
    np.testing.assert_allclose(served.predict_proba(texts), fitted.predict_proba(texts), atol=0.05)


def test_another_checkpoint_is_refused(
    fitted: Pipeline, checkpoint: Callable[[str], Path], remote: Remote, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match="fitted to another base model"):
        cf.load(tmp_path / "artifact", lm=remote(checkpoint=checkpoint("qwen2")))


def test_an_artifact_names_its_checkpoint(fitted: Pipeline, server: SoftServer, tmp_path: Path) -> None:
    client = remote_for(tmp_path / "artifact", server.url, dtype="float32")
    assert client is not None and client.weight_hash == fitted.lm.weight_hash


def test_an_artifact_of_a_model_in_memory_needs_one(
    checkpoint: Callable[[str], Path], server: SoftServer, here: FrozenLM, tmp_path: Path
) -> None:
    lm = FrozenLM(here.model, here.tokenizer)
    pipeline = cf.fit(cf.ZeroShot(), lm, task(), out=tmp_path / "artifact", quiet=True)
    with pytest.raises(ConfigError, match="made in memory.*--backend-checkpoint"):
        remote_for(tmp_path / "artifact", server.url)
    client = remote_for(tmp_path / "artifact", server.url, checkpoint=checkpoint("llama"))
    texts = [example.text for example in task().train]
    served = cf.load(tmp_path / "artifact", lm=client)
    np.testing.assert_allclose(served.predict_proba(texts), pipeline.predict_proba(texts), atol=1e-4)


def test_an_artifact_without_a_model_asks_no_server(server: SoftServer, tmp_path: Path) -> None:
    cf.fit(cf.KNN(k=1), None, task(), retrieval=cf.RetrievalConfig(encoder="tiny"), out=tmp_path / "a", quiet=True)
    assert remote_for(tmp_path / "a", server.url) is None


def test_methods_that_are_not_trained_are_fitted_and_compared(here: FrozenLM, remote: Remote) -> None:
    rows = task(validation=4)
    client = remote()
    served = cf.fit(cf.RetrievedICL(k=2), client, rows, retrieval=RETRIEVAL, quiet=True)
    local = cf.fit(cf.RetrievedICL(k=2), here, rows, retrieval=RETRIEVAL, quiet=True)
    texts = [example.text for example in rows.validation]
    np.testing.assert_allclose(served.predict_proba(texts), local.predict_proba(texts), atol=1e-4)


def test_a_prompt_is_searched_through_a_server(
    here: FrozenLM, server: SoftServer, remote: Remote, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """The same candidates and losses, so the same prompt; then it is an artifact like any other."""
    settings: dict[str, Any] = {"tokens": 2, "dimensions": 3, "population": 4, "evaluations": 24}
    options: dict[str, Any] = {"batch_size": 4, "quiet": True}
    served = cf.fit(cf.BlackBoxTuning(**settings), remote(), task(), out=tmp_path / "artifact", **options)
    assert len(server.requests) > 24
    local = cf.fit(cf.BlackBoxTuning(**settings), here, task(), **options)
    torch.testing.assert_close(served.method.state_dict(), local.method.state_dict(), atol=1e-5, rtol=1e-4)
    rows = [example.text for example in task().train]
    loaded = cf.load(tmp_path / "artifact", lm=load_lm(checkpoint("llama"), dtype="float32"))
    np.testing.assert_allclose(loaded.predict_proba(rows), local.predict_proba(rows), atol=1e-4)


RETRIEVAL = cf.RetrievalConfig(encoder="tiny")


@pytest.mark.slow
def test_compare_takes_a_server(here: FrozenLM, remote: Remote, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"seeds": (0,), "controls": False, "retrieval": RETRIEVAL, "costs": True}
    served = cf.compare(remote(), task(), ["zero-shot", "icl"], out=tmp_path / "report", **settings)
    local = cf.compare(here, task(), ["zero-shot", "icl"], **settings)
    assert set(served.runs) == set(local.runs) and len(local.runs) == 2
    for name, runs in local.runs.items():
        for there, own in zip(served.runs[name], runs, strict=True):
            np.testing.assert_allclose(there.probabilities, own.probabilities, atol=1e-4)


@pytest.mark.slow
def test_diagnose_takes_a_server(fitted: Pipeline, remote: Remote, tmp_path: Path) -> None:
    rows = task(rows=40).train
    served = cf.diagnose(cf.load(tmp_path / "artifact", lm=remote()), rows, resamples=200, quiet=True)
    local = cf.diagnose(fitted, rows, resamples=200, quiet=True)
    assert served.verdict == local.verdict


# ---- the command line -------------------------------------------------------------------------------------


def predictions(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    assert main(["predict", *words, "--quiet"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_predict_with_a_backend(
    fitted: Pipeline,
    server: SoftServer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "new.txt").write_text("the no a\nyes b\nyes CC(=O)O\n")
    artifact, file = str(tmp_path / "artifact"), str(tmp_path / "new.txt")
    here = predictions(capsys, artifact, file)
    server.key = "sk-secret"
    monkeypatch.setenv("COLDFRAME_BACKEND_KEY", "sk-secret")
    there = predictions(capsys, artifact, file, "--backend", server.url, "--backend-dtype", "float32")
    for local, served in zip(here, there, strict=True):
        assert {**local, "probabilities": 0} == {**served, "probabilities": 0}
        for label, value in local["probabilities"].items():
            assert served["probabilities"][label] == pytest.approx(value, abs=1e-4)
    monkeypatch.setenv("COLDFRAME_BACKEND_KEY", "sk-other")
    assert main(["predict", artifact, file, "--backend", server.url]) == 2
    said = capsys.readouterr()
    assert "does not let you in" in said.err and "sk-other" not in said.err + said.out


@pytest.mark.parametrize("words", [["--exact", "--backend", "http://localhost:1/v1"], ["--backend-model", "tiny"]])
def test_flags_that_make_no_sense_together(
    words: list[str], fitted: Pipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(tmp_path / "artifact"), *words]) == 2
    assert "--backend" in capsys.readouterr().err


@pytest.mark.slow
def test_diagnose_with_a_backend(
    fitted: Pipeline, server: SoftServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact, file = str(tmp_path / "artifact"), tmp_path / "asked.csv"
    rows = [f"{row.text} {i},{row.target}" for i, row in enumerate(task(rows=40).train)]
    file.write_text("\n".join(["text,label", *rows]))
    words = ["diagnose", artifact, str(file), "--text", "text", "--label", "label", "--json", "--quiet"]
    verdicts = []
    for more in ([], ["--backend", server.url, "--backend-dtype", "float32"]):
        assert main([*words, "--out", str(tmp_path / f"out{len(more)}"), *more]) == 0
        verdicts.append(json.loads(capsys.readouterr().out)["verdict"])
    assert verdicts[0] == verdicts[1] and server.requests
    log = tmp_path / "log.jsonl"
    log.write_text(json.dumps({"question": "who?", "contexts": ["A."], "ground_truth": "A"}))
    assert main(["diagnose", str(log), "--backend", server.url]) == 2
    assert "--endpoint" in capsys.readouterr().err
