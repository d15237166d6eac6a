"""The proxy task: what is drawn, what is scored, what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from tests.methods.head_gains.planted import planted, tokenizer
from tests.tiny import ARCHITECTURES, tiny

from coldframe.errors import ConfigError, ModelError
from coldframe.frozen.model import FrozenLM
from coldframe.methods.head_gains.config import Bos
from coldframe.methods.head_gains.proxy import ProxyTask, centred_logit


def test_sequences_are_random_tokens_repeated_once(lm: FrozenLM) -> None:
    ids = ProxyTask(lm).sequences(50, 12, 0)
    assert ids.shape == (50, 24)
    assert torch.equal(ids[:, :12], ids[:, 12:])
    assert set(ids.flatten().tolist()) == set(range(3, 63))  # all words, no special token


def test_the_same_stream_gives_the_same_sequences_whatever_came_before(lm: FrozenLM) -> None:
    task, other = ProxyTask(lm, seed=4), ProxyTask(lm, seed=4)
    task.sequences(3, 5, 1)
    assert torch.equal(task.sequences(7, 8, 2, 9), other.sequences(7, 8, 2, 9))
    for different in (other.sequences(7, 8, 2, 10), ProxyTask(lm, seed=5).sequences(7, 8, 2, 9)):
        assert not torch.equal(task.sequences(7, 8, 2, 9), different)


def test_bos_stands_first_and_is_drawn_nowhere(lm: FrozenLM) -> None:
    task = ProxyTask(lm, bos="always")
    ids = task.sequences(20, 6, 0)
    assert ids.shape == (20, 13) and set(ids[:, 0].tolist()) == {1}
    assert torch.equal(ids[:, 1:7], ids[:, 7:]) and 1 not in ids[:, 1:]


def test_rows_of_the_embedding_without_a_token_are_never_drawn() -> None:
    model, tokens = planted()
    model.resize_token_embeddings(80)
    assert ProxyTask(FrozenLM(model, tokens)).sequences(50, 12, 0).max() == 62


def test_bos_is_there_by_default_if_the_tokenizer_puts_it_before_every_text(
    lm: FrozenLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lm.bos == () and torch.equal(ProxyTask(lm).sequences(3, 6), ProxyTask(lm, "never").sequences(3, 6))
    monkeypatch.setattr(lm, "bos", (1,))
    assert torch.equal(ProxyTask(lm).sequences(3, 6), ProxyTask(lm, "always").sequences(3, 6))
    assert ProxyTask(lm, "never").sequences(3, 6).shape == (3, 12)


@pytest.mark.parametrize("bos", ["never", "always"])
def test_the_loss_is_of_the_copy_without_its_first_token(lm: FrozenLM, bos: Bos) -> None:
    task = ProxyTask(lm, bos)
    ids = task.sequences(4, 7, 0)
    probabilities = lm.logits(ids).log_softmax(-1)
    places = [int(bos == "always") + 7 + i for i in range(6)]  # they read the copy's tokens 1 to 6 and foretell 2 to 7
    wanted = [-float(probabilities[row, at, ids[row, at + 1]]) for row in range(4) for at in places]
    assert float(task.copy_losses(ids).mean()) == pytest.approx(math.fsum(wanted) / len(wanted), abs=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_centred_logit_is_that_of_the_models_own_logits(architecture: str) -> None:
    """With a bias of the output layer (phi), a soft cap (gemma3) and a projection (opt)."""
    model, tokens = tiny(architecture)
    lm = FrozenLM(model, tokens)
    ids = ProxyTask(lm, "never").sequences(3, 6, 0)
    hidden = lm.body(inputs_embeds=lm.embed(ids)).last_hidden_state
    logits, targets = lm.logits(ids), ids[:, 0]
    wanted = logits.gather(-1, targets[:, None, None].expand(-1, 12, 1)).squeeze(-1) - logits.mean(-1)
    torch.testing.assert_close(centred_logit(lm, hidden.transpose(0, 1), targets).T, wanted, atol=1e-5, rtol=0)


def test_a_soft_cap_is_computed_in_float32_from_bfloat16_weights() -> None:
    model, tokens = tiny("gemma3_text")
    exact = FrozenLM(model.bfloat16().float(), tokens)
    hidden, targets = torch.randn(5, 32, generator=torch.Generator().manual_seed(0)), torch.arange(5, 10)
    wanted = centred_logit(exact, hidden, targets)
    coarse = FrozenLM(model.bfloat16(), tokens)
    torch.testing.assert_close(centred_logit(coarse, hidden, targets), wanted, atol=1e-6, rtol=0)
    assert coarse.dtype == torch.bfloat16


def test_what_cannot_be_drawn_is_told(lm: FrozenLM) -> None:
    with pytest.raises(ModelError, match=r"vocabulary is too small.*60 tokens.*n = 16.*Make the sequences shorter"):
        ProxyTask(lm).sequences(2, 16, 0)
    with pytest.raises(ConfigError, match=r"longer than the model's context.*65 tokens.*at most 64"):
        ProxyTask(lm, "always").check(32)
    model, _ = planted()
    without = tokenizer()
    without.bos_token = None
    with pytest.raises(ConfigError, match="no BOS"):
        ProxyTask(FrozenLM(model, without), "always")
