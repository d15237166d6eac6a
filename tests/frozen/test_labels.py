"""Scores of labels: the same whether the labels are read as a tree, in parts, or each for itself."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import pytest
import torch
from tests.frozen import naive
from tests.tiny import ARCHITECTURES, tiny
from torch import Tensor

from coldframe.frozen import label_tree
from coldframe.frozen.label_tree import LabelTree
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import EMPTY, Conditioning, LowRank, Prompt
from coldframe.frozen.prefill import branches

every = pytest.mark.parametrize("architecture", ARCHITECTURES)
# Lengths from 4 to 180 tokens, the longest beyond the sliding window of gemma3_text (128).
PROMPTS = [
    Prompt("Question: CCO\nAnswer:", "Judge it.\n\n", "\n"),
    Prompt("Q", "Judge it.\n\n", "\n"),
    Prompt("Question: " + "C1=CC=CC=C1 and more " * 8 + "\nAnswer:", "Judge it.\n\n", "\n"),
]
WORDS = ["yes", "no", "not at all", "not", "the molecule", "the answer is no", "the answer is yes", "maybe", "10", "1"]
CLOSE: dict[str, Any] = {"atol": 2e-4, "rtol": 0}


@functools.cache
def lm_of(architecture: str) -> FrozenLM:
    return FrozenLM(*tiny(architecture))


def random(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def conditioning_of(lm: FrozenLM, kind: str) -> Conditioning:
    soft = random(0, len(PROMPTS), 4, lm.d_model) * lm.embedding_norm() / lm.d_model**0.5
    gains = 1 + 0.5 * random(1, lm.anatomy.n_layers, lm.anatomy.n_heads)
    n = len(PROMPTS)
    rows = {
        at.name: LowRank(random(2, n, 2, at.d_in) / at.d_in**0.5, 0.3 * random(3, n, at.d_out, 2))
        for at in lm.anatomy.linears()
    }
    return {
        "nothing": EMPTY,
        "contexts": Conditioning(contexts=(("far\n", "near\n"), (), ("only one\n",))),
        "suffix": Conditioning(soft_tokens=soft),
        "prefix": Conditioning(soft_tokens=soft, placement="prefix"),
        "gains": Conditioning(head_gains=gains),
        "row deltas": Conditioning(deltas=rows),
        "all": Conditioning(soft_tokens=soft, head_gains=gains, deltas=rows),
    }[kind]


def one_by_one(lm: FrozenLM, conditioning: Conditioning, words: list[str] = WORDS) -> Tensor:
    return -torch.stack([lm.loss(PROMPTS, [word] * len(PROMPTS), conditioning) for word in words], dim=1)


@every
@pytest.mark.parametrize("kind", ["nothing", "contexts", "suffix", "prefix", "gains", "row deltas", "all"])
def test_labels_at_once_are_labels_one_by_one(architecture: str, kind: str) -> None:
    lm = lm_of(architecture)
    conditioning = conditioning_of(lm, kind)
    with torch.no_grad():
        torch.testing.assert_close(lm.label_scores(PROMPTS, WORDS, conditioning), one_by_one(lm, conditioning), **CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "gemma3_text", "gpt2", "bloom"])
@pytest.mark.parametrize("most", [1, 5, 12, 40])
def test_parts_are_the_whole(architecture: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever fits at a time: rows apart, labels apart, with a gradient (computed again) and without."""
    lm = lm_of(architecture)
    conditioning = conditioning_of(lm, "all")
    soft = conditioning.soft_tokens
    assert soft is not None
    wanted, *wanted_gradients = scored_with_gradients(lm, conditioning)
    monkeypatch.setattr("coldframe.frozen.labels._WITH_GRADIENT", most)
    monkeypatch.setattr(label_tree, "_LOGITS", 2)
    monkeypatch.setattr("coldframe.frozen.backbone._STATE_BATCH_TOKENS", most)
    with torch.no_grad():
        torch.testing.assert_close(lm.label_scores(PROMPTS, WORDS, conditioning), wanted, **CLOSE)
    scores, *gradients = scored_with_gradients(lm, conditioning)
    torch.testing.assert_close(scores, wanted, **CLOSE)
    for got, expected in zip(gradients, wanted_gradients, strict=True):
        assert float(expected.norm()) > 1e-3
        torch.testing.assert_close(got, expected, atol=2e-4, rtol=1e-3)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in lm.model.modules())


