"""How adapters are laid out and combined, against dense updates and peft."""

from __future__ import annotations

import pytest
import torch
from tests.tiny import tiny
from torch import Tensor

from coldframe.errors import ConfigError
from coldframe.frozen.model import FrozenLM
from coldframe.methods.weight_deltas.adapters import Layout, combined, mean_cosine, stacked

LAYOUT = Layout(("one", "two"), ((5, 7), (7, 3)), 2)


def some(n: int, k: int, seed: int = 0) -> Tensor:
    return torch.randn(n, k, LAYOUT.parameters, generator=torch.Generator().manual_seed(seed))


def dense(flat: Tensor, target: int) -> Tensor:
    """dW = B A of one adapter."""
    a, b = LAYOUT.factors(flat)[target]
    return b @ a


def test_layout_of_a_model() -> None:
    lm = FrozenLM(*tiny("llama"))
    layout = Layout.of(lm.anatomy, 2, "mlp")
    assert layout.parameters == 3 * 3 * 2 * (32 + 48)
    start = layout.start(0)
    assert torch.equal(start, layout.start(0)) and not torch.equal(start, layout.start(1))
    for a, b in layout.factors(start):
        assert not b.any() and float(a.abs().max()) <= a.shape[1] ** -0.5  # kaiming_uniform with a = sqrt(5)
    assert [name for name in layout.names] == [linear.name for linear in lm.anatomy.linears("mlp")]


@pytest.mark.parametrize("how", ["sum", "mean", "average-factors"])
def test_combinations_are_their_equations(how: str) -> None:
    flat, present = some(3, 3), torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 0]]).bool()
    for target, (a, b) in enumerate(combined(LAYOUT, flat, present, how)):  # type: ignore[arg-type]
        for query in range(3):
            chosen = [flat[query, i] for i in range(3) if present[query, i]]
            wanted = torch.zeros(LAYOUT.sizes[target][::-1])
            if chosen and how == "average-factors":
                wanted = dense(torch.stack(chosen).mean(0), target)
            elif chosen:
                wanted = sum((dense(one, target) for one in chosen), wanted) / (len(chosen) if how == "mean" else 1)
            torch.testing.assert_close(b[query] @ a[query], wanted, atol=1e-5, rtol=1e-5)


def test_averaging_factors_is_not_the_mean() -> None:
    flat, present = some(1, 2), torch.ones(1, 2, dtype=torch.bool)
    mean, factors = (combined(LAYOUT, flat, present, how)[0] for how in ("mean", "average-factors"))  # type: ignore[arg-type]
    assert float((mean[1] @ mean[0] - factors[1] @ factors[0]).abs().max()) > 0.1


@pytest.mark.parametrize("density", [0.5, 0.2, 1.0])
@pytest.mark.filterwarnings("ignore:The density 1.0 is greater")
def test_ties_is_that_of_peft(density: float) -> None:
    ties = pytest.importorskip("peft.utils.merge_utils").ties
    flat = some(2, 3, seed=5)
    found = combined(LAYOUT, flat, torch.ones(2, 3, dtype=torch.bool), "ties", density)
    for target, pair in enumerate(found):
        for factor in (0, 1):
            for query in range(2):
                tensors = [LAYOUT.factors(one)[target][factor] for one in flat[query]]
                torch.testing.assert_close(pair[factor][query], ties(tensors, torch.ones(3), density))


def test_lists_of_different_length_are_padded() -> None:
    flat, present = stacked([[torch.ones(LAYOUT.parameters)] * 2, []], LAYOUT.parameters)
    assert flat.shape == (2, 2, LAYOUT.parameters) and present.tolist() == [[True, True], [False, False]]
    assert not any(bool((b @ a)[1].any()) for a, b in combined(LAYOUT, flat, present, "sum"))


def test_the_mean_cosine_is_that_of_dense_updates() -> None:
    flat = some(5, 1)[:, 0]
    updates = torch.stack([torch.cat([dense(one, target).flatten() for target in (0, 1)]) for one in flat])
    pairs = [(i, j) for i in range(5) for j in range(5) if i != j]
    wanted = sum(float(torch.cosine_similarity(updates[i], updates[j], dim=0)) for i, j in pairs) / len(pairs)
    assert mean_cosine(LAYOUT, flat) == pytest.approx(wanted, abs=1e-5) and abs(wanted) > 1e-3
    assert mean_cosine(LAYOUT, flat[:1].expand(3, -1)) == pytest.approx(1)
    assert mean_cosine(LAYOUT, torch.zeros(3, LAYOUT.parameters)) == 0
    with pytest.raises(ConfigError, match="takes two adapters"):
        mean_cosine(LAYOUT, flat[:1])


def test_an_unknown_combination_is_told() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'mean'"):
        combined(LAYOUT, some(1, 1), torch.ones(1, 1, dtype=torch.bool), "meann")  # type: ignore[arg-type]
