"""``exact``: in bfloat16 a score depends on the batch it was computed in; with the switch it does not, to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.contract.cases import SCHEMA, example, task
from tests.contract.conftest import tiny_encoders as tiny_encoders
from tests.tiny import tiny

import coldframe as cf
from coldframe.diagnosis.soft_token_subject import subject_of
from coldframe.diagnosis.text_rag import TextRAG
from coldframe.frozen.model import FrozenLM
from coldframe.methods.registry import create

TEXTS = [f"the answer {'is a long one ' * (i % 7)}{i}" for i in range(23)]
METHODS: dict[str, dict[str, Any]] = {
    "zero-shot": {},
    "icl": {"k": 3},  # text in the prompt, which is read as a whole
    "prompt-tuning": {"tokens": 3},  # after the text, whose states are kept
    "mha-esp": {"encoder": "tiny", "adapter": 8, "heads": 2, "k": 3, "placement": "prefix"},
}


def lm_in_bfloat16(exact: bool) -> FrozenLM:
    model, tokenizer = tiny("llama")
    return FrozenLM(model.to(torch.bfloat16), tokenizer, exact=exact)


def pipeline_of(name: str, exact: bool) -> cf.Pipeline:
    """Fitted to labels of one token and of several."""
    method, lm, training = create(name, METHODS[name]), lm_in_bfloat16(exact), {"epochs": 1, "batch_size": 4}
    similarity = cf.RetrievalConfig(similarity="bm25")
    return cf.fit(method, lm, task(SCHEMA), retrieval=similarity, training=training, quiet=True)


def depends_on_its_batch(pipeline: cf.Pipeline) -> bool:
    """Whether any query has other probabilities alone, in another order, or after others were read."""
    together = pipeline.predict_proba(TEXTS)
    order = np.random.default_rng(0).permutation(len(TEXTS))
    shuffled = pipeline.predict_proba([TEXTS[i] for i in order])
    pipeline.lm.states.clear()
    alone = np.concatenate([pipeline.predict_proba([text]) for text in TEXTS])
    few = pipeline.predict_proba(TEXTS[:5])
    return not ((shuffled == together[order]).all() and (alone == together).all() and (few == together[:5]).all())


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_an_answer_does_not_depend_on_its_batch(name: str) -> None:
    assert depends_on_its_batch(pipeline_of(name, exact=False))
    assert not depends_on_its_batch(pipeline_of(name, exact=True))


@pytest.mark.slow
def test_the_switch_may_be_thrown_later() -> None:
    """States that were read beside others are forgotten."""
    pipeline = pipeline_of("prompt-tuning", exact=False)
    pipeline.predict_proba(TEXTS)
    pipeline.lm.exact = True
    assert not depends_on_its_batch(pipeline)


@pytest.mark.slow
def test_losses_of_a_diagnosis_do_not_either() -> None:
    def losses(exact: bool, at: slice) -> Any:
        lm = lm_in_bfloat16(exact)
        questions = [(text, "yes") for text in TEXTS]
        return TextRAG(lm, [["the molecule"]] * len(TEXTS[at]), questions[at], quiet=True).losses("full")

    assert (losses(True, slice(0, 23))[:3] == losses(True, slice(0, 3))).all()
    assert (losses(False, slice(0, 23))[:3] != losses(False, slice(0, 3))).any()

    def of_an_artifact(exact: bool, count: int) -> Any:
        queries = [example(i, "ABC"[i % 3], text) for i, text in enumerate(TEXTS)]
        return subject_of(pipeline_of("prompt-tuning", exact), queries[:count]).losses("full")

    assert (of_an_artifact(True, 23)[:3] == of_an_artifact(True, 3)).all()
    assert (of_an_artifact(False, 23)[:3] != of_an_artifact(False, 3)).any()


def test_what_is_stored_knows_whether_it_was_exact() -> None:
    exact, usual = lm_in_bfloat16(True), lm_in_bfloat16(False)
    assert exact.numbers != usual.numbers and "bfloat16" in usual.numbers
    rags = [TextRAG(lm, [["a"]] * 2, [("q", "a"), ("r", "b")], quiet=True) for lm in (exact, usual)]
    assert rags[0].fingerprint() != rags[1].fingerprint()
