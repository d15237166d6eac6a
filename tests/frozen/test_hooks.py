"""Low-rank updates and head gains as formulas; test_model.py has them inside of models."""

from __future__ import annotations

import pytest
import torch
from tests.tiny import tiny

from coldframe.errors import ConfigError
from coldframe.frozen.anatomy import anatomy_of
from coldframe.frozen.hooks import add_low_rank, backbone_ports, weight_deltas
from coldframe.frozen.ports import Conditioning, LowRank


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_one_update_for_all_rows() -> None:
    x, y, a, b = random(3, 5, 6), random(3, 5, 4, seed=3), random(2, 6, seed=1), random(4, 2, seed=2)
    wanted = y + torch.stack([torch.stack([0.5 * b @ (a @ token) for token in row]) for row in x])
    torch.testing.assert_close(add_low_rank(y, x, LowRank(a, b, 0.5)), wanted)


@pytest.mark.parametrize("flat", [False, True], ids=["rows", "rows laid end to end"])
@pytest.mark.parametrize("copies", [1, 3], ids=["once", "every row for each of three words"])
def test_one_update_for_each_row(flat: bool, copies: int) -> None:
    x, a, b = random(2 * copies, 5, 6), random(2, 2, 6, seed=1), random(2, 4, 2, seed=2)
    y = random(2 * copies, 5, 4, seed=3)
    wanted = y + torch.stack(
        [torch.stack([2.0 * b[i // copies] @ (a[i // copies] @ token) for token in row]) for i, row in enumerate(x)]
    )
    given = (y.reshape(-1, 4), x.reshape(-1, 6)) if flat else (y, x)
    got = add_low_rank(*given, LowRank(a, b, 2.0))
    torch.testing.assert_close(got.reshape(wanted.shape), wanted)


def test_updates_are_computed_in_the_backbones_numbers_and_trained_in_float32() -> None:
    a, b = random(2, 6).requires_grad_(), random(4, 2).requires_grad_()
    out = add_low_rank(random(3, 5, 4).bfloat16(), random(3, 5, 6).bfloat16(), LowRank(a, b))
    out.float().sum().backward()
    assert out.dtype == torch.bfloat16
    assert a.grad is not None and a.grad.dtype == torch.float32


@pytest.mark.parametrize("one_for_all", [False, True], ids=["one for each row", "one for all rows"])
@pytest.mark.parametrize("flat", [False, True], ids=["rows", "rows laid end to end"])
def test_few_tokens_are_computed_in_float32_and_rounded_once(flat: bool, one_for_all: bool) -> None:
    for rows, tokens in ((1, 1), (4, 1), (2, 5)):
        linear = torch.nn.Linear(6, 4, bias=False, dtype=torch.bfloat16).requires_grad_(False)
        x = random(rows, tokens, 6).bfloat16()
        a, b = random(rows, 2, 6), random(rows, 4, 2)
        if one_for_all:
            a, b = a[0], b[0]
        plain = linear(x)
        wanted = (plain.float() + 3 * (x.float() @ a.mT) @ b.mT).bfloat16()
        with torch.no_grad(), weight_deltas(torch.nn.Sequential(linear), {"0": LowRank(a, b, 3.0)}):
            for _ in range(2):  # what is prepared for the first call serves the next, and the base's answer is not kept
                got = linear(x.flatten(0, 1) if flat else x)
                torch.testing.assert_close(got.view_as(wanted), wanted, atol=0, rtol=2**-7)
        torch.testing.assert_close(linear(x), plain, atol=0, rtol=0)


def test_layers_whose_gains_are_all_one_have_no_hook() -> None:
    model, _ = tiny("llama")
    anatomy = anatomy_of(model)
    gains = torch.ones(anatomy.n_layers, anatomy.n_heads)
    gains[1, 2] = 0.5
    with backbone_ports(model, anatomy, Conditioning(head_gains=gains)):
        hooked = [len(anatomy.o_proj(layer)._forward_pre_hooks) for layer in range(anatomy.n_layers)]
    assert hooked == [0, 1, 0]
    with backbone_ports(model, anatomy, Conditioning(head_gains=gains.requires_grad_())):
        hooked = [len(anatomy.o_proj(layer)._forward_pre_hooks) for layer in range(anatomy.n_layers)]
    assert hooked == [1, 1, 1]


def test_gains_near_one_are_not_rounded_away_in_bfloat16() -> None:
    """1.003 is 1 in bf16; multiplied in float32 it still moves the numbers that it can move."""
    model, _ = tiny("llama")
    model.to(torch.bfloat16)
    anatomy = anatomy_of(model)
    seen: list[torch.Tensor] = []
    with backbone_ports(model, anatomy, Conditioning(head_gains=torch.full((3, 4), 1.003))):
        handle = anatomy.o_proj(0).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        model(input_ids=torch.tensor([[5, 6, 7, 8, 9]]))
        handle.remove()
    model_in: list[torch.Tensor] = []
    handle = anatomy.o_proj(0).register_forward_pre_hook(lambda _, args: model_in.append(args[0]))
    model(input_ids=torch.tensor([[5, 6, 7, 8, 9]]))
    handle.remove()
    assert torch.equal(seen[0], (model_in[0].float() * 1.003).bfloat16())
    assert not torch.equal(seen[0], model_in[0])


def test_gradients_reach_gains_and_factors() -> None:
    model, _ = tiny("llama")
    model.requires_grad_(False)
    anatomy = anatomy_of(model)
    gains = torch.ones(3, 4, requires_grad=True)
    at = anatomy.linears("mlp")[0]
    a, b = random(2, at.d_in).requires_grad_(), random(at.d_out, 2, seed=1).requires_grad_()
    with backbone_ports(model, anatomy, Conditioning(head_gains=gains, deltas={at.name: LowRank(a, b, 0.1)})):
        model(input_ids=torch.tensor([[5, 6, 7]])).logits.square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum(-1).all()) for p in (gains, a, b))


def test_nothing_is_left_behind_and_what_does_not_fit_is_told() -> None:
    model, _ = tiny("llama")
    anatomy = anatomy_of(model)
    delta = LowRank(torch.zeros(1, 32), torch.zeros(32, 1))
    wrong = [
        (Conditioning(head_gains=torch.ones(4, 3)), "wrong shape"),
        (Conditioning(head_gains=torch.ones(3, 4), deltas={"model.layers.9.mlp": delta}), "model.layers.9.mlp"),
    ]
    for conditioning, message in wrong:
        with pytest.raises(ConfigError, match=message), backbone_ports(model, anatomy, conditioning):
            raise AssertionError("the block ran")
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
