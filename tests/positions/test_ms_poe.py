"""Ms-PoE against a llama with its equations written out, and against the model at scaled position ids."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.positions.support import (
    CLOSE,
    PROMPTS,
    causal_weights,
    greedy,
    naive_llama,
    prompt_ids,
    random_ids,
    reading,
    tiny_lm,
    turned,
)
from torch import Tensor

from coldframe.errors import ConfigError, ModelError
from coldframe.frozen.model import FrozenLM


class Naive:
    """Head by head from the equation; the ratios of the first text it reads stay."""

    def __init__(self, lm: FrozenLM, assign: str = "rank", keys: str = "own", first_layer: int = 1) -> None:
        self.lm, self.assign, self.keys, self.first_layer = lm, assign, keys, first_layer
        self.ratios: dict[int, list[float]] = {}
        self.scores: dict[int, list[float]] = {}

    def logits(self, ids: list[int]) -> Tensor:
        if not self.ratios:  # layer by layer: the scores of a layer depend on the ratios before it
            for layer in range(self.lm.anatomy.n_layers):
                self.scores = {}
                self._run(ids, upto=layer)
                self.ratios[layer] = self._assigned(layer)
        return self._run(ids, upto=self.lm.anatomy.n_layers)

    def _run(self, ids: list[int], upto: int) -> Tensor:
        groups = self.lm.anatomy.n_heads // self.lm.anatomy.config.num_key_value_heads
        positions = torch.arange(len(ids))

        def attend(layer: int, head: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            last = (q[-1] @ k.T / q.shape[-1] ** 0.5).softmax(-1)
            self.scores.setdefault(layer, []).append(-float((last > 3 * last.mean()).float().mean()))
            ratios = self.ratios[layer] if layer < upto else [1.0] * self.lm.anatomy.n_heads
            of_key = head if self.keys == "own" else head // groups * groups
            return causal_weights(turned(q, positions / ratios[head]), turned(k, positions / ratios[of_key])) @ v

        return naive_llama(self.lm.model, ids, attend)

    def _assigned(self, layer: int) -> list[float]:
        heads = self.lm.anatomy.n_heads
        if layer < self.first_layer:
            return [1.0] * heads
        by_score = sorted(range(heads), key=lambda head: self.scores[layer][head])
        steps = [by_score.index(head) for head in range(heads)] if self.assign == "rank" else by_score
        return [1.2 + 0.6 * step / (heads - 1) for step in steps]


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "mistral", "gemma3_text"])
def test_ratio_one_is_the_base_model(architecture: str) -> None:
    lm, ids = tiny_lm(architecture), random_ids(2, 40)
    scheme = reading(lm, "ms-poe", lowest=1.0, highest=1.0, first_layer=0)
    torch.testing.assert_close(scheme.logits(ids), lm.logits(ids), **CLOSE)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "mistral", "gemma3_text"])
@pytest.mark.parametrize("keys", ["own", "first"])
def test_one_ratio_for_all_is_the_model_at_divided_positions(architecture: str, keys: str) -> None:
    lm, ids = tiny_lm(architecture), random_ids(2, 40)
    scheme = reading(lm, "ms-poe", lowest=1.7, highest=1.7, first_layer=0, keys=keys)
    divided = (torch.arange(40) / 1.7)[None].expand(2, -1)
    wanted = lm.model(input_ids=ids, attention_mask=torch.ones_like(ids), position_ids=divided).logits
    torch.testing.assert_close(scheme.logits(ids), wanted, **CLOSE)
    assert not torch.allclose(wanted, lm.logits(ids), atol=1e-2)


@pytest.mark.parametrize("assign", ["rank", "order"])
@pytest.mark.parametrize("keys", ["own", "first"])
def test_every_head_has_the_ratio_of_the_equation(assign: str, keys: str) -> None:
    lm, ids = tiny_lm(), random_ids(1, 40)
    naive = Naive(lm, assign, keys)
    scheme = reading(lm, "ms-poe", first_layer=1, assign=assign, keys=keys)
    torch.testing.assert_close(scheme.logits(ids)[0], naive.logits(ids[0].tolist()), **CLOSE)
    assert len(set(naive.ratios[2])) == lm.anatomy.n_heads and naive.ratios[0] == [1.0] * lm.anatomy.n_heads


def test_without_layers_it_is_the_base_model() -> None:
    lm, ids = tiny_lm(), random_ids(1, 30)
    torch.testing.assert_close(reading(lm, "ms-poe", first_layer=3).logits(ids), lm.logits(ids), **CLOSE)


def test_a_batch_is_its_rows_one_by_one() -> None:
    scheme = reading(tiny_lm(), "ms-poe", first_layer=0)
    alone = torch.cat([scheme.next_logits([prompt]) for prompt in PROMPTS])
    torch.testing.assert_close(scheme.next_logits(PROMPTS), alone, **CLOSE)


@pytest.mark.slow
def test_generation_keeps_the_ratios_of_its_prompt() -> None:
    lm = tiny_lm()
    scheme, wanted = reading(lm, "ms-poe", first_layer=0), []
    for prompt in PROMPTS:
        naive = Naive(lm, first_layer=0)
        naive.logits(prompt_ids(lm, prompt))
        wanted.append(greedy(lm, prompt, 12, lambda ids, naive=naive: naive.logits(ids)[-1]))  # type: ignore[misc]
    assert scheme.generate(PROMPTS, 12) == wanted
    assert [scheme.generate([prompt], 12)[0] for prompt in PROMPTS] == wanted  # nothing stays from one to the next


def test_the_model_is_itself_again() -> None:
    lm, ids = tiny_lm(), random_ids(1, 20)
    before, weights = lm.logits(ids), lm.weight_hash
    reading(lm, "ms-poe").generate(PROMPTS, 3)
    lm._hash = None
    assert torch.equal(lm.logits(ids), before) and lm.weight_hash == weights


@pytest.mark.parametrize("architecture", ["gpt2", "opt", "bloom"])
def test_models_without_rotary_positions_are_refused(architecture: str) -> None:
    with pytest.raises(ModelError, match="Only rotary positions"):
        reading(tiny_lm(architecture), "ms-poe")


@pytest.mark.parametrize(
    "settings",
    [{"lowest": 0.0}, {"lowest": 2.0}, {"first_layer": -1}, {"outlier": 0.0}, {"keys": "all"}, {"ratio": 1.0}],
    ids=str,
)
def test_bad_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        reading(tiny_lm(), "ms-poe", **settings)
