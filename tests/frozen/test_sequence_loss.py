"""The mean loss of counted tokens, against one sequence at a time and the model's own logits."""

from __future__ import annotations

import pytest
import torch
from tests.tiny import ARCHITECTURES, tiny

from coldframe.frozen import sequence_loss
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import EMPTY, Conditioning, LowRank
from coldframe.frozen.sequence_loss import TokenSequence, mean_nll

SEQUENCES = [
    TokenSequence((1, 20, 30, 40, 50, 60), 4),
    TokenSequence((1, 21, 31), 1),
    TokenSequence((1, 22, 32, 42, 52, 62, 72, 82), 0),
]


def naive(lm: FrozenLM, one: TokenSequence, conditioning: Conditioning = EMPTY) -> torch.Tensor:
    """-1/T sum_t log p(x_t | x_<t), one sequence without pads."""
    logits = lm.logits(torch.tensor([one.ids]), None, conditioning)[0].float().log_softmax(-1)
    first = max(one.start, 1)
    return -torch.stack([logits[t - 1, one.ids[t]] for t in range(first, len(one))]).mean()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_batch_is_one_by_one(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequence_loss, "CHUNK", 3)
    lm = FrozenLM(*tiny(architecture))
    found = mean_nll(lm, SEQUENCES, EMPTY)
    torch.testing.assert_close(found, torch.stack([naive(lm, one) for one in SEQUENCES]), atol=1e-4, rtol=1e-4)


def test_each_row_has_its_own_delta_and_its_own_gradient() -> None:
    lm = FrozenLM(*tiny("llama"))
    linear = lm.anatomy.linears("mlp")[1]
    a = torch.randn(3, 2, linear.d_in) * 0.1
    b = (torch.randn(3, linear.d_out, 2) * 0.1).requires_grad_()
    mean_nll(lm, SEQUENCES, Conditioning(deltas={linear.name: LowRank(a, b, 2.0)})).sum().backward()
    for row, one in enumerate(SEQUENCES):
        own = b.detach()[row].clone().requires_grad_()
        naive(lm, one, Conditioning(deltas={linear.name: LowRank(a[row], own, 2.0)})).backward()
        torch.testing.assert_close(b.grad[row], own.grad, atol=1e-5, rtol=1e-3)  # type: ignore[index]
