"""Augmentations: read from what models write, kept, asked again, and told where they fail."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from coldframe.parametric.augment import ByEndpoint, ByModel, Given, augment, parse_qa
from tests.diagnosis.server import Server
from tests.tiny import tiny

from coldframe.frozen.model import FrozenLM
from coldframe.inference.client import Client
from coldframe.tasks.corpus import Corpus, Passage
from coldframe.tasks.fact_corpus import fact_corpus

FACTS = fact_corpus(4).corpus
QAS = [{"question": f"Q{i}?", "answer": f"A{i}", "full_answer": f"It is A{i}."} for i in range(3)]


class Scripted(FrozenLM):
    """A model whose words are given: what it would write, call by call."""

    def __init__(self, *said: str) -> None:
        super().__init__(*tiny("llama"))
        self.said, self.calls = list(said), 0

    def generate(self, prompts: Sequence[Any], *args: Any, **kwargs: Any) -> list[str]:
        self.calls += 1
        texts = [self.said.pop(0) for _ in prompts]
        return [text.split(mark)[0] for text in texts for mark in kwargs.get("stop") or ("\0",)]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (json.dumps(QAS), 3),
        ("Here you are:\n```json\n" + json.dumps(QAS, indent=2) + "\n```\nGood luck!", 3),
        ('{"questions": ' + json.dumps(QAS) + "}", 3),
        (json.dumps(QAS)[:-40], 2),
        (
            '[{"question": "Q?", "answer": 7}, {"question": "", "answer": "x"}, {"question": "Q?", "answer": "again"}]',
            1,
        ),
        ('{broken {"question": "Q?", "answer": "A"}', 1),
        ("Q1: Who?\nA1: Ada\n\nQ2: Where?\nA2: Rome\n", 2),
        ("**Question:** Who?\n**Answer:** Ada", 1),
        ("I cannot do that.", 0),
        ("", 0),
        ('[{"question": ["Q"], "answer": {"a": 1}}]', 0),
    ],
)
def test_what_can_be_read_is_read(text: str, count: int) -> None:
    found = parse_qa(text)
    assert len(found) == count and all(qa.question and qa.answer for qa in found)


def test_a_model_is_asked_again_and_its_failure_is_told(tmp_path: Path) -> None:
    corpus = Corpus("c", FACTS.passages[:2])
    good, bad = json.dumps(QAS), "no"
    lm = Scripted("new 0", "new 1", bad, good, bad, bad)
    found = augment(corpus, ByModel(lm, retries=2), tmp_path / "a.jsonl", quiet=True)
    one, two = corpus.passages
    assert found.found[two.id].rewrite == "new 1" and len(found.found[two.id].qa) == 3
    assert "3 answers" in found.failed[one.id] and "'no'" in found.failed[one.id]
    # Neither is asked again, or the same command would find other passages; the one that failed is, if it is wished.
    assert augment(corpus, ByModel(Scripted(), retries=2), tmp_path / "a.jsonl", quiet=True) == found
    again = Scripted("new 0", good)
    assert augment(corpus, ByModel(again), tmp_path / "a.jsonl", quiet=True, ask_again=True).failed == {}
    assert again.said == []
    nobody = Scripted()
    assert len(augment(corpus, ByModel(nobody), tmp_path / "a.jsonl", quiet=True).found) == 2 and not nobody.calls


def test_what_could_not_be_read_is_asked_again_when_all_were_asked(tmp_path: Path) -> None:
    good, bad = json.dumps(QAS), "no"
    lm = Scripted(bad, good, bad, good, good, good)  # four passages in two batches, then the two that failed in one
    found = augment(FACTS, ByModel(lm, rewrites=False, batch_size=2), tmp_path / "a.jsonl", quiet=True)
    assert len(found.found) == 4 and lm.calls == 3 and not lm.said


def test_without_rewrites_only_questions_are_asked_for(tmp_path: Path) -> None:
    lm = Scripted(*[json.dumps(QAS)] * 4)
    found = augment(FACTS, ByModel(lm, rewrites=False), tmp_path / "a.jsonl", quiet=True)
    assert not lm.said and lm.calls == 1 and {one.rewrite for one in found.found.values()} == {""}
    # Who wants rewrites does not take what was written without.
    full = augment(FACTS, ByModel(Scripted(*"abcd", *[json.dumps(QAS)] * 4)), tmp_path / "a.jsonl", quiet=True)
    assert {one.rewrite for one in full.found.values()} == set("abcd")


def test_a_line_that_a_crash_cut_off_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    good = json.dumps(QAS)
    whole = augment(FACTS, ByModel(Scripted(*"abcd", *[good] * 4)), path, quiet=True)
    path.write_text(path.read_text()[:-30])
    assert augment(FACTS, ByModel(Scripted("d", good)), path, quiet=True) == whole
    assert augment(FACTS, ByModel(Scripted()), path, quiet=True) == whole  # all is kept
    # What one wrote is not taken for what another would.
    hot = augment(FACTS, ByModel(Scripted(*"efgh", *[good] * 4), temperature=1.0), path, quiet=True)
    assert {one.rewrite for one in hot.found.values()} == set("efgh")


def test_what_came_with_the_corpus_is_taken_as_it_is_now(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    found = augment(FACTS, Given(FACTS), path, quiet=True)
    assert found.found == FACTS.given and not path.exists()
    others = Corpus("others", (*FACTS.passages, Passage.of("new")), FACTS.given)
    assert list(augment(others, Given(others), path, quiet=True).failed) == [Passage.of("new").id]


def test_a_tiny_model_fails_in_words(tmp_path: Path) -> None:
    corpus = Corpus("c", (Passage.of("red", "Ball"),))
    found = augment(corpus, ByModel(FrozenLM(*tiny("llama")), retries=1, max_new_tokens=4), tmp_path / "a", quiet=True)
    assert found.found == {} and "2 answers" in found.failed[corpus.passages[0].id]


def test_a_server_is_not_asked_for_what_nobody_reads_and_an_empty_rewrite_is_none(tmp_path: Path) -> None:
    corpus, asked = Corpus("c", FACTS.passages[:1]), list[str]()

    def reply(route: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        asked.append(body["messages"][0]["content"])
        return 200, {"choices": [{"message": {"content": json.dumps(QAS) if "JSON" in asked[-1] else None}}]}

    with Server.running(FrozenLM(*tiny("llama"))) as server:
        server.trouble = reply
        client = Client(server.url, "tiny", None)
        found = augment(corpus, ByEndpoint(client, rewrites=False), tmp_path / "a.jsonl", quiet=True)
        assert len(found.found) == len(asked) == 1
        failed = augment(corpus, ByEndpoint(client, retries=1), tmp_path / "a.jsonl", quiet=True).failed
    assert list(failed.values()) == ["no rewrite in 2 answers"]


def test_a_server_writes_and_what_it_refuses_is_told(tmp_path: Path) -> None:
    corpus = Corpus("c", FACTS.passages[:2])

    def reply(route: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        said = body["messages"][0]["content"]
        if corpus.passages[1].text in said:
            return 400, {"error": {"message": "not this one"}}
        text = json.dumps(QAS) if "JSON" in said else "new"
        return 200, {"choices": [{"message": {"content": text}}]}

    with Server.running(FrozenLM(*tiny("llama"))) as server:
        server.trouble = reply
        found = augment(corpus, ByEndpoint(Client(server.url, "tiny", None)), tmp_path / "a.jsonl", quiet=True)
    one, two = corpus.passages
    assert found.found[one.id].rewrite == "new" and "not this one" in found.failed[two.id]
