"""Attention Buckets against as many checkpoints, each loaded with a base of its own."""

from __future__ import annotations

import pytest
import torch
from tests.positions.support import CLOSE, PROMPTS, greedy, prompt_ids, random_ids, reading, tiny_lm, with_rope
from tests.tiny import tiny
from torch import Tensor

from coldframe.errors import ConfigError, ModelError
from coldframe.frozen.model import FrozenLM
from coldframe.methods.positions.attention_buckets import AttentionBucketsConfig

BASES = (10000.0, 40.0, 300.0)  # far apart, so that copies of a short text differ


def mixed(rows: list[Tensor]) -> Tensor:
    """The equation, copy by copy: ``[vocab]``."""
    surest = [float(row.max()) for row in rows]
    total = sum(torch.tensor(one).exp() for one in surest)
    return sum((torch.tensor(one).exp() / total * row for one, row in zip(surest, rows, strict=True)), torch.zeros(()))


def naive_next(lm: FrozenLM, ids: list[int], bases: tuple[float, ...]) -> Tensor:
    copies = [with_rope(lm.model, rope_theta=base) for base in bases]
    return mixed([copy(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1] for copy in copies])


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "mistral", "gemma3_text"])
def test_the_own_base_is_the_base_model(architecture: str) -> None:
    lm, ids = tiny_lm(architecture), random_ids(2, 40)
    torch.testing.assert_close(reading(lm, "attention-buckets", bases=(10000.0,)).logits(ids), lm.logits(ids), **CLOSE)
    # Equal copies: equal weights, and their mean is each of them.
    torch.testing.assert_close(
        reading(lm, "attention-buckets", bases=(10000.0,) * 3).logits(ids), lm.logits(ids), **CLOSE
    )


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "mistral"])
def test_a_copy_is_the_checkpoint_loaded_with_its_base(architecture: str) -> None:
    lm, ids = tiny_lm(architecture), random_ids(2, 40)
    theta = lm.model.config.rope_parameters["rope_theta"]
    wanted = with_rope(lm.model, rope_theta=28000.0)(input_ids=ids).logits
    torch.testing.assert_close(
        reading(lm, "attention-buckets", bases=(28000.0,), reference=theta).logits(ids), wanted, **CLOSE
    )


def test_next_token_logits_are_mixed_by_the_equation() -> None:
    lm = tiny_lm()
    got = reading(lm, "attention-buckets", bases=BASES).next_logits(PROMPTS)
    for row, prompt in zip(got, PROMPTS, strict=True):
        torch.testing.assert_close(row, naive_next(lm, prompt_ids(lm, prompt), BASES), **CLOSE)


@pytest.mark.slow
def test_generation_with_a_cache_is_generation_without() -> None:
    lm = tiny_lm()
    wanted = [greedy(lm, prompt, 10, lambda ids: naive_next(lm, ids, BASES)) for prompt in PROMPTS]
    assert reading(lm, "attention-buckets", bases=BASES).generate(PROMPTS, 10) == wanted


def test_the_ladder_is_scaled_to_the_models_own_base() -> None:
    model, tokenizer = tiny("llama")
    lm, ids = FrozenLM(with_rope(model, rope_theta=500000.0), tokenizer), random_ids(1, 40)
    wanted = with_rope(model, rope_theta=650000.0)(input_ids=ids).logits
    torch.testing.assert_close(reading(lm, "attention-buckets", bases=(13000.0,)).logits(ids), wanted, **CLOSE)


def test_the_model_is_itself_again() -> None:
    lm, ids = tiny_lm(), random_ids(1, 20)
    before = lm.logits(ids)
    reading(lm, "attention-buckets").generate(PROMPTS, 3)
    assert torch.equal(lm.logits(ids), before)


def test_the_published_ladder_is_the_default() -> None:
    assert AttentionBucketsConfig().bases == tuple(float(base) for base in range(10000, 28001, 3000))


def test_bad_input_is_refused() -> None:
    with pytest.raises(ModelError, match="Only rotary positions"):
        reading(tiny_lm("gpt2"), "attention-buckets")
    for settings in ({"bases": ()}, {"bases": (0.0,)}, {"reference": 0.0}):
        with pytest.raises(ConfigError):
            reading(tiny_lm(), "attention-buckets", **settings)
