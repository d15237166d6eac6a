"""Losses, scores of labels and what is written under other positions: the logits' own, whatever is beside them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.positions.support import PROMPTS, reading, tiny_lm

from coldframe.errors import ConfigError
from coldframe.frozen import label_tree
from coldframe.frozen.ports import Conditioning, Prompt

FAR: dict[str, dict[str, Any]] = {
    "ms-poe": {"first_layer": 0},
    "attention-buckets": {"bases": [10000.0, 40.0, 300.0]},
    "moice": {"bases": [10000.0, 40.0, 300.0], "top_k": 2},
}
WORDS = ["yes", "no", "no molecule is", "the answer", "the"]
every = pytest.mark.parametrize("name", FAR)


@torch.no_grad()
@every
def test_a_loss_is_that_of_all_logits(name: str) -> None:
    """Ms-PoE looks at a prompt's end to choose its scales, so there only the first token is the same."""
    lm = tiny_lm()
    scheme = reading(lm, name, **FAR[name])
    answers = ["yes", "the", "no"] if name == "ms-poe" else ["yes", "no molecule is", "the"]
    prompts = [Prompt(text) for text in PROMPTS]
    losses = lm.losses(prompts, [[answer, "not at all"] for answer in answers], scheme.put(3))
    torch.testing.assert_close(losses[:, 0], lm.loss(prompts, answers, scheme.put(3)), atol=1e-4, rtol=0)
    both, written = lm.answer(prompts, [[answer, "not at all"] for answer in answers], scheme.put(3), max_new_tokens=4)
    torch.testing.assert_close(both, losses, atol=1e-4, rtol=0)
    assert written == [text.lstrip() for text in lm.generate(prompts, scheme.put(3), max_new_tokens=4)]
    if name == "ms-poe":
        first = scheme.next_logits(PROMPTS).log_softmax(-1)
        wanted = [-first[row, lm.answer_tokens(answer)[0]] for row, answer in enumerate(answers)]
        torch.testing.assert_close(losses[:, 0], torch.stack(wanted), atol=1e-4, rtol=0)
        return
    for prompt, answer, loss in zip(PROMPTS, answers, losses[:, 0].tolist(), strict=True):
        start, gold = [*lm.bos, *lm.tokenize(prompt)], lm.answer_tokens(answer)
        rows = scheme.logits(torch.tensor([[*start, *gold]]))[0].log_softmax(-1)
        wanted_loss = -sum(float(rows[len(start) - 1 + i, token]) for i, token in enumerate(gold))
        assert loss == pytest.approx(wanted_loss, abs=2e-3)


@torch.no_grad()
@every
@pytest.mark.parametrize("most", [4096, 1])
def test_scores_of_labels_are_their_losses(name: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coldframe.frozen.backbone._STATE_BATCH_TOKENS", most)
    monkeypatch.setattr(label_tree, "_LOGITS", 4)
    lm = tiny_lm()
    scheme = reading(lm, name, **FAR[name])
    prompts = [Prompt(text, end="\n") for text in PROMPTS]
    scores = lm.label_scores(prompts, WORDS, scheme.put(3))
    losses = lm.losses(prompts, [WORDS] * 3, scheme.put(3))
    torch.testing.assert_close(scores, -losses, atol=2e-4, rtol=0)
    choices = lm.label_scores(prompts, WORDS, scheme.put(3), choices=True)
    torch.testing.assert_close(choices.exp().sum(-1), torch.ones(3), atol=1e-4, rtol=0)
    of_choices = lm.label_losses(prompts, WORDS, [0, 2, 3], scheme.put(3), choices=True)
    torch.testing.assert_close(of_choices, -choices[[0, 1, 2], [0, 2, 3]], atol=2e-4, rtol=0)
    single = lm.label_scores(prompts, ["yes", "the"], scheme.put(3)).log_softmax(-1)
    first = scheme.next_logits(PROMPTS)[:, [lm.answer_tokens(word)[0] for word in ("yes", "the")]]
    torch.testing.assert_close(single, first.log_softmax(-1), atol=1e-4, rtol=0)
    assert not torch.allclose(scores, lm.label_scores(prompts, WORDS), atol=1e-2)
    assert len(lm.states) == 3 + bool(lm.bos)  # the base model's, and none of those under other positions


@torch.no_grad()
@every
def test_other_ports_may_be_filled_beside(name: str) -> None:
    lm = tiny_lm()
    scheme, prompts = reading(lm, name, **FAR[name]), [Prompt(text) for text in PROMPTS]
    soft = torch.randn(3, 2, lm.d_model, generator=torch.Generator().manual_seed(0))
    gains = torch.full((lm.anatomy.n_layers, lm.anatomy.n_heads), 0.5)
    scores = []
    for other in (Conditioning(), Conditioning(soft_tokens=soft), Conditioning(head_gains=gains)):
        together = scheme.put(3).merge(other)
        scores.append(lm.label_scores(prompts, ["yes", "no"], together))
        singly = [
            lm.label_scores([prompt], ["yes", "no"], scheme.put().merge(Conditioning(soft_tokens=row, head_gains=g)))
            for prompt, row, g in zip(
                prompts,
                [None] * 3 if other.soft_tokens is None else soft.unsqueeze(1),
                [other.head_gains] * 3,
                strict=True,
            )
        ]
        torch.testing.assert_close(torch.cat(singly), scores[-1], atol=1e-4, rtol=0)
    assert all(not torch.allclose(scores[0], other, atol=1e-2) for other in scores[1:])
    with pytest.raises(ConfigError, match="'positions'"):
        scheme.put().merge(scheme.put())
