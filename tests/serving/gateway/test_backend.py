"""Before a server that holds the model: the same answers, and a reason while it is away."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.serving.gateway.support import TEXTS, client_of, model

import coldframe as cf
from coldframe.serving.gateway.adapters import Adapters

pytestmark = pytest.mark.slow
NAMES = ("mha-esp", "mha-esp-paper", "idpg", "prompt-tuning", "zero-shot", "icl", "knn")

remote = pytest.importorskip("coldframe.serving.remote")
soft_server = pytest.importorskip("tests.serving.soft_server")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    model().model.save_pretrained(tmp_path / "checkpoint")
    model().tokenizer.save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.fixture
def server() -> Iterator[Any]:
    with soft_server.SoftServer.running(model()) as running:
        yield running


@pytest.fixture
def client(server: Any, checkpoint: Path, folders: dict[str, Path]) -> Iterator[Any]:
    settings = {"checkpoint": checkpoint, "dtype": "float32", "retries": 1, "wait": 0.0, "timeout": 20.0}
    adapters = Adapters(lambda base: remote.RemoteLM(server.url, "tiny", **settings))
    for name in NAMES:
        adapters.load(name, folders[name])
    assert len(adapters.models) == 1
    with client_of(adapters, workers=4, wait=0) as client:
        yield client


def ask(client: Any, name: str, text: str) -> Any:
    return client.post("/v1/predict", json={"adapter": name, "inputs": [text]})


def test_answers_are_those_of_the_model_here(client: Any, folders: dict[str, Path]) -> None:
    pairs = [(name, text) for name in NAMES for text in TEXTS]
    right = {name: cf.load(folders[name], model()).predict_proba(TEXTS) for name in NAMES}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda pair: ask(client, *pair), pairs))
    for (name, text), answered in zip(pairs, answers, strict=True):
        assert answered.status_code == 200, answered.text
        shares = list(answered.json()["answers"][0]["probabilities"].values())
        assert shares == pytest.approx(right[name][TEXTS.index(text)], abs=1e-3), name


def test_while_the_server_is_away_the_reason_is_said(client: Any, server: Any) -> None:
    before = ask(client, "mha-esp", TEXTS[0]).json()["answers"]
    server.trouble = lambda route, body: (503, {"error": {"message": "starting"}})
    refused = ask(client, "mha-esp", TEXTS[0])
    assert refused.status_code == 502 and "503" in refused.json()["error"]["problem"]
    assert ask(client, "knn", TEXTS[0]).status_code == 200  # it needs no server
    server.trouble = lambda route, body: None
    assert ask(client, "mha-esp", TEXTS[0]).json()["answers"] == before


def test_a_server_that_is_killed_and_started_again(client: Any, server: Any) -> None:
    before = ask(client, "mha-esp", TEXTS[0]).json()["answers"]
    server.shutdown()
    server.server_close()
    refused = ask(client, "mha-esp", TEXTS[0])
    assert refused.status_code == 502 and "Cannot connect" in refused.json()["error"]["problem"]
    server.socket = socket.socket()
    server.server_bind()  # at the same port
    server.server_activate()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    assert ask(client, "mha-esp", TEXTS[0]).json()["answers"] == before
