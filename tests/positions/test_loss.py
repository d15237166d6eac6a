"""The loss of given answers under other positions: the logits' own, whatever is padded beside them."""

from __future__ import annotations

import pytest
import torch
from tests.positions.support import PROMPTS, tiny_lm

from coldframe.methods.positions.attention_buckets import AttentionBuckets
from coldframe.methods.positions.moice import MoICE
from coldframe.methods.positions.ms_poe import MsPoE
from coldframe.methods.positions.scheme import PositionScheme


@torch.no_grad()
@pytest.mark.parametrize("made", [AttentionBuckets, MoICE])
def test_a_loss_is_that_of_all_logits(made: type[PositionScheme]) -> None:
    lm = tiny_lm()
    scheme = made(lm)
    answers = ["yes", "no molecule is", "the"][: len(PROMPTS)]
    losses = scheme.loss(PROMPTS[:3], answers)
    for prompt, answer, loss in zip(PROMPTS, answers, losses.tolist(), strict=False):
        start, gold = [*lm.bos, *lm.tokenize(prompt)], lm.answer_tokens(answer)
        rows = scheme.logits(torch.tensor([[*start, *gold]]))[0].log_softmax(-1)
        wanted = -sum(float(rows[len(start) - 1 + i, token]) for i, token in enumerate(gold))
        assert loss == pytest.approx(wanted, abs=2e-3)


def test_the_loss_of_one_token_is_that_of_the_next() -> None:
    lm = tiny_lm()
    scheme = MsPoE(lm, first_layer=0)
    rows = scheme.next_logits(PROMPTS).log_softmax(-1)
    [token] = lm.answer_tokens("yes")
    losses = scheme.loss(PROMPTS, ["yes"] * len(PROMPTS))
    assert torch.allclose(losses, -rows[:, token], atol=1e-4)
    assert bool((scheme.loss(PROMPTS, ["yes no"] * len(PROMPTS)) > losses).all())
