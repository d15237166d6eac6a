"""Passages in the weights of a real model: its answers come out of them, and peft says the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from coldframe.parametric.encode import encode
from coldframe.parametric.encoded import Encoded
from coldframe.parametric.evaluate import evaluate
from coldframe.parametric.settings import AskConfig
from coldframe.tasks.corpus import Question
from coldframe.tasks.fact_corpus import fact_corpus

import coldframe
from coldframe.errors import ColdframeError
from coldframe.frozen.ports import Conditioning
from coldframe.methods.weight_deltas.poly_prag import PolyPRAGConfig
from coldframe.methods.weight_deltas.prag import PRAGConfig

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("config", [PRAGConfig(), PolyPRAGConfig(adapters=3, epochs=30)], ids=["prag", "poly-prag"])
def test_adapters_answer_and_say_the_same_in_peft(config: PRAGConfig | PolyPRAGConfig, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    pytest.importorskip("bm25s")
    try:
        lm = coldframe.load_lm("smollm2", dtype="float32")
    except ColdframeError as error:
        if "package index" in str(error):
            pytest.skip(f"the package index cannot be reached: {error}")
        raise
    corpus = fact_corpus(4, seed=2).corpus
    encode(corpus, lm, config, tmp_path / "facts", stored="float32", quiet=True)
    encoded = Encoded.load(tmp_path / "facts", lm)
    trained = [
        Question.of(qa.question, [qa.answer], [passage.id])
        for passage in corpus.passages
        for qa in corpus.given[passage.id].qa
    ]
    alone = AskConfig(k=1, max_new_tokens=12)
    closed, own = evaluate(encoded, trained, [alone.replace(mode="closed-book"), alone], quiet=True).ways
    assert closed.scores["contains"].value < 20 and own.scores["contains"].value > 70

    passage = corpus.passages[0]
    encoded.export([passage.id], tmp_path / "lora")
    prompt = encoded.prompts.prompt(trained[0].text)
    ids = torch.tensor([lm.bos + lm.tokenize(prompt.header) + lm.tokenize(prompt.query)])
    deltas = encoded.bank.layout.deltas(encoded.bank.factors([[passage.id]], "auto"), encoded.bank.scale)
    with torch.no_grad():
        ours, base = lm.logits(ids, None, Conditioning(deltas=deltas)), lm.logits(ids)
    said = encoded.answer(trained[:1], alone).generated
    wrapped = peft.PeftModel.from_pretrained(lm.model, str(tmp_path / "lora")).eval()
    with torch.no_grad():
        theirs = wrapped(input_ids=ids).logits
        written = wrapped.generate(input_ids=ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-4)
    assert float((ours - base).abs().max()) > 1
    assert said == (lm.decode(written.tolist()).partition("\n")[0].strip(),)
