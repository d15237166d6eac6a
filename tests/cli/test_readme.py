"""The README's commands in their order, as they stand there: on a tiny model, with small data and short training."""

from __future__ import annotations

import io
import json
import re
import shlex
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Ran
from tests.contract.cases import lm_of
from tests.diagnosis.server import Server
from tests.serving.gateway.support import Process
from tests.serving.soft_server import SoftServer

README = Path(__file__).parents[2] / "README.md"
SMALLER = {"b3db": "assay.csv", "fact-corpus:200": "fact-corpus:6", "smollm2": "tiny"}
SMALLER |= {"bbb=coldframe-demo/artifact": "bbb=runs/b3db"}  # tests/e2e makes the demo's
SMALLER |= {"DATA": "things.csv", "--text=COL": "--text=sentence", "--label=COL": "--label=colour"}
QUICK = ("--dtype", "float32", "--quiet")
ESP = ("--set", "heads=2", "--set", "k=2")
PEAR = [
    word
    for value in ("heads=2", "steps=2", "length=6", "held_out=2", "repetitions=[[3,6]]")
    for word in ("--set", f"pear.{value}")
]
MORE = {
    "fit": (*QUICK, "--epochs", "1"),
    "compare": (*QUICK, "--epochs", "1", "--seeds", "0"),
    "evaluate": ("--quiet",),
    "diagnose": ("--quiet",),
    "reweight": (*QUICK, "--heads", "2", "--repetitions", "3", "6", "--length", "6", "--steps", "2", "--held-out", "2"),
}


RINGS = ("c1ccccc1", "c1ccncc1", "C1CCCCC1", "c1ccsc1", "c1ccoc1", "C1CCNCC1", "C1CCOC1", "c1cncnc1")


def write(name: str, *lines: str) -> None:
    Path(name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def commands() -> list[str]:
    """Every line of the README's shell blocks that calls coldframe, or asks its gateway."""
    blocks = re.findall(r"^```bash\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)
    return [line for block in blocks for line in block.splitlines() if re.search("coldframe |^curl ", line)]


def test_the_commands_are_those_of_the_four_ways_in() -> None:
    text = "\n".join(commands())
    for words in (
        "fit corpus.jsonl --questions qa.jsonl --method prag",
        "compare fact-corpus:200 --methods zero-shot icl prag poly-prag dyprag mha-esp pear lora",
        "--method icl+prag",
        "ask ",
        "reweight ",
        "predict ",
        "diagnose rag.jsonl --endpoint",
        "diagnose runs/",
    ):
        assert words in text


@pytest.mark.slow
def test_every_command_runs(
    run: Callable[..., Ran], lm: str, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bm25s")
    with (
        Server.running(lm_of("llama")) as writes,
        SoftServer.running(lm_of("llama")) as holds_the_model,
        ExitStack() as gateways,
    ):
        urls = {"diagnose": writes.url, "serve": holds_the_model.url}
        run_all(run, lm, tmp_path, monkeypatch, urls, gateways, holds_the_model.requests)


def run_all(
    run: Callable[..., Ran],
    lm: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    urls: dict[str, str],
    gateways: ExitStack,
    requests_to_the_model: list[tuple[str, dict[str, Any]]],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").symlink_to(lm)
    rows = [f"{ring}{tail},{int('O' in tail)}" for ring in RINGS for tail in ("C", "CC", "O", "CO", "N", "CN")]
    write("assay.csv", "smiles,active", *rows)
    qa = [{"question": "Who wrote book {}?", "answer": "Ada"}, {"question": "When was {} written?", "answer": "in May"}]
    passages = [
        {
            "title": f"Book {i}",
            "text": f"Ada wrote book {i} in May.",
            "qa": [{**pair, "question": pair["question"].format(i)} for pair in qa],
        }
        for i in range(3)
    ]
    write("corpus.jsonl", *map(json.dumps, passages))
    write("qa.jsonl", *(json.dumps({"question": f"Who is the author of {i}?", "answer": "Ada"}) for i in range(3)))
    log = [{"question": f"Who wrote {i}?", "contexts": [f"Ada wrote {i}."], "ground_truth": "Ada"} for i in range(12)]
    write("rag.jsonl", *map(json.dumps, log))
    gateway: Process | None = None
    for line in commands():
        if line.startswith("curl "):
            assert gateway is not None
            url, *header, option, body = shlex.split(line)[1:]
            assert header == ["-H", "Content-Type: application/json"] and option == "-d"
            status, answered = gateway.post(url.removeprefix("http://127.0.0.1:8080"), json.loads(body))
            assert status == 200, answered
            (answer,) = answered["answers"]
            assert answer["label"] in answer["probabilities"] and answer["neighbours"]
            continue
        before, _, call = line.partition("#")[0].rpartition("|")
        words = shlex.split(re.sub(r"(--(?:text|label)) ", r"\1=", call))[1:]
        command = words[0]
        smaller = {**SMALLER, "http://localhost:8000/v1": urls.get(command, ""), "NAME": "tiny"}
        rest = [smaller.get(word, word) for word in words[1:]]
        if command == "serve":
            gateway = gateways.enter_context(Process("coldframe", "serve", *rest, "--port", "0"))
            for name in (word.partition("=")[0] for word in rest if "=" in word):
                status, answered = gateway.post("/v1/predict", {"adapter": name, "inputs": ["CCO"]})
                assert status == 200 and answered["answers"], (line, answered)
            assert "--backend" not in rest or requests_to_the_model, line
            continue
        more = list(MORE.get(command, ()))
        if "--model" not in rest and command in ("fit", "compare"):
            more += ["--model", "tiny"]
        if command == "fit" and "mha-esp" in rest:
            more += ESP
        if "pear" in rest:
            more += PEAR
        stdin = io.TextIOWrapper(io.BytesIO((shlex.split(before)[1] + "\n").encode() if before else b""))
        monkeypatch.setattr(sys, "stdin", stdin)
        ran = run(command, *rest, *more)
        assert ran.status == 0, (line, ran.err)
        assert ran.out, line
