"""An artifact fitted here answers the same before a real vLLM in float32."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.serving.gateway.support import Process
from tests.vllm import server

import coldframe as cf
from coldframe.cli import main
from coldframe.errors import NotFiniteError
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import EMPTY, Conditioning, Prompt
from coldframe.pipeline.pipeline import Pipeline
from coldframe.serving.remote import RemoteLM

TOLERANCE = 1e-3  # of a log-probability
PROMPTS = [
    Prompt("Question: Is water wet?\nAnswer:", end="\n"),
    Prompt("Question: Is fire cold, and is it also made of ice?\nAnswer:", "Answer the question.\n\n", end="\n"),
    Prompt("2 + 2 =", end="\n"),
]
WORDS = {"one token": ("yes", "no"), "several tokens": ("soluble", "not soluble", "sparingly soluble in water")}


def conditioning(placement: str, rows: int = len(PROMPTS)) -> Conditioning:
    """Soft tokens of the size of embeddings; none, for ``"none"``."""
    if placement == "none":
        return EMPTY
    soft = 0.1 * torch.randn(rows, 8, 576, generator=torch.Generator().manual_seed(5))
    return Conditioning(soft_tokens=soft, placement=placement)  # type: ignore[arg-type]


def close(served: Any, local: Any) -> None:
    torch.testing.assert_close(torch.as_tensor(served), torch.as_tensor(local), atol=TOLERANCE, rtol=0)


@pytest.fixture(scope="session")
def artifact(here: FrozenLM, tmp_path_factory: pytest.TempPathFactory) -> tuple[Pipeline, Path]:
    folder = tmp_path_factory.mktemp("fitted") / "b3db"
    rows = cf.load_task("b3db", max_train=32)
    return cf.fit(cf.MHAESP(), here, rows, epochs=1, out=folder, quiet=True), folder


def test_an_mha_esp_artifact_answers_the_same(artifact: tuple[Pipeline, Path], there: RemoteLM) -> None:
    pipeline, folder = artifact
    texts = [example.text for example in cf.load_task("b3db").test[:24]]
    served = cf.load(folder, lm=there)
    close(np.log(served.predict_proba(texts)), np.log(pipeline.predict_proba(texts)))
    assert served.predict(texts) == pipeline.predict(texts)


def test_predict_with_a_backend(
    artifact: tuple[Pipeline, Path], url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline, folder = artifact
    (tmp_path / "new.txt").write_text("CCO\nCC(=O)OC1=CC=CC=C1C(=O)O\n")
    assert main(["predict", str(folder), str(tmp_path / "new.txt"), "--quiet", "--backend", url]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["label"] for record in records] == pipeline.predict([record["text"] for record in records])


def test_a_backend_killed_under_load_and_started_again(artifact: tuple[Pipeline, Path], tmp_path: Path) -> None:
    """Every request is answered rightly or refused with a reason, and the same gateway goes on."""
    pipeline, folder = artifact
    texts = [example.text for example in cf.load_task("b3db").test[:8]]
    right = {text: list(map(float, shares)) for text, shares in zip(texts, pipeline.predict_proba(texts), strict=True)}
    port, log = server.free_port(), tmp_path / "vllm.log"
    words = ["serve", "--adapter", f"bbb={folder}", "--backend", f"http://127.0.0.1:{port}/v1", "--port", "0"]
    answers: list[tuple[str, int, Any]] = []
    finished = threading.Event()

    def client(first: int) -> None:
        for turn in itertools.count(first):
            if finished.is_set():
                return
            text = texts[turn % len(texts)]
            answers.append((text, *gateway.post("/v1/predict", {"adapter": "bbb", "inputs": [text]}, timeout=120)))

    vllm = server.begin("smollm2", port, "float32", log)
    try:
        server.wait(port, vllm, log)
        with Process("coldframe", *words) as gateway, ThreadPoolExecutor(4) as pool:
            clients = [pool.submit(client, first) for first in range(4)]
            try:
                reached(answers, 200, 20)
                os.killpg(vllm.pid, signal.SIGKILL)
                vllm.wait()
                reached(answers, 502, 4)
                vllm = server.begin("smollm2", port, "float32", log)
                server.wait(port, vllm, log)
                before = len(answers)
                reached(answers, 200, 20, before)
            finally:
                finished.set()
            for future in clients:
                future.result()
    finally:
        server.end(vllm.pid)
        vllm.wait()
    for text, status, answer in answers:
        if status == 200:
            close(list(answer["answers"][0]["probabilities"].values()), right[text])
        else:
            assert status in (502, 503) and answer["error"]["problem"], answer


def reached(answers: list[tuple[str, int, Any]], status: int, count: int, start: int = 0) -> None:
    """Wait until so many answers have a status."""
    until = time.monotonic() + 300
    while sum(answer[1] == status for answer in answers[start:]) < count:
        assert time.monotonic() < until, [answer[1] for answer in answers[start:]]
        time.sleep(0.1)


def test_the_demo_of_serving(artifact: tuple[Pipeline, Path]) -> None:
    pipeline, folder = artifact
    command = [sys.executable, "-m", "tests.vllm.demo", str(folder), "--query", "CCO", "--once"]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600).stdout
    shown = json.loads(said[said.index("\n{") : said.rindex("}") + 1])
    assert shown["answers"][0]["label"] == pipeline.predict(["CCO"])[0]


@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
@pytest.mark.parametrize("placement", ["none", "suffix", "prefix"])
def test_labels(placement: str, words: tuple[str, ...], here: FrozenLM, there: RemoteLM) -> None:
    port = conditioning(placement)
    for choices in (False, True):
        served = there.label_scores(PROMPTS, words, port, choices=choices).log_softmax(-1)
        close(served, here.label_scores(PROMPTS, words, port, choices=choices).log_softmax(-1))


@pytest.mark.parametrize("placement", ["none", "suffix", "prefix"])
def test_losses_and_texts(placement: str, here: FrozenLM, there: RemoteLM) -> None:
    port, answers = conditioning(placement), [["maybe not"], ["of course not"], ["four"]]
    close(there.losses(PROMPTS, answers, port), here.losses(PROMPTS, answers, port))
    texts = here.generate(PROMPTS, port, max_new_tokens=12)
    assert there.generate(PROMPTS, port, max_new_tokens=12) == texts
    first = conditioning(placement, 1)
    assert "".join(there.stream(PROMPTS[0], first, max_new_tokens=12)) == texts[0]


def test_many_at_once_are_each_their_own(here: FrozenLM, there: RemoteLM) -> None:
    prompts = [Prompt(f"Question: {'very ' * (i % 7)}is {i} even?\nAnswer:") for i in range(32)]
    port = conditioning("suffix", len(prompts))
    close(
        there.label_scores(prompts, ("yes", "no"), port).softmax(-1),
        here.label_scores(prompts, ("yes", "no"), port).softmax(-1),
    )


def test_a_chat_has_soft_tokens_beside_text(url: str, here: FrozenLM) -> None:
    chat = RemoteLM(url, "smollm2", dtype="float32", form="chat", timeout=300)
    prompts = [Prompt("\n" + prompt.query, end="\n") for prompt in PROMPTS]
    port = conditioning("prefix")
    for words in WORDS.values():
        served = chat.label_scores(prompts, words, port).log_softmax(-1)
        close(served, here.label_scores(prompts, words, port).log_softmax(-1))
    texts = here.generate(prompts, port, max_new_tokens=8)
    assert chat.generate(prompts, port, max_new_tokens=8) == texts
    assert "".join(chat.stream(prompts[0], conditioning("prefix", 1), max_new_tokens=8)) == texts[0]


def test_a_vector_that_is_not_finite_poisons_nobody(there: RemoteLM) -> None:
    """What vLLM's cache holds of it would reach other users' requests."""
    before = there.label_scores(PROMPTS, ("yes", "no"))
    poison = conditioning("prefix")
    assert poison.soft_tokens is not None
    poison.soft_tokens[1, 3, 7] = float("nan")
    with pytest.raises(NotFiniteError, match="soft token 4 of 8 of query 2"):
        there.label_scores(PROMPTS, ("yes", "no"), poison)
    close(there.label_scores(PROMPTS, ("yes", "no")), before)
