"""The attention kernel for short queries against sdpa: outputs and gradients, grouped heads, masks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from coldframe.frozen import attention as module
from coldframe.frozen.attention import attention

MASKS = ["causal", "padded", "additive", "one row for all"]


class Layer(nn.Module):
    def __init__(self, groups: int) -> None:
        super().__init__()
        self.num_key_value_groups, self.is_causal = groups, True


def case(groups: int, q: int, s: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(q * 100 + s)

    def random(heads: int, length: int) -> Tensor:
        return torch.randn(3, heads, length, 8, generator=generator).to(dtype).requires_grad_()

    return random(2 * groups, q), random(2, s), random(2, s)


def mask_of(kind: str, q: int, s: int) -> Tensor:
    """Queries are the last columns; ``padded`` hides a different beginning of every row, never all."""
    causal = torch.arange(s)[None, :] <= torch.arange(s - q, s)[:, None]
    hidden = torch.tensor([0, 1, 3]).clamp(max=s - q) if kind == "padded" else torch.zeros(3)
    mask = causal[None, None] & (torch.arange(s)[None, None, None, :] >= hidden[:, None, None, None])
    if kind == "one row for all":
        return mask[:1]
    return torch.zeros(mask.shape).masked_fill(~mask, float("-inf")) if kind == "additive" else mask


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize(("q", "s"), [(1, 9), (4, 12), (7, 7)])
@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("scaling", [None, 0.7])
def test_outputs_and_gradients_are_those_of_sdpa(groups: int, q: int, s: int, kind: str, scaling: float | None) -> None:
    ours, theirs = case(groups, q, s), case(groups, q, s)
    mask = mask_of(kind, q, s)
    got, _ = attention(Layer(groups), *ours, mask, scaling=scaling)
    wanted, _ = sdpa_attention_forward(Layer(groups), *theirs, mask, scaling=scaling)
    torch.testing.assert_close(got, wanted, atol=2e-6, rtol=1e-5)
    weight = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1))
    (got * weight).sum().backward()
    (wanted * weight).sum().backward()
    for ours_, theirs_ in zip(ours, theirs, strict=True):
        assert ours_.grad is not None and theirs_.grad is not None
        torch.testing.assert_close(ours_.grad, theirs_.grad, atol=5e-6, rtol=1e-4)


def test_it_is_really_the_short_kernel_that_was_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "sdpa_attention_forward", None)
    attention(Layer(3), *case(3, 4, 12), mask_of("causal", 4, 12))


def test_bfloat16_agrees_with_exact_numbers_to_its_eight_bits() -> None:
    mask = mask_of("padded", 4, 200)
    inputs = [t.detach() for t in case(3, 4, 200, torch.bfloat16)]
    truth, _ = sdpa_attention_forward(Layer(3), *(t.double() for t in inputs), mask)
    got, _ = attention(Layer(3), inputs[0].requires_grad_(), *inputs[1:], mask)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.double(), truth, atol=2**-7, rtol=2**-7)


def test_columns_beyond_the_keys_in_a_mask_are_ignored_and_hidden_rows_stay_finite() -> None:
    query, key, value = case(3, 4, 12)
    wide = nn.functional.pad(mask_of("causal", 4, 12), (0, 5), value=True)
    got, _ = attention(Layer(3), query, key, value, wide)
    torch.testing.assert_close(got, attention(Layer(3), query, key, value, wide[..., :12])[0])
    nothing = torch.zeros(3, 1, 4, 12, dtype=torch.bool)
    out, _ = attention(Layer(3), query, key, value, nothing)
    out.sum().backward()
    assert torch.isfinite(out).all() and query.grad is not None and torch.isfinite(query.grad).all()


@pytest.mark.parametrize(
    "options",
    [
        {"grad": False},
        {"mask": None},
        {"dropout": 0.1},
        {"long": True},
        {"position_bias": torch.zeros(1, 6, 4, 12)},
    ],
    ids=lambda options: next(iter(options)),
)
def test_everything_else_is_left_to_sdpa(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(
        module, "sdpa_attention_forward", lambda *args, **kwargs: calls.append(kwargs) or ("sdpa", None)
    )
    s = 1100 if options.pop("long", False) else 12
    query, key, value = case(3, 4, s)
    if not options.pop("grad", True):
        query = query.detach()
    mask = options.pop("mask", mask_of("causal", 4, s))
    assert attention(Layer(3), query, key, value, mask, scaling=0.5, is_causal=True, **options)[0] == "sdpa"
    assert calls[0]["scaling"] == 0.5 and calls[0]["is_causal"] is True and options.items() <= calls[0].items()


def test_registering_twice_is_registering_once() -> None:
    from transformers import AttentionInterface

    assert module.register() == module.register() == module.NAME
    assert AttentionInterface()[module.NAME] is attention
