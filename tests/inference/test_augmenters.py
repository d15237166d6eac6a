"""A model and a server write questions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.diagnosis.server import Server
from tests.tiny import tiny

from coldframe.errors import DataError
from coldframe.frozen.model import FrozenLM
from coldframe.inference.augmenters import by_endpoint, by_model
from coldframe.inference.client import Client
from coldframe.tasks import load_task
from coldframe.tasks.augmentation import augment
from coldframe.tasks.table import Problems
from coldframe.tasks.task import Passage, Task

GOOD = json.dumps([{"question": f"Q{i}?", "answer": f"A{i}"} for i in range(3)])


class Scripted(FrozenLM):
    """A model whose words are given: what it would write, call by call."""

    def __init__(self, *answers: str) -> None:
        super().__init__(*tiny("llama"))
        self.answers, self.settings = list(answers), list[dict[str, Any]]()

    def generate(self, prompts: Sequence[Any], *args: Any, **settings: Any) -> list[str]:
        self.settings.append(settings)
        return [self.answers.pop(0) for _ in prompts]


@pytest.fixture
def corpus(tmp_path: Path) -> Task:
    (tmp_path / "corpus.csv").write_text("title,text\nBall,It is red.\nBox,It is blue.\n")
    return load_task(tmp_path / "corpus.csv", validation_size=0)


def test_a_model_writes(corpus: Task, tmp_path: Path) -> None:
    lm = Scripted("new 0", "new 1", GOOD, GOOD)
    task = augment(corpus, by_model(lm, max_new_tokens=9), tmp_path / "kept", quiet=True)
    assert len(task.train) == 6 and isinstance(entry := (task.store or ())[1], Passage) and entry.rewrite == "new 1"
    assert [settings["stop"] for settings in lm.settings] == [(), ("]",)]
    assert all(settings["max_new_tokens"] == 9 and settings["temperature"] == 0.7 for settings in lm.settings)
    # Who wants rewrites does not take what was written without, nor what was sampled otherwise.
    names = {by_model(lm).hash, by_model(lm, rewrites=False).hash, by_model(lm, temperature=1.0).hash}
    assert len(names) == 3 and by_model(lm).hash == by_model(Scripted()).hash


def test_a_tiny_model_fails_in_words(corpus: Task, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="None of the 2 passages got questions.*2 answers"):
        augment(corpus, by_model(FrozenLM(*tiny("llama")), retries=1, max_new_tokens=4), tmp_path / "kept", quiet=True)


def test_a_server_writes_and_what_it_refuses_is_told(corpus: Task, tmp_path: Path) -> None:
    def reply(route: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        instruction = body["messages"][0]["content"]
        if "blue" in instruction:
            return 400, {"error": {"message": "not this one"}}
        text = GOOD if "JSON" in instruction else "new"
        return 200, {"choices": [{"message": {"content": text}}]}

    problems = Problems("skip")
    with Server.running(FrozenLM(*tiny("llama"))) as server:
        server.trouble = reply
        writer = by_endpoint(Client(server.url, "tiny", None))
        task = augment(corpus, writer, tmp_path / "kept", problems=problems, quiet=True)
    assert len(task.train) == 3 and isinstance(entry := (task.store or ())[0], Passage) and entry.rewrite == "new"
    assert "not this one" in str(problems.skipped[0])


def test_a_server_is_not_asked_for_what_nobody_reads_and_an_empty_rewrite_is_none(corpus: Task, tmp_path: Path) -> None:
    instructions = list[str]()

    def reply(route: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        instructions.append(body["messages"][0]["content"])
        return 200, {"choices": [{"message": {"content": GOOD if "JSON" in instructions[-1] else None}}]}

    with Server.running(FrozenLM(*tiny("llama"))) as server:
        server.trouble = reply
        client = Client(server.url, "tiny", None)
        task = augment(corpus, by_endpoint(client, rewrites=False), tmp_path / "kept", quiet=True)
        assert len(task.train) == 6 and len(instructions) == 2
        with pytest.raises(DataError, match="no rewrite in 2 answers"):
            augment(corpus, by_endpoint(client, retries=1), tmp_path / "kept", quiet=True)
