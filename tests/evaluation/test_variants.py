"""The same questions in several ways: what the passages' weights know, and what controls take away."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from tests.methods.weight_deltas.support import adapters_of, facts, fitted, trained_questions

import coldframe as cf
from coldframe.errors import ConfigError, DataError
from coldframe.evaluation.variants import broken, measure_variants, variants_of
from coldframe.methods.weight_deltas.adapters import mean_cosine
from coldframe.methods.weight_deltas.dyprag import DyPRAG
from coldframe.methods.weight_deltas.passage_adapters import PassageAdapters
from coldframe.methods.weight_deltas.poly_prag import PolyPRAG
from coldframe.methods.weight_deltas.prag import PRAG
from coldframe.pipeline.pipeline import Pipeline

pytest.importorskip("bm25s")
SIX = facts(6)
TRAINED = trained_questions(SIX)


@pytest.fixture(scope="module")
def prag() -> Pipeline:
    return fitted(PRAG(per_step=3, stored="float32"), task=SIX, epochs=40, learning_rate=3e-3)


@pytest.fixture(scope="module")
def poly() -> Pipeline:
    return fitted(PolyPRAG(adapters=3, k=2), task=SIX, epochs=3)


@pytest.fixture(scope="module")
def dyprag() -> Pipeline:
    teacher = {"teacher_learning_rate": 3e-3, "teacher_epochs": 40, "teacher_per_step": 3}
    method = DyPRAG(init_std=0.02, stored="float32", **teacher)
    return fitted(method, task=SIX, epochs=60, learning_rate=3e-3, batch_size=6)


@pytest.mark.slow
def test_the_knowledge_is_in_the_weights(prag: Pipeline) -> None:
    """Questions as they were trained, of a random model that knows nothing: only the right adapter answers."""
    variants = variants_of(prag)
    assert list(variants) == [
        "zero-shot",
        "icl",
        "prag",
        "icl+prag",
        "prag, swapped store",
        "icl+prag, adapters of others",
    ]
    names = ("zero-shot", "prag", "prag, swapped store")
    table = measure_variants({name: variants[name] for name in names}, TRAINED, quiet=True)
    closed, own, swapped = (variant.scores["exact_match"].value for variant in table.variants)
    assert own > 60 and closed < 5 and swapped < 15
    assert table.recall is not None and table.recall > 0.9 and table.n == 18
    assert table.broken is not None and table.broken.value > 70
    assert table.to_dict()["swapping_breaks"]["value"] == table.broken.value
    assert all(variant.seconds > 0 for variant in table.variants)
    # Drawn by the question's text, the adapters of others say as little.
    others = measure_variants({"others": prag.replace(source="others")}, TRAINED, quiet=True)
    assert others.variants[0].scores["exact_match"].value < 15


@pytest.mark.slow
def test_what_swapping_breaks_is_a_share_of_what_was_right(prag: Pipeline) -> None:
    questions = [dataclasses.replace(row, target=f"a{i}", references=()) for i, row in enumerate(SIX.test[:4])]
    some = dataclasses.replace(prag, schema=prag.schema.replace(max_new_tokens=1)).predictions(questions)
    own, swapped = (
        dataclasses.replace(some, generated=answers)
        for answers in (("a0", "it is a1.", "a2", "x"), ("a0", "x", "a9", "a3"))
    )
    share = broken(own, swapped)
    assert share is not None and share.value == pytest.approx(200 / 3) and share.low <= share.value <= share.high
    assert broken(dataclasses.replace(own, generated=("x",) * 4), swapped) is None


@pytest.mark.slow
def test_dyprag_generates_what_answers(dyprag: Pipeline) -> None:
    variants = variants_of(dyprag)
    names = ("zero-shot", "dyprag", "dyprag, swapped store")
    table = measure_variants({name: variants[name] for name in names}, TRAINED, quiet=True)
    closed, own, swapped = (variant.scores["exact_match"].value for variant in table.variants)
    assert own > 60 and closed < 5 and swapped < own - 20
    method = dyprag.method
    assert isinstance(method, PassageAdapters)
    bank, ids = method.adapters, [entry.id for entry in SIX.store or ()]
    assert table.cosine == mean_cosine(bank.layout, adapters_of(dyprag, SIX)) and table.cosine < 0.999
    assert table.to_dict()["adapter_cosine"] == table.cosine
    # Of several passages A and B are averaged, each for itself, unless another way is asked for.
    queries = [ids[:3], ids[3:5], []]
    alone = [bank.layout.factors(bank.adapters(some)) for some in queries]
    for m, (a, b) in enumerate(bank.factors(queries, "auto")):
        for query in (0, 1):
            torch.testing.assert_close(a[query], alone[query][m][0].mean(0))
            torch.testing.assert_close(b[query], alone[query][m][1].mean(0))
        assert not a[2].any() and not b[2].any()
    a, b = bank.factors(queries, "sum")[0]
    updates = [b @ a for a, b in zip(*alone[1][0], strict=True)]
    torch.testing.assert_close(b[1] @ a[1], sum(updates), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_poly_prag_and_its_controls(poly: Pipeline) -> None:
    variants = variants_of(poly)
    controls = ["swapped store", "uniform routing", "random routing"]
    assert list(variants) == [
        "zero-shot",
        "icl",
        "poly-prag",
        "icl+poly-prag",
        *(f"poly-prag, {control}" for control in controls),
        "icl+poly-prag, adapters of others",
    ]
    assert list(variants_of(poly, controls=False)) == list(variants)[:4]
    table = measure_variants(variants, SIX.test, quiet=True)
    assert [variant.name for variant in table.variants] == list(variants) and table.to_dict()["n"] == 24
    assert all({*variant.scores} == {"token_f1", "exact_match", "contains"} for variant in table.variants)
    for combine in ("rows", "sum", "mean", "average-factors", "ties"):
        assert len(poly.replace(combine=combine).predict([row.text for row in SIX.test[:2]])) == 2


@pytest.mark.slow
def test_what_each_variant_puts_in(prag: Pipeline) -> None:
    variants = variants_of(prag.replace(k=2))
    texts = [row.text for row in SIX.test[:3]]
    retrieved = {name: p.retrieve(p.queries(texts)) for name, p in variants.items()}
    filled = {name: p.method.condition(texts, retrieved[name]) for name, p in variants.items()}
    assert filled["zero-shot"].contexts is None and not filled["zero-shot"].deltas
    assert filled["icl"].contexts is not None and not filled["icl"].deltas
    assert filled["prag"].contexts is None and filled["prag"].deltas
    both, others = filled["icl+prag"], filled["icl+prag, adapters of others"]
    assert both.contexts == filled["icl"].contexts == others.contexts
    name = next(iter(both.deltas))
    torch.testing.assert_close(both.deltas[name].b, filled["prag"].deltas[name].b)
    assert not torch.equal(others.deltas[name].b, both.deltas[name].b)
    for row, blocks in enumerate(filled["icl"].contexts):
        shown = [block.rstrip("\n") for block in reversed(blocks[2:])]  # two are solved examples
        assert shown == [entry.text for entry in retrieved["icl"].examples(row)]
    swapped = retrieved["prag, swapped store"]
    for row in range(3):
        own = {entry.id for entry in retrieved["prag"].examples(row)}
        assert len(swapped.examples(row)) == 2 and not own & {entry.id for entry in swapped.examples(row)}


@pytest.mark.slow
def test_answers_do_not_depend_on_the_batch(prag: Pipeline) -> None:
    both = variants_of(prag.replace(k=3))["icl+prag"]
    together = both.predictions(SIX.test)
    alone = [both.predictions([row]).generated for row in SIX.test]
    assert together.generated == tuple(answer for (answer,) in alone if answer is not None)


def test_methods_of_other_ports_have_variants_too() -> None:
    for method, names in (
        (cf.ZeroShot(), ["zero-shot", "icl"]),
        (cf.PromptTuning(tokens=2), ["zero-shot", "icl", "prompt-tuning", "icl+prompt-tuning"]),
    ):
        assert list(variants_of(fitted(method, task=SIX, epochs=1))) == names


def test_bad_input_is_told(prag: Pipeline) -> None:
    with pytest.raises(DataError, match="no question"):
        measure_variants(variants_of(prag), [])
    with pytest.raises(DataError, match="every entry of the store"):
        words = " ".join(entry.text for entry in prag.store.examples)  # so that every passage is found
        for_all = dataclasses.replace(SIX.test[0], text=words)
        measure_variants({"swapped": variants_of(prag.replace(k=6))["prag, swapped store"]}, [for_all])
    labels = dataclasses.replace(
        prag, schema=prag.schema.replace(kind="classification", labels=("a", "b"), words=("a", "b"))
    )
    with pytest.raises(ConfigError, match="Only written answers"):
        measure_variants({"prag": labels}, SIX.test)
