"""LoRA and Prompt Tuning beside peft's: the same logits, gradients and steps of AdamW from the same start."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.contract.cases import STORE, TWO
from tests.tiny import tiny
from torch import Tensor, nn

from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Conditioning
from coldframe.methods.base import Method, prompts
from coldframe.methods.config import MethodContext
from coldframe.methods.registry import method_class
from coldframe.retrieval.store import Retrieved

peft = pytest.importorskip("peft", reason="needs the extra 'train'")

PROMPTS = prompts(TWO, ["is CCO", "x", "is C1=CC=CC=C1 and a longer one the answer"])
ANSWERS = ["yes", "not at all", "no"]
NOTHING = Retrieved.nothing(STORE, len(PROMPTS))
RATE, STEPS = 0.02, 4


def batch_of(lm: FrozenLM) -> dict[str, Tensor]:
    """The rows as peft is given them: right-padded, loss on the answer only."""
    rows, labels = [], []
    for row, prompt, answer in zip(lm.rows(PROMPTS), PROMPTS, ANSWERS, strict=True):
        text, word = list(row.shared + row.own), list(lm.answer_tokens(answer, prompt.end))
        rows.append(text + word)
        labels.append([-100] * len(text) + word)
    longest = max(map(len, rows))
    return {
        "input_ids": torch.tensor([row + [0] * (longest - len(row)) for row in rows]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows]),
        "labels": torch.tensor([row + [-100] * (longest - len(row)) for row in labels]),
    }


def nll(logits: Tensor, labels: Tensor) -> Tensor:
    """Summed over each row's answer, as ours is."""
    logits, labels = logits[:, -labels.shape[1] :][:, :-1], labels[:, 1:]
    each = nn.functional.cross_entropy(logits.transpose(1, 2).float(), labels, reduction="none", ignore_index=-100)
    return each.sum(1)


def conditioning(method: Method) -> Conditioning:
    return method.condition(["" for _ in PROMPTS], NOTHING)


def adamw(parameters: Any) -> torch.optim.AdamW:
    return torch.optim.AdamW(parameters, lr=RATE, weight_decay=0.01)


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2", "phi3", "falcon", "opt"])
def test_lora(architecture: str) -> None:
    model, tokenizer = tiny(architecture)
    lm = FrozenLM(model, tokenizer)
    method = method_class("lora")(rank=3, alpha=12.0).setup(MethodContext(lm, TWO))
    names = [at.name for at in lm.anatomy.linears()]
    theirs = tiny(architecture)[0]
    config = peft.LoraConfig(
        r=3,
        lora_alpha=12.0,
        lora_dropout=0.0,
        target_modules=names,
        task_type="CAUSAL_LM",
        fan_in_fan_out=architecture == "gpt2",
    )
    wrapped = peft.get_peft_model(theirs, config)
    pairs = []
    for i, name in enumerate(names):
        module = wrapped.base_model.model.get_submodule(name)
        a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
        assert (a.shape, b.shape) == (method.a[i].shape, method.b[i].shape)  # type: ignore[index]
        assert not b.any() and not method.b[i].any()  # type: ignore[index]
        bound = 1 / a.shape[1] ** 0.5  # kaiming_uniform with a = sqrt(5)
        assert float(a.detach().abs().max()) <= bound and float(method.a[i].detach().abs().max()) <= bound  # type: ignore[index]
        a.data.copy_(method.a[i].data)  # type: ignore[index]
        pairs += [(method.a[i], a), (method.b[i], b)]  # type: ignore[index]
    ours = sum(p.numel() for p in method.parameters())
    assert ours == wrapped.get_nb_trainable_parameters()[0]

    batch = batch_of(lm)
    labels = batch.pop("labels")
    one, other = adamw(method.parameters()), adamw([p for p in wrapped.parameters() if p.requires_grad])
    for _ in range(STEPS):
        for optimizer in (one, other):
            optimizer.zero_grad()
        loss, wanted = lm.loss(PROMPTS, ANSWERS, conditioning(method)), nll(wrapped(**batch).logits, labels)
        torch.testing.assert_close(loss, wanted, atol=2e-4, rtol=1e-5)
        loss.mean().backward()
        wanted.mean().backward()
        for mine, his in pairs:
            torch.testing.assert_close(mine.grad, his.grad, atol=1e-4, rtol=1e-3)
        one.step()
        other.step()
    # Where a gradient is nearly zero, Adam's sign of it is chance: compare what the weights do, and most of them.
    with torch.no_grad():
        ids = batch["input_ids"][2:]  # the row without pads
        torch.testing.assert_close(
            lm.logits(ids, None, conditioning(method)), wrapped(input_ids=ids).logits, atol=5e-3, rtol=1e-3
        )
    apart = torch.cat([(mine - his).detach().abs().flatten() for mine, his in pairs])
    assert float((apart < 1e-4).float().mean()) > 0.99
    assert any(bool(p.any()) for p in method.b)  # type: ignore[union-attr]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt", "gemma3_text", "gpt_neox"])
def test_prompt_tuning(architecture: str) -> None:
    """peft puts the prompt before everything, BOS included; with a tokenizer that has none this is our prefix."""
    model, tokenizer = tiny(architecture)
    lm = FrozenLM(model, tokenizer)
    lm.bos = ()
    method = method_class("prompt-tuning")(tokens=5, placement="prefix").setup(MethodContext(lm, TWO))
    config = peft.PromptTuningConfig(num_virtual_tokens=5, task_type="CAUSAL_LM", tokenizer_name_or_path=None)
    wrapped = peft.get_peft_model(tiny(architecture)[0], config)
    (prompt,) = (p for p in wrapped.parameters() if p.requires_grad)
    mine: nn.Parameter = method.prompt  # type: ignore[assignment]
    assert prompt.shape == mine.shape
    prompt.data.copy_(mine.data)

    batch = batch_of(lm)
    labels = batch.pop("labels")
    one, other = adamw([mine]), adamw([prompt])
    start = mine.detach().clone()
    for _ in range(STEPS):
        one.zero_grad()
        other.zero_grad()
        loss, wanted = lm.loss(PROMPTS, ANSWERS, conditioning(method)), nll(wrapped(**batch).logits, labels)
        torch.testing.assert_close(loss, wanted, atol=2e-4, rtol=1e-5)
        loss.mean().backward()
        wanted.mean().backward()
        torch.testing.assert_close(mine.grad, prompt.grad, atol=1e-4, rtol=1e-3)
        one.step()
        other.step()
    torch.testing.assert_close(mine, prompt, atol=1e-4, rtol=0)
    assert float((mine.detach() - start).abs().median()) > 0.05
