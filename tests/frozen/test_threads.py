"""One model, several threads: each has its own answer, and nobody's changes reach what is kept for all."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier
from typing import Any

import pytest
import torch
from tests.tiny import tiny
from torch import Tensor

from coldframe.frozen.hooks import weight_deltas
from coldframe.frozen.locks import lock_of
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import EMPTY, Conditioning, LowRank, Prompt

WORDS = ["yes", "no", "not at all"]
THREADS, TURNS = 4, 12


def prompts_of(thread: int, turn: int) -> list[Prompt]:
    """New ones at every turn, some of them asked by all threads."""
    return [Prompt(f"Question {turn}: {who}\nAnswer:", "Judge it.", "\n") for who in ("all", f"thread {thread}", "CCO")]


def conditioning_of(lm: FrozenLM, kind: str, thread: int) -> Conditioning:
    generator = torch.Generator().manual_seed(thread)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    if kind == "gains":
        return Conditioning(head_gains=1 + random(lm.anatomy.n_layers, lm.anatomy.n_heads))
    deltas = {at.name: LowRank(random(2, at.d_in) / at.d_in**0.5, random(at.d_out, 2)) for at in lm.anatomy.linears()}
    return Conditioning(deltas=deltas)


@torch.no_grad()
def answers(lm: FrozenLM, thread: int, turn: int, conditioning: Conditioning) -> list[Any]:
    prompts = prompts_of(thread, turn)
    scores = lm.label_scores(prompts, WORDS, conditioning)
    losses, texts = lm.answer(prompts, [["yes"]] * 3, conditioning, max_new_tokens=3)
    return [scores, losses, texts]


def at_once(jobs: list[Callable[[], Any]]) -> list[Any]:
    """Each in a thread of its own, all from the same moment."""
    barrier = Barrier(len(jobs))

    def run(job: Callable[[], Any]) -> Any:
        barrier.wait()
        return job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        return [future.result() for future in [pool.submit(run, job) for job in jobs]]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["deltas", "gains", "deltas beside zero-shot"])
def test_every_thread_has_its_own_answer(kind: str) -> None:
    lm, alone = (FrozenLM(*tiny("llama")) for _ in range(2))
    puts = [conditioning_of(lm, kind.split()[0], thread) for thread in range(THREADS)]
    if "beside" in kind:
        puts[::2] = [EMPTY, EMPTY]

    def job(thread: int) -> Callable[[], list[Any]]:
        return lambda: [answers(lm, thread, turn, puts[thread]) for turn in range(TURNS)]

    answered = at_once([job(thread) for thread in range(THREADS)])
    for thread, turns in enumerate(answered):
        for turn, (scores, losses, texts) in enumerate(turns):
            wanted_scores, wanted_losses, wanted_texts = answers(alone, thread, turn, puts[thread])
            torch.testing.assert_close(scores, wanted_scores, atol=1e-4, rtol=0)
            torch.testing.assert_close(losses, wanted_losses, atol=1e-4, rtol=0)
            assert texts == wanted_texts
    again, fresh = (
        answers(model, thread, turn, EMPTY)[0] for model in (lm, FrozenLM(*tiny("llama"))) for thread, turn in [(0, 0)]
    )
    torch.testing.assert_close(again, fresh, atol=1e-4, rtol=0)  # what is kept is the base model's own
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in lm.model.modules())


@pytest.mark.slow
def test_states_are_read_by_the_base_model_while_others_change_it() -> None:
    lm, alone = (FrozenLM(*tiny("llama")) for _ in range(2))
    put = conditioning_of(lm, "gains", 0)
    texts = [lm.rows(prompts_of(1, turn)) for turn in range(4 * TURNS)]
    jobs: list[Callable[[], Any]] = [lambda: [lm.text_states(rows) for rows in texts]]
    jobs += [lambda: [lm.logits(torch.tensor([[5, 6, 7]]), None, put) for _ in texts]] * (THREADS - 1)
    states = at_once(jobs)[0]
    for rows, found in zip(texts, states, strict=True):
        for ours, theirs in zip(found, alone.text_states(rows), strict=True):
            torch.testing.assert_close(ours.kv, theirs.kv, atol=1e-4, rtol=0)
    assert lm.states.used == alone.states.used == sum(state.nbytes for state in lm.states._states.values())


@pytest.mark.slow
def test_updates_of_any_model_hold_for_the_thread_that_made_them() -> None:
    """As of an encoder that is tuned: whoever runs it holds its lock."""
    linear = torch.nn.Sequential(torch.nn.Linear(64, 64, bias=False).requires_grad_(False))
    x = torch.randn(256, 64)

    @torch.no_grad()
    def run(scale: float) -> Tensor:
        delta = {"0": LowRank(torch.full((1, 64), scale), torch.ones(64, 1))}
        outputs = []
        for _ in range(200):
            with weight_deltas(linear, delta if scale else {}), lock_of(linear):
                outputs.append(linear(x))
        return torch.stack(outputs)

    scales = (0.0, 1.0, 2.0, 3.0)
    for scale, outputs in zip(scales, at_once([partial(run, scale) for scale in scales]), strict=True):
        with torch.no_grad():
            wanted = linear(x) + (x * scale).sum(-1, keepdim=True)
        torch.testing.assert_close(outputs, wanted.expand_as(outputs), atol=1e-3, rtol=1e-4)


def test_a_model_has_one_lock_whoever_wraps_it() -> None:
    model, tokenizer = tiny("llama")
    assert lock_of(FrozenLM(model, tokenizer).model) is lock_of(FrozenLM(model, tokenizer).anatomy.model)
    assert lock_of(model) is not lock_of(tiny("llama")[0])
