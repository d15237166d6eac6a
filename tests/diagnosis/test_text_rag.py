"""Passages in the prompt of a local model, against a loop over plain tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.tiny import tiny

from coldframe.diagnosis.queries import Query
from coldframe.diagnosis.subject import Subject
from coldframe.diagnosis.text_rag import TextRAG
from coldframe.errors import DataError
from coldframe.frozen.model import FrozenLM
from coldframe.tasks.task import Template

TEMPLATE = Template("Q: {text}\nA:", instruction="Answer.", separator="\n")
STORE = [f"{name} is in {town}." for name, town in zip("ABCDEFGHIJKL", ["Rome", "Oslo", "Zürich"] * 4, strict=True)]
QUERIES = [Query(f"{text[0]}?", text.split()[-1][:-1]) for text in STORE]


@pytest.fixture(scope="module")
def lm() -> FrozenLM:
    return FrozenLM(*tiny("llama"))


def retrieve(text, k=2):
    at = "ABCDEFGHIJKL".index(text[0])
    return [STORE[(at + i) % len(STORE)] for i in range(k)]


def naive(lm, text, passages, answer):
    """Mean token NLL of the answer and its end, from all logits of one text."""
    prompt = "Answer.\n" + "".join(passage + "\n" for passage in reversed(passages)) + f"Q: {text}\nA:"
    start, ids = len(lm.bos + lm.tokenize(prompt)), lm.bos + lm.tokenize(prompt + " " + answer + "\n")
    log_probabilities = lm.logits(torch.tensor([ids]))[0].log_softmax(-1)
    return -np.mean([float(log_probabilities[i - 1, ids[i]]) for i in range(start, len(ids))])


@pytest.mark.parametrize("condition", ["full", "empty", "swapped", "fixed", "shuffled", "random", "oracle"])
def test_losses_are_those_of_a_loop(lm, condition):
    subject = TextRAG(
        lm, retrieve, QUERIES, template=TEMPLATE, batch_size=5, store=STORE, oracle=lambda text: retrieve(text, 1)
    )
    expected = [naive(lm, *case) for case in subject.cases(condition)]
    np.testing.assert_allclose(subject.losses(condition), expected, atol=1e-4)
    assert isinstance(subject, Subject)


def test_the_most_relevant_passage_stands_last(lm):
    subject = TextRAG(lm, retrieve, QUERIES, template=TEMPLATE)
    turned = TextRAG(lm, lambda text: retrieve(text)[::-1], QUERIES, template=TEMPLATE)
    assert np.abs(subject.losses("full") - turned.losses("full")).min() > 1e-4


def test_batches_change_nothing(lm):
    one = TextRAG(lm, retrieve, QUERIES, template=TEMPLATE, batch_size=1).losses("full")
    np.testing.assert_allclose(TextRAG(lm, retrieve, QUERIES, template=TEMPLATE).losses("full"), one, atol=1e-5)


def test_passages_that_do_not_fit_are_left_out_and_counted(lm):
    long = [text + " " + "x" * 150 for text in STORE]  # two of them do not fit into 256 positions
    subject = TextRAG(lm, lambda text: [retrieve(text)[0], long[0], long[1]], QUERIES, template=TEMPLATE)
    fits = TextRAG(lm, lambda text: [retrieve(text)[0], long[0]], QUERIES, template=TEMPLATE)
    np.testing.assert_allclose(subject.losses("full"), fits.losses("full"), atol=1e-5)
    assert any("12 of 36 passages" in note and "256 tokens" in note for note in subject.notes)
    assert not any("did not fit" in note for note in fits.notes)


def test_a_question_that_does_not_fit_is_told(lm):
    queries = [*QUERIES, Query("A" + "?" * 300, "Rome")]
    with pytest.raises(DataError, match="longer than the model's context"):
        TextRAG(lm, retrieve, queries, template=TEMPLATE).losses("empty")


def test_a_file_of_losses_belongs_to_one_model_and_template(lm, tmp_path):
    def losses(lm, template):
        subject = TextRAG(lm, retrieve, QUERIES, template=template, resume=tmp_path / "losses.jsonl", model="m")
        return subject.losses("full")

    first = losses(lm, TEMPLATE)
    assert np.abs(losses(FrozenLM(*tiny("llama", seed=1)), TEMPLATE) - first).min() > 1e-6
    assert np.abs(losses(lm, Template("{text}")) - first).min() > 1e-6
    np.testing.assert_array_equal(losses(lm, TEMPLATE), first)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["logprobs", "answers"])
def test_resumed_after_any_byte_it_gives_the_same_bits(lm, tmp_path, mode):
    queries = [Query(q.text + " again" * i, q.target) for i, q in enumerate(QUERIES)]  # batches are padded

    def losses(path):
        subject = TextRAG(
            lm, retrieve, queries, template=TEMPLATE, batch_size=5, resume=path, mode=mode, max_new_tokens=2
        )
        return [*subject.losses("full"), *subject.losses("empty")]

    whole = tmp_path / "whole.jsonl"
    right = losses(whole)
    data = whole.read_bytes()
    assert data.count(b"\n") == 6  # one line for each batch
    for stop in range(0, len(data), len(data) // 25):
        cut = tmp_path / f"{stop}.jsonl"
        cut.write_bytes(data[:stop])
        assert losses(cut) == right


def test_answers_are_read_with_one_space_before_them(lm):
    spaced = [Query(query.text, f" {query.target}") for query in QUERIES]
    np.testing.assert_array_equal(
        TextRAG(lm, retrieve, spaced).losses("full"), TextRAG(lm, retrieve, QUERIES).losses("full")
    )
