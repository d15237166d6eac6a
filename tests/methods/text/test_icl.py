"""The form of prompts: instruction, solved examples, order; and that what all prompts share is read once."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.contract.cases import FOUND, QUERIES, SCHEMA, STORE, WRITE, corpus, lm_of, task

import coldframe as cf
from coldframe.evaluation.variants import variants_of
from coldframe.frozen import prefill
from coldframe.methods.base import prompts
from coldframe.methods.config import MethodContext
from coldframe.methods.registry import create
from coldframe.methods.text.icl import RetrievedICL
from coldframe.tasks.task import Task

SOLVED = (("what is Q?", "A"), ("what is R?", "B"))


def asked(schema=SCHEMA, **settings) -> RetrievedICL:  # type: ignore[no-untyped-def]
    return RetrievedICL(**settings).setup(MethodContext(lm_of("llama"), schema))


def blocks(row: int, order: str) -> list[str]:
    contexts = asked(k=3, order=order).contexts(QUERIES, FOUND)
    places = [SCHEMA.rendered(entry) for entry in STORE.examples]
    return [places.index(block) for block in contexts[row]]  # type: ignore[misc]


def test_order() -> None:
    assert blocks(0, "nearest-last") == [5, 0, 2]
    assert blocks(0, "nearest-first") == [2, 0, 5]
    assert sorted(blocks(0, "random")) == [0, 2, 5] and sorted(blocks(3, "random")) == [1, 4]
    again = asked(k=3, order="random").contexts(QUERIES, dataclasses.replace(FOUND, indices=FOUND.indices[:, ::-1]))
    assert again == asked(k=3, order="random").contexts(QUERIES, FOUND)


def test_solved_examples_stand_first_and_a_query_never_sees_itself() -> None:
    schema = SCHEMA.replace(solved=SOLVED)
    contexts = asked(schema, k=1).contexts(["what is Q?", "x"], FOUND.rows([0, 1]))
    first, second = (schema.template.exemplar(*pair) for pair in (("what is Q?", "yes"), ("what is R?", "no")))
    assert contexts[0][:-1] == (second,) and contexts[1][:-1] == (first, second)


def test_what_all_prompts_begin_with_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    schema = SCHEMA.replace(solved=[[f"what is {'of this ' * 4}{i}?", "A"] for i in range(2)])
    lm, queries = lm_of("llama", 10**9), ["x y", "is it"]
    method = RetrievedICL(k=1).setup(MethodContext(lm, schema))
    conditioning = method.condition(queries, FOUND.rows([1, 2]))
    rows = lm.rows(prompts(schema, queries), conditioning)
    assert rows[0].shared == rows[1].shared and len(rows[0].shared) > len(rows[0].own)
    together = lm.label_scores(prompts(schema, queries), schema.words, conditioning)
    assert lm.states.get((), rows[0].shared) is not None and lm.states.get(rows[0].shared, rows[0].own) is None
    monkeypatch.setattr(prefill, "_mostly_shared", lambda rows: False)
    whole = lm.label_scores(prompts(schema, queries), schema.words, conditioning)
    torch.testing.assert_close(together, whole, atol=1e-4, rtol=0)


def test_a_short_beginning_is_not_shared() -> None:
    lm = lm_of("llama", 10**9 + 1)
    method = RetrievedICL(k=3).setup(MethodContext(lm, SCHEMA))
    lm.label_scores(prompts(SCHEMA, QUERIES), SCHEMA.words, method.condition(QUERIES, FOUND))
    assert not len(lm.states)


@pytest.mark.slow
def test_instructions_reach_the_prompt_and_the_artifact(tmp_path: Path) -> None:
    for name in ("zero-shot", "icl", "icl-fixed"):
        pipeline = cf.fit(create(name, {"instruction": "Say it."}), lm_of("llama"), task(), out=tmp_path / name)
        assert prompts(pipeline.schema, ["x"])[0].header == "Say it.\n\n"
        again = cf.load(tmp_path / name, lm_of("llama"))
        assert again.schema == pipeline.schema
        np.testing.assert_array_equal(again.predict_proba(QUERIES), pipeline.predict_proba(QUERIES))
    auto = cf.fit(cf.ZeroShot(instruction="auto"), lm_of("llama"), task())
    assert auto.schema.template.instruction == "Answer with one of: yes, no."


def asking_about(names: str = "ab") -> Task:
    """The corpus, with questions about some of its passages only."""
    whole = corpus()
    rows = (*whole.train, *whole.validation)
    ask = tuple(dataclasses.replace(row, id=f"t-{row.id}", text=f"{row.text} now", key=f"t-{row.key}") for row in rows)
    test = tuple(row for row in ask if row.text[8] in names)
    return dataclasses.replace(whole, train=rows, validation=(), test=test)


def test_text_rag_has_solved_examples_where_the_task_has_some(tmp_path: Path) -> None:
    lm, rows = lm_of("llama"), asking_about()
    pipeline = cf.fit(cf.RetrievedICL(k=1), lm, rows, out=tmp_path / "icl")
    assert len(pipeline.schema.solved) == 2
    assert not {"page-0", "page-1"} & {p.id for p in rows.store or () if p.text in str(pipeline.schema.solved)}
    other = cf.fit(cf.RetrievedICL(k=1), lm, rows, seed=1)
    assert other.schema.solved != pipeline.schema.solved
    assert cf.load(tmp_path / "icl", lm).schema.solved == pipeline.schema.solved
    (context,) = pipeline.method.contexts(["answer b"], pipeline.retrieve(pipeline.queries(["answer b"]))) or ((),)
    assert [WRITE.solved_example(entry, 1) for entry in pipeline.schema.solved] == list(context[:2])
    assert cf.fit(cf.RetrievedICL(k=1, solved=0), lm, rows).schema.solved == ()
    keys = {entry[0] for entry in pipeline.schema.solved}
    assert len(keys) == 2 == len(pipeline.trained_keys)  # a test row that stands solved in the prompt is told


def test_rows_stay_out_of_artifacts_that_do_not_show_them(tmp_path: Path) -> None:
    for method in (cf.ZeroShot(), cf.PromptTuning(tokens=1), cf.LoRA(rank=1)):
        assert cf.fit(method, lm_of("llama"), asking_about(), epochs=1, quiet=True).schema.solved == ()


def test_text_beside_adapters_has_them_too() -> None:
    lm, rows = lm_of("llama"), asking_about()
    pipeline = cf.fit(cf.PRAG(rank=2), lm, rows, epochs=1, quiet=True)
    variants = variants_of(pipeline)
    for name in ("icl", "icl+prag"):
        (context,) = variants[name].method.contexts(
            ["answer b"], pipeline.retrieve(pipeline.queries(["answer b"]))
        ) or ((),)
        assert len(context) == 3
    bare = cf.Compose(cf.RetrievedICL(k=1, solved=0, instruction="auto"), cf.PRAG(rank=2))
    schema = bare.schema_for(rows)
    assert schema.solved == () and "using the passage" in schema.template.instruction


def test_a_comparison_has_a_run_for_each_draw() -> None:
    rows, lm = asking_about(), lm_of("llama")
    settings = {"icl": {"k": 1}, "icl-fixed": {"k": 1, "solved": 0}}
    table = cf.compare(
        lm, rows, ["zero-shot", "icl-fixed", "icl"], [0, 1], method_settings=settings, main="icl", ablations=[],
        costs=False, quiet=True,
    )  # fmt: skip
    assert {name: len(runs) for name, runs in table.runs.items()} == {"zero-shot": 1, "icl-fixed": 1, "icl": 2}
    first, second = table.runs["icl"]
    assert first.losses is not None and second.losses is not None and (first.losses != second.losses).any()
