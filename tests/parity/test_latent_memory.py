"""Latent memory against its equations, one number at a time; and the parameter count that its article states."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.contract.cases import FOUND, METHODS, QUERIES, SCHEMA, STORE, TWO, Case, TinyEncoder, built, lm_of
from tests.parity import reference
from tests.parity.reference import Matrix, Vector
from tests.parity.test_equations import D, Weights, close, conditioned, found
from tests.tiny import tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM

from coldframe.errors import ConfigError
from coldframe.frozen.model import FrozenLM
from coldframe.methods.config import MethodContext
from coldframe.methods.registry import method_class
from coldframe.methods.soft_tokens.latent_memory import LatentMemory
from coldframe.retrieval.store import Retrieved

EXTRA = [
    Case("latent-memory/one", "latent-memory", {"encoder": "tiny", "tokens": 1, "k": 1, "heads": 1}),
    Case("latent-memory/adapter", "latent-memory", {"encoder": "tiny", "tokens": 2, "adapter": 5, "heads": 8, "k": 2}),
]
CASES = [case for case in [*METHODS, *EXTRA] if case.name == "latent-memory"]


def latent_memory(
    w: Weights, text: str, entries: list[Vector], similarities: Vector, slots: Matrix, heads: int
) -> tuple[list[Vector], list[Vector]]:
    """``C_j`` without the added slot, and the attention of slot j to entry i, averaged over heads."""
    width = D // heads
    hidden = [math.tanh(x) for x in reference.linear(*w.layer("ask.0"), w.vector(text))]
    u = reference.linear(*w.layer("ask.2"), hidden)
    keys = [reference.linear(w.held["key.weight"], [0.0] * D, s) for s in entries]
    values = [reference.linear(*w.layer("value"), s) for s in entries]
    tokens, looked = [], []
    for p in slots:
        q = reference.linear(*w.layer("query"), reference.add(p, u))
        joined: Vector = []
        average = [0.0] * len(entries)
        for h in range(heads):
            part = slice(h * width, (h + 1) * width)
            scores = []
            for i in range(len(entries)):
                score = reference.dot(q[part], keys[i][part]) / math.sqrt(width)
                scores.append(score + w.held["slope"][h] * similarities[i])
            a = reference.softmax(scores)
            for c in range(*part.indices(D)):
                joined.append(sum(a[i] * values[i][c] for i in range(len(entries))))
            average = [average[i] + a[i] / heads for i in range(len(entries))]
        tokens.append(reference.linear(*w.layer("output"), joined))
        looked.append(average)
    return tokens, looked


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_the_equations(case: Case) -> None:
    method = built(case, lm_of("llama"))
    assert isinstance(method, LatentMemory)
    w, config = Weights(method), method.config
    slots = w.held["static"] if config.static else w.held["slots"]
    wanted, attention = [], []
    for row, text in enumerate(QUERIES):
        positions = found(row, config.k)
        similarities = [float(s) for s in FOUND.scores[row][: len(positions)]]
        c, a = latent_memory(w, text, [w.exemplar(i) for i in positions], similarities, slots, config.heads)
        wanted.append(w.with_static(c))
        order = np.argsort(positions)  # attention is reported in the canonical order of the set
        attention.append([[slot[i] for i in order] + [0.0] * (config.k - len(positions)) for slot in a])
    got = conditioned(method)
    close(got.soft_tokens, wanted)
    close(got.attention, attention)


class Wide(TinyEncoder):
    """As wide as the article's model."""

    dim = 768


def test_the_articles_setting_has_the_articles_number_of_parameters() -> None:
    config = AutoConfig.for_model("gpt2", n_embd=768, n_layer=1, n_head=12, n_inner=8, vocab_size=300, n_positions=64)
    setting = MethodContext(
        FrozenLM(AutoModelForCausalLM.from_config(config), tiny_tokenizer(), state_budget=0), TWO, Wide()
    )
    counts = {
        name: sum(p.numel() for p in method_class(name)(tokens=16).setup(setting).parameters())
        for name in ("latent-memory", "prompt-tuning")
    }
    assert counts == {"latent-memory": 3_555_076, "prompt-tuning": 12_288}


def test_a_query_without_any_entry_gets_the_static_prompt_and_the_output_bias() -> None:
    method = built(Case("latent-memory", "latent-memory", {"encoder": "tiny", "tokens": 2, "k": 3}), lm_of("llama"))
    assert isinstance(method, LatentMemory) and method.static is not None
    nobody = Retrieved(STORE, np.array([[2, 0, 5], [-1, -1, -1]]), np.array([[0.9, 0.5, 0.4], [0, 0, 0]], np.float32))
    got = method.condition(QUERIES[:2], nobody)
    assert got.soft_tokens is not None
    torch.testing.assert_close(got.soft_tokens[1], method.static + method.output.bias)
    got.soft_tokens.sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in method.parameters() if p.grad is not None)


def test_heads_that_do_not_divide_the_width_are_told() -> None:
    with pytest.raises(ConfigError, match="width"):
        LatentMemory(encoder="tiny", heads=5).setup(MethodContext(lm_of("llama"), SCHEMA, TinyEncoder()))
