"""Contracts on scores, for every method on every architecture: order, padding, batches, caches, number formats."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import torch
from tests.contract.cases import (
    ALL,
    BFLOAT16,
    EVERY,
    FLOAT32,
    FOUND,
    METHODS,
    QUERIES,
    SCHEMA,
    WRITE,
    Case,
    built,
    ids,
    lm_of,
)
from tests.tiny import ARCHITECTURES, tiny
from torch import Tensor

from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Prompt
from coldframe.inference.run import run
from coldframe.methods.base import Method, prompts
from coldframe.methods.registry import all_methods
from coldframe.retrieval.store import Retrieved, Store

every = pytest.mark.parametrize(("case", "architecture"), EVERY, ids=ids(EVERY))
PROMPTS = prompts(SCHEMA, QUERIES)
# Their encoders read no label.
BESIDE = [case for case in METHODS if case.id == "mha-esp/averaging" or case.id.endswith("/vectors")]
STATIC = next(case for case in METHODS if case.id == "prompt-tuning")


def permuted(found: Retrieved, order: list[int]) -> Retrieved:
    return Retrieved(found.store, found.indices[:, order], found.scores[:, order])


@torch.no_grad()
def scores(method: Method, lm: FrozenLM, found: Retrieved = FOUND, rows: slice = slice(None)) -> Tensor:
    conditioning = method.condition(QUERIES[rows], found.rows(rows))
    if conditioning.scores is not None:
        return method.label_scores(lm, PROMPTS[rows], SCHEMA.words, conditioning)
    return lm.label_scores(PROMPTS[rows], SCHEMA.words, conditioning)


def close(got: Tensor, wanted: Tensor, tolerance: float = FLOAT32) -> None:
    torch.testing.assert_close(got, wanted, atol=tolerance, rtol=0)


def test_every_method_is_covered() -> None:
    assert {name for case in ALL for name in case.name.split("+")} == set(all_methods())


@every
def test_order_carries_nothing_or_visibly_something(case: Case, architecture: str) -> None:
    lm = lm_of(architecture)
    method = built(case, lm)
    before = scores(method, lm)
    others = [scores(method, lm, permuted(FOUND, order)) for order in ([2, 1, 0], [1, 2, 0])]
    if method.order_invariant:
        assert all(torch.equal(before, other) for other in others)
    else:
        assert all(float((before - other).abs().max()) > 1e-2 for other in others)


@every
def test_soft_tokens_are_as_many_as_a_method_says(case: Case, architecture: str) -> None:
    method = built(case, lm_of(architecture))
    soft_tokens = method.condition(QUERIES, FOUND).soft_tokens
    assert method.soft_token_count == (0 if soft_tokens is None else soft_tokens.shape[-2])


@every
def test_batches_padding_and_caches_carry_nothing(case: Case, architecture: str) -> None:
    lm, forgetful = lm_of(architecture), lm_of(architecture, state_budget=0)
    method = built(case, lm)
    together = scores(method, lm)
    assert together.std() > (0.5 if method.reads_model else 0.03)  # they say something, so agreement does too
    close(scores(method, lm), together)  # now from the cache
    close(scores(method, forgetful), together)
    assert len(forgetful.states) == 0
    singly = [scores(method, forgetful, rows=slice(i, i + 1)) for i in range(len(QUERIES))]
    close(torch.cat(singly), together)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_shared_header_is_the_same_text_as_the_row_s_own(architecture: str) -> None:
    lm, own = lm_of(architecture), [Prompt(p.header + p.query, end=p.end) for p in PROMPTS]
    ids = [[row.shared + row.own for row in lm.rows(asked)] for asked in (PROMPTS, own)]
    assert ids[0] == ids[1]
    for case in (case for case in METHODS if case.id in ("zero-shot", "mha-esp", "mha-esp/paper")):
        conditioning = built(case, lm).condition(QUERIES, FOUND)
        with torch.no_grad():
            close(
                lm.label_scores(PROMPTS, SCHEMA.words, conditioning), lm.label_scores(own, SCHEMA.words, conditioning)
            )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_different_headers_in_one_batch(architecture: str) -> None:
    lm, method = lm_of(architecture), built(STATIC, lm_of(architecture))
    asked = [
        Prompt(p.query, header, p.end)
        for p, header in zip(PROMPTS, ["", "One.\n", "One.\n", "The other.\n"], strict=True)
    ]
    with torch.no_grad():
        conditioning = method.condition(QUERIES, FOUND)
        together = lm.label_scores(asked, SCHEMA.words, conditioning)
        close(torch.cat([lm.label_scores([p], SCHEMA.words, conditioning) for p in asked]), together)


@functools.cache
def halved(architecture: str) -> FrozenLM:
    model, tokenizer = tiny(architecture)
    return FrozenLM(model.to(torch.bfloat16), tokenizer)


HALVED = [(case, name) for case in METHODS for name in ("llama", "gpt2") if name in case.architectures]


@pytest.mark.parametrize(("case", "architecture"), HALVED, ids=ids(HALVED))
def test_bfloat16_agrees_with_float32_to_its_eight_bits(case: Case, architecture: str) -> None:
    lm, coarse = lm_of(architecture), halved(architecture)
    wanted, method = scores(built(case, lm), lm), built(case, coarse)
    method.load_state_dict(built(case, lm).state_dict())
    got = scores(method, coarse)
    assert got.dtype == torch.float32
    close(got - got.mean(1, keepdim=True), wanted - wanted.mean(1, keepdim=True), BFLOAT16)
    assert all(p.dtype == torch.float32 for p in method.parameters())


@pytest.mark.parametrize("case", METHODS, ids=[case.id for case in METHODS])
def test_scores_are_the_losses_of_the_words(case: Case) -> None:
    """Several tokens in one of the words: every word by its full log-probability."""
    lm = lm_of("llama")
    method = built(case, lm)
    got = scores(method, lm)
    with torch.no_grad():
        conditioning = method.condition(QUERIES, FOUND)
        losses = [lm.loss(PROMPTS, [word] * len(QUERIES), conditioning) for word in SCHEMA.words]
    close(got, -torch.stack(losses, dim=1))


@pytest.mark.parametrize("case", ALL, ids=[case.id for case in ALL])
def test_results_come_back_in_the_order_of_the_queries(case: Case) -> None:
    """``run`` sorts by length and cuts into batches; what it returns stands where it was asked."""
    lm = lm_of("llama")
    method = built(case, lm)
    whole, cut = (run(method, lm, SCHEMA, QUERIES, FOUND, batch_size=size) for size in (64, 3))
    with torch.no_grad():
        together = method.label_scores(lm, PROMPTS, SCHEMA.words, method.condition(QUERIES, FOUND))
    np.testing.assert_allclose(whole.probabilities, together.double().softmax(-1).numpy(), atol=1e-5)
    np.testing.assert_allclose(cut.probabilities, whole.probabilities, atol=1e-5)


@pytest.mark.parametrize("case", METHODS, ids=[case.id for case in METHODS])
def test_written_answers_come_back_in_the_order_of_the_queries(case: Case) -> None:
    lm = lm_of("llama")
    method = built(case, lm, WRITE)
    whole, cut = (
        run(method, lm, WRITE, QUERIES, FOUND, batch_size=size, max_new_tokens=4).generated for size in (64, 3)
    )
    assert whole == cut and len(set(whole or ())) > 1


@pytest.mark.parametrize("case", BESIDE, ids=lambda case: case.id)
def test_what_an_encoder_does_not_read_of_a_target_stands_beside_it(case: Case) -> None:
    """Targets that are texts have a vector: another text, other soft tokens."""
    tokens = []
    for word in ("yes", "not at all"):
        entries = [dataclasses.replace(entry, target=word, full_target=word) for entry in FOUND.store.examples]
        retrieved = Retrieved(Store(tuple(entries)), FOUND.indices, FOUND.scores)
        tokens.append(built(case, lm_of("llama"), WRITE).condition(QUERIES, retrieved).soft_tokens)
    assert tokens[0] is not None and not torch.equal(tokens[0], tokens[1])


def test_queries_alone_take_an_encoder_that_reads_no_text() -> None:
    queries_alone = Case("idpg", "idpg", {"encoder": "tiny-print"})
    assert built(queries_alone, lm_of("llama"), WRITE).condition(["x"], FOUND.rows([0])).soft_tokens is not None


@pytest.mark.parametrize("case", [c for c in METHODS if c.name == "mha-esp"], ids=lambda case: case.id)
def test_attention_is_reported_beside_the_exemplars_as_they_were_given(case: Case) -> None:
    lm = lm_of("llama")
    method, order = built(case, lm), [1, 2, 0]
    given, other = (run(method, lm, SCHEMA, QUERIES, found).attention for found in (FOUND, permuted(FOUND, order)))
    assert given is not None and other is not None
    np.testing.assert_array_equal(given[:, :, order], other)
    np.testing.assert_allclose(given.sum(-1), 1, atol=1e-6)
    assert (given[3, :, 2] == 0).all()  # the exemplar that was not found


@pytest.mark.parametrize("case", [c for c in ALL if c.method().uses_retrieval], ids=lambda case: case.id)
def test_queries_that_retrieve_nothing_are_answered(case: Case) -> None:
    """A search over words may find nothing at all, for one query or for all of a batch."""
    lm = lm_of("llama")
    method = built(case, lm)
    nothing = Retrieved(FOUND.store, np.full_like(FOUND.indices, -1), np.zeros_like(FOUND.scores))
    alone = run(method, lm, SCHEMA, QUERIES, nothing).probabilities
    assert np.isfinite(alone).all()
    some = Retrieved(FOUND.store, np.concatenate((FOUND.indices[:2], nothing.indices[2:])), FOUND.scores)
    beside = run(method, lm, SCHEMA, QUERIES, some).probabilities
    np.testing.assert_allclose(beside[2:], alone[2:], atol=FLOAT32)
    assert not np.allclose(beside[:2], alone[:2], atol=FLOAT32)
