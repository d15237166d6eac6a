"""The examples of docs/how-to/diagnose-your-pipeline.md, run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.diagnosis.server import Server
from tests.tiny import tiny

from coldframe.diagnosis.rag import diagnose_log
from coldframe.errors import ColdframeError
from coldframe.frozen.model import FrozenLM
from coldframe.tasks.rag_log import read_log

PAGE = (Path(__file__).parents[2] / "docs/how-to/diagnose-your-pipeline.md").read_text(encoding="utf-8")
DATA, *_ = re.findall(r"```python\n(.*?)```", PAGE, re.S)
EXAMPLES = dict(re.findall(r"^## ([^\n]+)\n[^#]*?```python\n(.*?)```", PAGE, re.M | re.S))
FRAMEWORKS = {"LangChain": "langchain_core", "LlamaIndex": "llama_index.core"}


def example(word):
    (found,) = [code for title, code in EXAMPLES.items() if word in title]
    return found


def run(*parts):
    names = {}
    for code in parts:
        exec(compile(code, "docs/how-to/diagnose-your-pipeline.md", "exec"), names)
    return names["diagnosis"]


@pytest.mark.e2e
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_framework_over_the_real_model(framework, capsys):
    pytest.importorskip(FRAMEWORKS[framework], reason=f"{framework} is not installed")
    try:
        diagnosis = run(DATA, example(framework))
    except ColdframeError as error:
        if "package index" in str(error):
            pytest.skip(f"the package index cannot be reached: {error}")
        raise
    assert diagnosis.verdict.outcome == "retrieval-driven"
    (expected,) = re.findall(r"```text\n(.*?)\.\.\.\n```", PAGE, re.S)
    assert capsys.readouterr().out.startswith(expected.strip())
    # The retriever finds the one fact that answers; that is most of the gain, but not all of it.
    shares = {ablation.condition: ablation.share for ablation in diagnosis.store_ablation.ablations}
    assert {"swapped", "random", "fixed", "shuffled"} == set(shares)
    assert 0.5 < shares["swapped"].low < shares["swapped"].high < 1


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_framework_takes_less_than_20_lines(framework):
    assert len([line for line in example(framework).splitlines() if line.strip()]) < 20


def test_two_functions(capsys):
    diagnosis = run(DATA, example("two functions"))
    assert diagnosis.verdict.outcome == "retrieval-driven" and diagnosis.unit == "score"
    assert diagnosis.store_ablation.gain.value == 1.0
    assert "last word is retrieval-driven" in capsys.readouterr().out


@pytest.mark.slow
def test_a_server(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = example("on a server").replace("my-model", "tiny")
    assert 'resume="runs/losses.jsonl"' in code
    with Server.running(FrozenLM(*tiny("llama"))) as server:
        here = code.replace("http://localhost:8000/v1", server.url)
        assert here != code
        first = run(DATA, example("two functions"), here)
        asked = len(server.requests)
        again = run(DATA, example("two functions"), here)
    assert "logprobs nats" in capsys.readouterr().out
    assert first.n == 32 and asked > 8 * 32
    # Kept in the file: only the question at the start and those asked twice go out again.
    assert len(server.requests) - asked == 1 + 8
    assert again.store_ablation == first.store_ablation


LOGS = (Path(__file__).parents[2] / "docs/how-to/diagnose-a-log.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_logs_of_the_frameworks_are_read(tmp_path, monkeypatch):
    pytest.importorskip("langchain_core")
    pytest.importorskip("llama_index.core")
    monkeypatch.chdir(tmp_path)
    data, langchain, llama_index, python = re.findall(r"```python\n(.*?)```", LOGS, re.S)
    names = {}
    exec(compile(data, "diagnose-a-log.md", "exec"), names)
    assert len(read_log(tmp_path / "rag.jsonl").rows) == 40
    for code in (langchain, llama_index):
        other = {}
        exec(compile(code, "diagnose-a-log.md", "exec"), other)
        (row,) = read_log([other["row"]]).rows
        assert row.passages == ("Ada lives in Rome.",) and row.answers == ("Rome",)
    lm = FrozenLM(*tiny("llama"))
    quick = {"resamples": 200, "max_tokens": 2, "quiet": True}
    monkeypatch.setattr(
        "coldframe.diagnose_log", lambda log, _, **more: diagnose_log(log, lm, **more, **quick), raising=False
    )
    exec(compile(python, "diagnose-a-log.md", "exec"), names)
    assert len(names["result"].questions) == 40