def scored_with_gradients(lm: FrozenLM, conditioning: Conditioning) -> list[Tensor]:
    """Scores, and the gradients of their cross-entropy by soft tokens, gains and one delta."""
    name, delta = next(iter(conditioning.deltas.items()))
    assert conditioning.soft_tokens is not None and conditioning.head_gains is not None
    leaves = [x.clone().requires_grad_() for x in (conditioning.soft_tokens, conditioning.head_gains, delta.a, delta.b)]
    put = Conditioning(
        soft_tokens=leaves[0],
        head_gains=leaves[1],
        deltas={**conditioning.deltas, name: LowRank(leaves[2], leaves[3], delta.scale)},
    )
    scores = lm.label_scores(PROMPTS, WORDS, put)
    torch.nn.functional.cross_entropy(scores, torch.tensor([1, 2, 5])).backward()
    return [scores.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text", "gpt2", "bloom"])
def test_gradients_are_those_of_the_labels_one_by_one(architecture: str) -> None:
    lm = lm_of(architecture)
    gradients = []
    for score in (lambda put: lm.label_scores(PROMPTS, WORDS, put), lambda put: one_by_one(lm, put)):
        soft = random(0, 4, lm.d_model).requires_grad_()
        torch.nn.functional.cross_entropy(score(Conditioning(soft_tokens=soft)), torch.tensor([1, 2, 5])).backward()
        gradients.append(soft.grad)
    torch.testing.assert_close(gradients[0], gradients[1], atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("architecture", ["mistral", "phi3", "qwen2"])
def test_a_window_shorter_than_the_text(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    window = {"sliding_window": 20}
    if architecture == "qwen2":
        window |= {"use_sliding_window": True, "max_window_layers": 1}
    far = lm_of(architecture)  # built before the window: models are kept by name
    monkeypatch.setitem(ARCHITECTURES, architecture, {**ARCHITECTURES[architecture], **window})
    lm = FrozenLM(*tiny(architecture))
    with torch.no_grad():
        scores = lm.label_scores(PROMPTS, WORDS)
        torch.testing.assert_close(scores, one_by_one(lm, EMPTY), **CLOSE)
        assert not torch.allclose(scores[2], far.label_scores(PROMPTS, WORDS)[2], atol=0.1)


def test_attention_that_adds_its_mask() -> None:
    model, tokenizer = tiny("llama")
    model.set_attn_implementation("eager")
    lm = FrozenLM(model, tokenizer)
    with torch.no_grad():
        torch.testing.assert_close(
            lm.label_scores(PROMPTS, WORDS), lm_of("llama").label_scores(PROMPTS, WORDS), **CLOSE
        )


def test_only_positions_that_are_counted_by_the_model_need_copies() -> None:
    assert [name for name in ARCHITECTURES if not branches(lm_of(name))] == ["bloom", "falcon-alibi"]


def test_the_tree_of_labels() -> None:
    tree = LabelTree.of(((1,), (1, 0), (1, 0, 4), (2, 3)))  # the root, 1, 1 0, and 2 are where something goes on
    assert tree.nodes == ((1,), (1, 0), (2,))
    assert tree.sees.tolist() == [[True, False, False], [True, True, False], [False, False, True]]
    edges = list(zip(tree.parents.tolist(), tree.targets.tolist(), strict=True))
    assert edges == [(0, 1), (0, 2), (1, 0), (2, 4), (3, 3)]
    assert tree.paths.T.tolist() == [[1, 0, 0, 0, 0], [1, 0, 1, 0, 0], [1, 0, 1, 1, 0], [0, 1, 0, 0, 1]]


def test_the_tree_of_choices_ends_where_labels_part_for_good() -> None:
    labels = ((1, 7, 9), (1, 0, 4, 9), (1, 0, 5, 9), (2, 3, 9))
    (tree,) = LabelTree.of_choices(labels, 10)
    assert tree.nodes == ((1,), (1, 0))  # what follows 2 and 1 7 can only be theirs
    edges = list(zip(tree.parents.tolist(), tree.targets.tolist(), strict=True))
    assert edges == [(0, 1), (0, 2), (1, 0), (1, 7), (2, 4), (2, 5)]
    parts = LabelTree.of_choices(labels, 1)
    assert [part.nodes for part in parts] == [((1,),), ((1,), (1, 0))]
    assert [len(part.targets) for part in parts] == [4, 2]


# ---- choices ----------------------------------------------------------------------------------------------


def naive_choices(lm: FrozenLM, prompt: Prompt, words: list[str]) -> Tensor:
    """Label by label and token by token: ``log p(token | what labels go on with here)``."""
    tokens = [lm.answer_tokens(word, prompt.end) for word in words]
    scores = []
    for label in tokens:
        score = torch.zeros(())
        for i, token in enumerate(label):
            here = sorted({other[i] for other in tokens if other[:i] == label[:i] and len(other) > i})
            ids = torch.tensor([[*naive.tokens_of(lm, prompt), *label[:i]]])
            score = score + lm.logits(ids)[0, -1, here].log_softmax(-1)[here.index(token)]
        scores.append(score)
    return torch.stack(scores)


@pytest.mark.slow
@every
def test_choices_are_those_of_the_equation_and_add_up_to_one(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = lm_of(architecture)
    with torch.no_grad():
        scores = lm.label_scores(PROMPTS, WORDS, choices=True)
        wanted = torch.stack([naive_choices(lm, prompt, WORDS) for prompt in PROMPTS])
    torch.testing.assert_close(scores, wanted, **CLOSE)
    torch.testing.assert_close(scores.exp().sum(-1), torch.ones(len(PROMPTS)), atol=1e-4, rtol=0)
    monkeypatch.setattr("coldframe.frozen.backbone._STATE_BATCH_TOKENS", 1)
    with torch.no_grad():
        torch.testing.assert_close(lm.label_scores(PROMPTS, WORDS, choices=True), scores, **CLOSE)
    single = [lm.label_scores(PROMPTS, ["yes", "no"], choices=choices).softmax(-1) for choices in (True, False)]
    assert torch.equal(*single)


@every
@pytest.mark.parametrize("choices", [True, False])
@pytest.mark.parametrize("kind", ["suffix", "all"])
def test_losses_of_labels_are_those_of_their_scores(architecture: str, choices: bool, kind: str) -> None:
    lm, targets = lm_of(architecture), [1, 2, 5]
    conditioning = conditioning_of(lm, kind)
    values, gradients = [], []
    for direct in (True, False):
        soft = conditioning.soft_tokens.clone().requires_grad_()  # type: ignore[union-attr]
        put = dataclasses.replace(conditioning, soft_tokens=soft)
        if direct:
            losses = lm.label_losses(PROMPTS, WORDS, targets, put, choices=choices)
        else:
            scores = lm.label_scores(PROMPTS, WORDS, put, choices=choices)
            losses = torch.nn.functional.cross_entropy(scores, torch.tensor(targets), reduction="none")
        losses.sum().backward()
        values.append(losses.detach())
        gradients.append(soft.grad)
    torch.testing.assert_close(values[0], values[1], **CLOSE)
    torch.testing.assert_close(gradients[0], gradients[1], atol=2e-4, rtol=1e-3)


def test_a_loss_of_choices_reads_the_right_label_alone() -> None:
    lm, read = FrozenLM(*tiny("llama")), []
    lm.rows(PROMPTS)
    lm.body.register_forward_pre_hook(
        lambda _, __, kwargs: read.append(kwargs["inputs_embeds"].shape), with_kwargs=True
    )
    many = [f"{first} {second}" for first in ("the", "yes", "no", "a", "is") for second in "abcdefghij"]
    lm.label_losses(PROMPTS, many, [0, 17, 49], choices=True)
    assert read[-1][:2] == (len(PROMPTS), 2)  # the first word and the blank, behind which the second word is chosen


# ---- cost -------------------------------------------------------------------------------------------------


def test_the_prompt_is_not_copied_and_logits_exist_for_few_tokens() -> None:
    """However many labels there are."""
    lm, read, written = FrozenLM(*tiny("llama")), [], []
    many = [f"{first} {second}" for first in ("the", "yes", "no", "a", "is") for second in range(30)]
    lm.label_scores(PROMPTS, many)
    lm.body.register_forward_pre_hook(
        lambda _, args, kwargs: read.append(kwargs["inputs_embeds"].shape[:2]), with_kwargs=True
    )
    lm.anatomy.lm_head.register_forward_hook(lambda _, args, output: written.append(output.numel() // output.shape[-1]))
    with torch.no_grad():
        lm.label_scores(PROMPTS, many)
    (shape,) = read
    tokens = [lm.answer_tokens(word, "\n") for word in many]
    inner = {ids[:n] for ids in tokens for n in range(1, len(ids))}
    assert shape == (len(PROMPTS), len(inner))
    assert sum(written) == shape[0] * (shape[1] + 1) and max(written) <= label_tree._LOGITS


@pytest.mark.slow
@pytest.mark.parametrize("words", [["1", "2", "10", "-1"], ["جيد", "سيئ", "لا بأس"], ["😀", "😡", "😐"], ["好", "坏"]])
def test_labels_that_share_their_first_token_can_all_win(words: list[str]) -> None:
    """Of digits, Arabic and emoji the first token is a blank, or the first bytes of all: it tells nothing apart."""
    lm = lm_of("llama")
    starts = {lm.answer_tokens(word)[0] for word in words}
    assert len(starts) == 1, "the case that this test is about"
    scores = lm.label_scores(PROMPTS, words)
    torch.testing.assert_close(scores.softmax(1).sum(1), torch.ones(len(PROMPTS)))
    for target in range(len(words)):
        soft = (random(target, 1, 4, lm.d_model) * lm.embedding_norm() / lm.d_model**0.5).requires_grad_()
        optimizer = torch.optim.Adam([soft], lr=0.05)
        for _ in range(60):
            loss = lm.label_losses(PROMPTS[:1], words, [target], Conditioning(soft_tokens=soft)).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if lm.label_scores(PROMPTS[:1], words, Conditioning(soft_tokens=soft)).argmax().item() == target:
                break
        assert lm.label_scores(PROMPTS[:1], words, Conditioning(soft_tokens=soft)).argmax().item() == target, target
