"""Taking positions over: the model's own angles give the model's own logits, and nothing is left behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.positions.support import CLOSE, ROTARY, random_ids, tiny_lm, with_rope
from tests.tiny import tiny
from torch import Tensor

from coldframe.errors import ModelError
from coldframe.frozen.anatomy import anatomy_of
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.rotary import Heads, Rotary, rotate


def as_before(rotary: Rotary) -> Any:
    frequencies = rotary.frequencies()

    def attend(at: Heads) -> Tensor:
        return at.mixed(rotate(at.q, at.q_at * frequencies[at.layer]), rotate(at.k, at.k_at * frequencies[at.layer]))

    return attend


@pytest.mark.parametrize("architecture", ROTARY)
def test_the_models_own_angles_give_its_own_logits(architecture: str) -> None:
    lm = tiny_lm(architecture)
    rotary, ids = Rotary(lm.anatomy), random_ids(2, 150)  # longer than Gemma's window
    before = lm.logits(ids)
    with rotary.taken_over(as_before(rotary)):
        taken = lm.logits(ids)
    torch.testing.assert_close(taken, before, **CLOSE)
    assert torch.equal(lm.logits(ids), before)


@pytest.mark.parametrize("architecture", ROTARY)
def test_left_padding_changes_nothing(architecture: str) -> None:
    lm = tiny_lm(architecture)
    rotary, ids = Rotary(lm.anatomy), random_ids(1, 20)
    mask = torch.tensor([[0] * 7 + [1] * 13])
    with rotary.taken_over(as_before(rotary)):
        padded = lm.follow(_nothing(lm, mask), lm.embed(ids), mask)[0][:, 7:]
        alone = lm.follow(_nothing(lm, mask[:, 7:]), lm.embed(ids[:, 7:]), mask[:, 7:])[0]
    torch.testing.assert_close(padded, alone, **CLOSE)


def _nothing(lm: FrozenLM, mask: Tensor) -> Any:
    from transformers import DynamicCache

    from coldframe.frozen.states import Prefilled

    return Prefilled(torch.empty(0), DynamicCache(), mask[:, :0], torch.zeros(len(mask), dtype=torch.long))


@pytest.mark.parametrize(
    "parameters",
    [
        {"rope_type": "linear", "factor": 4.0},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    ],
    ids=lambda parameters: parameters["rope_type"],
)
def test_scaled_angles_are_the_models(parameters: dict[str, Any]) -> None:
    model, tokenizer = tiny("llama")
    lm = FrozenLM(with_rope(model, **parameters), tokenizer)
    rotary, ids = Rotary(lm.anatomy), random_ids(2, 60)
    before = lm.logits(ids)
    assert not torch.allclose(before, model(input_ids=ids).logits, atol=1e-2)
    with rotary.taken_over(as_before(rotary)):
        torch.testing.assert_close(lm.logits(ids), before, **CLOSE)


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma3_text", "phi"])
def test_another_base_is_the_checkpoint_with_another_theta(architecture: str) -> None:
    lm = tiny_lm(architecture)
    other = Rotary(anatomy_of(_with_theta_times(lm.model, 3.0)))
    ours = Rotary(lm.anatomy).frequencies([1.0, 3.0])
    for layer, theirs in enumerate(other.frequencies()):
        torch.testing.assert_close(ours[layer][1:], theirs)
        assert not torch.allclose(ours[layer][:1], theirs)


def _with_theta_times(model: Any, factor: float) -> Any:
    parameters = model.config.rope_parameters
    if "rope_theta" in parameters:
        return with_rope(model, rope_theta=parameters["rope_theta"] * factor)
    copied = with_rope(model)  # Gemma 3: a base for each kind of layer
    for kind, one in copied.config.rope_parameters.items():
        one["rope_theta"] = parameters[kind]["rope_theta"] * factor
    return copied


def test_an_error_inside_leaves_nothing_behind() -> None:
    lm, ids = tiny_lm(), random_ids(1, 9)
    before, name = lm.logits(ids), lm.model.config._attn_implementation

    def fail(at: Heads) -> Tensor:
        raise RuntimeError("inside")

    rotary = Rotary(lm.anatomy)
    with pytest.raises(RuntimeError, match="inside"), rotary.taken_over(fail):
        lm.logits(ids)
    assert torch.equal(lm.logits(ids), before)
    assert lm.model.config._attn_implementation == name and not rotary.module._forward_hooks


@pytest.mark.parametrize("architecture", ["gpt2", "opt", "bloom", "falcon-alibi"])
def test_positions_that_are_not_rotary_are_refused(architecture: str) -> None:
    with pytest.raises(ModelError, match="Only rotary positions"):
        Rotary(tiny_lm(architecture).anatomy)


def test_attention_that_cannot_be_replaced_is_refused() -> None:
    with pytest.raises(ModelError, match="falcon model cannot be replaced"):
        Rotary(tiny_lm("falcon").anatomy)


def test_angles_that_depend_on_the_length_are_refused() -> None:
    model, tokenizer = tiny("llama")
    with pytest.raises(ModelError, match="dynamic"):
        Rotary(FrozenLM(with_rope(model, rope_type="dynamic", factor=2.0), tokenizer).anatomy)
