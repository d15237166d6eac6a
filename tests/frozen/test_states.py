"""The cache of text states and how batches are put together from it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tiny import tiny
from torch import Tensor
from transformers import DynamicCache

from coldframe.errors import ConfigError
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Prompt
from coldframe.frozen.states import Row, StateCache, TextState, assemble, split


def state(tokens: int, seed: int = 0) -> TextState:
    generator = torch.Generator().manual_seed(seed)
    return TextState(torch.randn(3, 2, 2, tokens, 4, generator=generator), torch.randn(8, generator=generator))


@settings(deadline=None)
@given(shared=st.integers(0, 5), lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_what_is_split_from_a_batch_is_what_it_was_assembled_from(shared: int, lengths: list[int]) -> None:
    head = state(shared, 99) if shared else None
    states = [state(n, seed) for seed, n in enumerate(lengths)]
    ready = assemble(head, states)
    longest = shared + max(lengths)
    assert ready.lengths.tolist() == [shared + n for n in lengths]
    assert ready.mask.tolist() == [[0] * (longest - shared - n) + [1] * (shared + n) for n in lengths]
    assert torch.equal(ready.last, torch.stack([s.last for s in states]))
    assert ready.cache is not None
    for layer, (keys, values, _) in enumerate(ready.cache):
        for kind, found in enumerate((keys, values)):
            for row, (n, own) in enumerate(zip(lengths, states, strict=True)):
                start = longest - shared - n
                assert not found[row, :, :start].any()
                if head is not None:
                    assert torch.equal(found[row, :, start : start + shared], head.kv[layer, kind])
                assert torch.equal(found[row, :, start + shared :], own.kv[layer, kind])


def test_a_batch_that_was_read_is_split_into_rows_without_pads() -> None:
    """``[shared][own][pads]``: 2 shared tokens, rows of 3 and 1."""
    kv = torch.arange(1 * 2 * 2 * 5 * 1, dtype=torch.float).view(1, 2, 2, 1, 5, 1)
    cache = DynamicCache([(layer[0], layer[1]) for layer in kv])
    hidden = torch.arange(2 * 3 * 2, dtype=torch.float).view(2, 3, 2)
    first, second = split(cache, 2, [3, 1], hidden)
    assert torch.equal(first.kv, kv[:, :, 0, :, 2:5]) and torch.equal(first.last, hidden[0, 2])
    assert torch.equal(second.kv, kv[:, :, 1, :, 2:3]) and torch.equal(second.last, hidden[1, 0])
    assert second.kv.untyped_storage().nbytes() == second.kv.nbytes  # its own memory, not the batch's


def test_repeat_puts_copies_of_a_row_side_by_side() -> None:
    ready = assemble(None, [state(2), state(3, 1)])
    twice = ready.repeat(2)
    assert twice.lengths.tolist() == [2, 2, 3, 3]
    assert torch.equal(twice.last, ready.last[[0, 0, 1, 1]]) and torch.equal(twice.mask, ready.mask[[0, 0, 1, 1]])
    assert ready.cache is not None and twice.cache is not None
    for (keys, values, _), (k, v, _) in zip(ready.cache, twice.cache, strict=True):
        assert torch.equal(keys[[0, 0, 1, 1]], k) and torch.equal(values[[0, 0, 1, 1]], v)


def test_the_cache_keeps_within_its_budget_and_takes_nothing_once_full() -> None:
    one = state(4)
    cache = StateCache(2 * one.nbytes + 10)
    for i in range(4):
        cache.put((), (i,), one)
    cache.put((), (9,), state(0))  # would fit
    assert len(cache) == 2 and cache.used == 2 * one.nbytes and cache.full
    assert cache.get((), (1,)) is one and cache.get((), (2,)) is None and cache.get((), (9,)) is None
    cache.put((), (1,), one)
    assert cache.used == 2 * one.nbytes
    cache.clear()
    assert (len(cache), cache.used, cache.full) == (0, 0, False)
    cache.put((), (9,), one)
    assert len(cache) == 1


def test_a_row_is_known_by_its_shared_text_too() -> None:
    cache, one, other = StateCache(1 << 20), state(1), state(1, 1)
    cache.put((1, 2), (3,), one)
    cache.put((1,), (2, 3), other)
    assert cache.get((1, 2), (3,)) is one and cache.get((1,), (2, 3)) is other and cache.get((), (1, 2, 3)) is None


def test_budgets() -> None:
    assert StateCache().budget > 0
    with pytest.raises(ConfigError, match="cannot be negative"):
        StateCache(-1)


# ---- reading ----------------------------------------------------------------------------------------------


def counted(lm: FrozenLM) -> list[tuple[int, int]]:
    """The shapes of all passes through the body from now on."""
    shapes: list[tuple[int, int]] = []

    def hook(_: object, __: object, kwargs: dict[str, Tensor]) -> None:
        shapes.append(tuple(kwargs["inputs_embeds"].shape[:2]))  # type: ignore[arg-type]

    lm.body.register_forward_pre_hook(hook, with_kwargs=True)
    return shapes


def test_every_text_is_read_once_and_the_header_once_for_all() -> None:
    lm = FrozenLM(*tiny("llama"))
    passes = counted(lm)
    prompts = [Prompt(f"query {i} " * (i + 1), "The header.\n") for i in range(6)]
    lm.label_scores(prompts, ["yes", "no"])
    header = 1 + len(lm.tokenize("The header.\n"))
    assert passes[0] == (1, header) and len(passes) == 2
    assert passes[1][1] == len(lm.tokenize(prompts[-1].query))
    lm.label_scores(prompts[::-1], ["yes", "no"])
    lm.label_scores(prompts[2:4], ["yes", "no"])
    assert len(passes) == 2
    lm.label_scores([*prompts, Prompt("new", "The header.\n")], ["yes", "no"])
    assert passes[2:] == [(1, len(lm.tokenize("new")))]
    assert len(lm.states) == 8  # seven queries and the header


def test_batches_of_texts_hold_a_bounded_number_of_tokens_of_like_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coldframe.frozen.backbone._STATE_BATCH_TOKENS", 60)
    lm = FrozenLM(*tiny("llama"))
    wanted = FrozenLM(*tiny("llama"))
    passes = counted(lm)
    rows = [Row((1,), tuple(range(5, 5 + n))) for n in (3, 50, 4, 90, 5, 6, 7, 49)]
    states = lm.text_states(rows)
    assert [s.kv.shape[3] for s in states] == [len(row.own) for row in rows]
    assert all(count * longest <= 60 or count == 1 for count, longest in passes)
    assert sum(count for count, _ in passes) == len(rows) + 1  # and the shared token
    assert passes == [(1, 1), (5, 7), (1, 49), (1, 50), (1, 90)]
    for row, found in zip(rows, states, strict=True):
        (alone,) = wanted.text_states([row])
        torch.testing.assert_close(found.kv, alone.kv, atol=1e-4, rtol=0)
        torch.testing.assert_close(found.last, alone.last, atol=1e-4, rtol=0)


def test_states_depend_on_what_is_shared() -> None:
    lm = FrozenLM(*tiny("llama"))
    one, other = lm.text_states([Row((1, 7), (8, 9)), Row((1, 6), (8, 9))])
    assert not torch.allclose(one.kv, other.kv, atol=1e-3)
    whole = lm.text_states([Row((), (1, 7, 8, 9))])[0]
    torch.testing.assert_close(one.kv, whole.kv[:, :, :, 2:], atol=1e-5, rtol=0)


def test_reading_ahead_keeps_what_there_is_room_for() -> None:
    model, tokenizer = tiny("llama")
    rows = [Row((), tuple(range(1, n))) for n in (9, 3, 6)]
    lm, small = FrozenLM(model, tokenizer, state_budget=1 << 20), FrozenLM(model, tokenizer, state_budget=0)
    for each in (lm, small):
        each.read_ahead(rows, quiet=True)
    assert (len(lm.states), len(small.states)) == (3, 0)
    assert all(lm.states.get(row.shared, row.own) is not None for row in rows)


def test_a_model_on_a_server_reads_nothing_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = tiny("llama")
    monkeypatch.setattr(FrozenLM, "has_weights", False)
    lm = FrozenLM(model, tokenizer, state_budget=1 << 20)
    lm.read_ahead([Row((), (1, 2, 3))], quiet=True)
    assert not len(lm.states)
