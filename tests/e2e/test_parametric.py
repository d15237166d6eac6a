"""Passages in the weights of a real model: its answers come out of them, and peft says the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import coldframe as cf
from coldframe.errors import ColdframeError
from coldframe.evaluation.variants import measure_variants, variants_of
from coldframe.frozen.ports import Conditioning
from coldframe.methods.base import prompts
from coldframe.methods.weight_deltas.passage_sequences import questions_by_passage

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(("method", "training"), [(cf.PRAG, {}), (cf.PolyPRAG, {"epochs": 30})], ids=lambda v: str(v))
def test_adapters_answer_and_say_the_same_in_peft(method: Any, training: dict[str, Any], tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    pytest.importorskip("bm25s")
    try:
        lm = cf.load_lm("smollm2", dtype="float32")
    except ColdframeError as error:
        if "package index" in str(error):
            pytest.skip(f"the package index cannot be reached: {error}")
        raise
    settings = {"adapters": 3} if method is cf.PolyPRAG else {}
    task = cf.load_task("fact-corpus:4:2")
    pipeline = cf.fit(method(stored="float32", **settings), lm, task, training=training, quiet=True)
    trained = [question for listed in questions_by_passage(task).values() for question in listed]
    variants = variants_of(pipeline, controls=False)
    table = measure_variants({name: variants[name] for name in ("zero-shot", method.name)}, trained, quiet=True)
    closed, own = table.variants
    assert closed.scores["contains"].value < 20 and own.scores["contains"].value > 70

    question = trained[0]
    pipeline.export(tmp_path / "lora", entries=question.gold)
    (row,) = lm.rows(prompts(task.schema, [question.text]))
    ids, bank = torch.tensor([row.shared + row.own]), pipeline.method.adapters
    deltas = bank.layout.deltas(bank.factors([question.gold], "auto"), bank.scale)
    with torch.no_grad():
        ours, base = lm.logits(ids, None, Conditioning(deltas=deltas)), lm.logits(ids)
    (answer,) = pipeline.predict([question.text])
    wrapped = peft.PeftModel.from_pretrained(lm.model, str(tmp_path / "lora")).eval()
    with torch.no_grad():
        theirs = wrapped(input_ids=ids).logits
        written = wrapped.generate(input_ids=ids, max_new_tokens=20, do_sample=False)[0, ids.shape[1] :]
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-4)
    assert float((ours - base).abs().max()) > 1
    assert answer == lm.decode(written.tolist()).partition("\n")[0].strip()
