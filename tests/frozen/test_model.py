"""FrozenLM against plain transformers, one row at a time, on every architecture."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from tests.frozen import naive
from tests.tiny import ARCHITECTURES, tiny
from torch import Tensor

from coldframe.errors import ConfigError, DataError, ModelError
from coldframe.frozen.model import FrozenLM, load_lm
from coldframe.frozen.ports import EMPTY, Conditioning, LowRank, Prompt

every = pytest.mark.parametrize("architecture", ARCHITECTURES)
placements = pytest.mark.parametrize("placement", ["none", "prefix", "suffix"])
# Lengths from 4 to 180 tokens, the longest beyond the sliding window of gemma3_text (128).
PROMPTS = [
    Prompt("Question: CCO\nAnswer:", "Judge it.\n\n"),
    Prompt("Q", "Judge it.\n\n"),
    Prompt("Question: " + "C1=CC=CC=C1 and more " * 8 + "\nAnswer:", "Judge it.\n\n"),
]
WORDS = ["yes", "no", "maybe so"]
CLOSE: dict[str, Any] = {"atol": 1e-4, "rtol": 0}


@functools.cache
def lm_of(architecture: str) -> FrozenLM:
    return FrozenLM(*tiny(architecture))


@functools.cache
def plain_of(architecture: str) -> Any:
    """The same model, loaded apart and never touched."""
    return tiny(architecture)[0]


def answer_of(lm: FrozenLM, word: str) -> list[int]:
    return list(lm.tokenizer(" " + word, add_special_tokens=False).input_ids)


def soft_of(lm: FrozenLM, tokens: int = 4, rows: int = len(PROMPTS)) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, tokens, lm.d_model, generator=generator) * lm.embedding_norm() / lm.d_model**0.5


def conditioning_of(lm: FrozenLM, placement: Any) -> Conditioning:
    return EMPTY if placement == "none" else Conditioning(soft_tokens=soft_of(lm), placement=placement)


def deltas_of(lm: FrozenLM, rows: int | None) -> dict[str, LowRank]:
    """Random updates of every linear, one for all rows or one for each."""
    generator = torch.Generator().manual_seed(1)
    some = () if rows is None else (rows,)

    def random(*shape: int) -> Tensor:
        return torch.randn(*some, *shape, generator=generator)

    return {
        at.name: LowRank(random(2, at.d_in) / at.d_in**0.5, 0.3 * random(at.d_out, 2), 0.5)
        for at in lm.anatomy.linears()
    }


def row_of(deltas: dict[str, LowRank], row: int) -> dict[str, LowRank]:
    return {name: LowRank(delta.a[row], delta.b[row], delta.scale) for name, delta in deltas.items()}


def gains_of(lm: FrozenLM) -> Tensor:
    return 0.3 + 1.4 * torch.rand(lm.anatomy.n_layers, lm.anatomy.n_heads, generator=torch.Generator().manual_seed(2))


# ---- off is off -------------------------------------------------------------------------------------------


@every
def test_an_empty_conditioning_gives_the_base_models_logits_bit_for_bit(architecture: str) -> None:
    lm, plain = lm_of(architecture), plain_of(architecture)
    assert plain.config._attn_implementation in ("sdpa", "eager")
    batch = lm.tokenizer([p.header + p.query for p in PROMPTS], padding=True, return_tensors="pt")
    wanted = plain(**{name: batch[name] for name in ("input_ids", "attention_mask")}).logits
    assert torch.equal(lm.logits(batch.input_ids, batch.attention_mask), wanted)
    neutral = Conditioning(head_gains=torch.ones(lm.anatomy.n_layers, lm.anatomy.n_heads))
    assert torch.equal(lm.logits(batch.input_ids, batch.attention_mask, neutral), wanted)
    other = Conditioning(head_gains=gains_of(lm), deltas=deltas_of(lm, None))
    assert not torch.allclose(lm.logits(batch.input_ids, batch.attention_mask, other), wanted, atol=1e-2)
    assert torch.equal(lm.logits(batch.input_ids, batch.attention_mask), wanted)  # and no hook stays behind


def test_ports_are_closed_again_after_an_error() -> None:
    lm = lm_of("llama")
    ids = torch.tensor([[5, 6, 7]])
    before = lm.logits(ids)
    with pytest.raises(KeyError), lm.ports(Conditioning(head_gains=gains_of(lm), deltas=deltas_of(lm, None))):
        raise KeyError
    with pytest.raises(ConfigError, match="no.such.module"):
        lm.logits(
            ids,
            None,
            Conditioning(head_gains=gains_of(lm), deltas={"no.such.module": deltas_of(lm, None).popitem()[1]}),
        )
    assert torch.equal(lm.logits(ids), before)


# ---- parity with one plain row ----------------------------------------------------------------------------


@every
@placements
def test_scores_and_losses_are_those_of_plain_single_rows(architecture: str, placement: str) -> None:
    lm, plain, conditioning = (
        lm_of(architecture),
        plain_of(architecture),
        conditioning_of(lm_of(architecture), placement),
    )
    soft = conditioning.soft_tokens
    with torch.no_grad():
        wanted = torch.stack(
            [
                torch.stack(
                    [
                        naive.loss(
                            plain,
                            naive.tokens_of(lm, p),
                            answer_of(lm, w),
                            None if soft is None else soft[i],
                            placement,
                        )
                        for w in WORDS
                    ]
                )
                for i, p in enumerate(PROMPTS)
            ]
        )
        lm.states.clear()
        for _ in range(2):  # computed, then from the cache
            torch.testing.assert_close(lm.label_scores(PROMPTS, WORDS, conditioning), -wanted, **CLOSE)
        torch.testing.assert_close(lm.loss(PROMPTS, WORDS, conditioning), wanted.diagonal(), **CLOSE)
        single = lm.label_scores(PROMPTS, WORDS[:2], conditioning)  # one token each: logits
        torch.testing.assert_close(single[:, 0] - single[:, 1], wanted[:, 1] - wanted[:, 0], **CLOSE)


@every
@pytest.mark.parametrize("header", ["", "Judge it.\n\n"])
def test_a_lone_new_query_is_read_in_one_pass_and_scored_alike(architecture: str, header: str) -> None:
    lm, prompt = lm_of(architecture), Prompt("Question: CCN\nAnswer:", header)
    conditioning = Conditioning(soft_tokens=soft_of(lm, rows=1), placement="suffix")
    lm.states.clear()
    with torch.no_grad():
        alone = lm.label_scores([prompt], WORDS, conditioning)
        assert len(lm.states) == (1 if header or lm.bos else 0)  # the header, and nothing of the query
        lm.text_states(lm.rows([prompt], conditioning))
        torch.testing.assert_close(alone, lm.label_scores([prompt], WORDS, conditioning), **CLOSE)


@every
@pytest.mark.parametrize("placement", ["prefix", "suffix"])
def test_gradients_of_soft_tokens_are_those_of_the_whole_uncached_pass(architecture: str, placement: Any) -> None:
    lm, plain = lm_of(architecture), plain_of(architecture)
    ours, theirs = (soft_of(lm).requires_grad_() for _ in range(2))
    lm.loss(PROMPTS, WORDS, Conditioning(soft_tokens=ours, placement=placement)).sum().backward()
    for i, (prompt, word) in enumerate(zip(PROMPTS, WORDS, strict=True)):
        naive.loss(plain, naive.tokens_of(lm, prompt), answer_of(lm, word), theirs[i], placement).backward()
    assert ours.grad is not None and theirs.grad is not None
    assert float(theirs.grad.norm()) > 0.1
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-4, rtol=1e-3)


@every
@placements
@pytest.mark.parametrize("port", ["gains", "deltas", "row deltas", "all"])
def test_backbone_ports_equal_merged_weights_row_by_row(architecture: str, placement: str, port: str) -> None:
    lm, soft = lm_of(architecture), conditioning_of(lm_of(architecture), placement).soft_tokens
    gains = gains_of(lm) if port in ("gains", "all") else None
    deltas = {} if port == "gains" else deltas_of(lm, None if port == "deltas" else len(PROMPTS))
    conditioning = Conditioning(
        soft_tokens=soft, placement="prefix" if placement == "prefix" else "suffix", head_gains=gains, deltas=deltas
    )
    with torch.no_grad():
        got = lm.label_scores(PROMPTS, WORDS, conditioning)
        wanted = []
        for i, prompt in enumerate(PROMPTS):
            model = tiny(architecture)[0]
            naive.merged(model, deltas if port == "deltas" else row_of(deltas, i) if deltas else {})
            if gains is not None:
                naive.folded(model, lm, gains)
            ids, own = naive.tokens_of(lm, prompt), None if soft is None else soft[i]
            wanted.append(torch.stack([-naive.loss(model, ids, answer_of(lm, w), own, placement) for w in WORDS]))
        torch.testing.assert_close(got, torch.stack(wanted), atol=3e-4, rtol=0)
        assert not torch.allclose(got, lm.label_scores(PROMPTS, WORDS, conditioning_of(lm, placement)), atol=1e-2)


@every
@pytest.mark.parametrize("alone", [1, 10**6], ids=["long rows, one by one", "together"])
def test_contexts_stand_between_header_and_query(
    architecture: str, alone: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coldframe.frozen.prefill._ALONE", alone)
    lm, plain = lm_of(architecture), plain_of(architecture)
    contexts = (("far one\n", "near one\n"), (), ("only one\n",))
    with torch.no_grad():
        got = lm.loss(PROMPTS, ["yes"] * 3, Conditioning(contexts=contexts))
        rows = [naive.tokens_of(lm, p, c) for p, c in zip(PROMPTS, contexts, strict=True)]
        torch.testing.assert_close(
            got, torch.stack([naive.loss(plain, r, answer_of(lm, "yes")) for r in rows]), **CLOSE
        )


def test_contexts_all_rows_share_are_read_once() -> None:
    lm = FrozenLM(*tiny("llama"))
    shared = Conditioning(contexts=(("one exemplar\n", "another\n"),) * 3)
    rows = lm.rows(PROMPTS, shared)
    assert len({row.shared for row in rows}) == 1 and len(rows[0].shared) > 20
    wanted = torch.cat([lm.label_scores([p], WORDS, Conditioning(contexts=shared.contexts[:1])) for p in PROMPTS])  # type: ignore[index]
    torch.testing.assert_close(lm.label_scores(PROMPTS, WORDS, shared), wanted, **CLOSE)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3_text", "bloom"])
@placements
def test_bfloat16_agrees_to_its_eight_bits(architecture: str, placement: str) -> None:
    """Scores of these random models spread over tens of nats; bf16 keeps them within half of one."""
    model, tokenizer = tiny(architecture)
    coarse = FrozenLM(model.to(torch.bfloat16), tokenizer)
    conditioning = conditioning_of(lm_of(architecture), placement)
    with torch.no_grad():
        wanted, got = (lm.label_scores(PROMPTS, WORDS, conditioning) for lm in (lm_of(architecture), coarse))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, wanted, atol=0.5, rtol=0.03)


# ---- generation -------------------------------------------------------------------------------------------


def texts(lm: FrozenLM, rows: list[list[int]]) -> list[str]:
    return [lm.tokenizer.decode(row, skip_special_tokens=True) for row in rows]


@every
@placements
def test_generation_is_the_greedy_loop_over_uncached_logits(architecture: str, placement: str) -> None:
    lm, plain, conditioning = (
        lm_of(architecture),
        plain_of(architecture),
        conditioning_of(lm_of(architecture), placement),
    )
    soft = conditioning.soft_tokens
    wanted = [
        naive.greedy(
            plain, naive.tokens_of(lm, p), 6, None if soft is None else soft[i], placement, [lm.tokenizer.eos_token_id]
        )
        for i, p in enumerate(PROMPTS)
    ]
    assert lm.generate(PROMPTS, conditioning, max_new_tokens=6) == texts(lm, wanted)


@every
def test_generation_through_the_backbone_ports_equals_merged_weights(architecture: str) -> None:
    lm, soft = lm_of(architecture), soft_of(lm_of(architecture))
    deltas, gains = deltas_of(lm, len(PROMPTS)), gains_of(lm)
    wanted = []
    for i, prompt in enumerate(PROMPTS):
        model = naive.folded(naive.merged(tiny(architecture)[0], row_of(deltas, i)), lm, gains)
        wanted.append(
            naive.greedy(model, naive.tokens_of(lm, prompt), 5, soft[i], "suffix", [lm.tokenizer.eos_token_id])
        )
    conditioning = Conditioning(soft_tokens=soft, placement="suffix", head_gains=gains, deltas=deltas)
    assert lm.generate(PROMPTS, conditioning, max_new_tokens=5) == texts(lm, wanted)


def test_generation_ends_where_the_model_ends_it_and_says_nothing_of_the_end() -> None:
    model, tokenizer = tiny("llama")
    lm, plain = FrozenLM(model, tokenizer), plain_of("llama")
    free = [naive.greedy(plain, naive.tokens_of(lm, p), 8) for p in PROMPTS]
    end = free[0][3]
    model.generation_config.eos_token_id = [end, tokenizer.eos_token_id]
    wanted = [naive.greedy(plain, naive.tokens_of(lm, p), 8, ends=[end, tokenizer.eos_token_id]) for p in PROMPTS]
    assert len(wanted[0]) < 8 and max(map(len, wanted)) > len(wanted[0])
    assert lm.generate(PROMPTS, max_new_tokens=8) == texts(lm, wanted)
    assert lm.generate(PROMPTS[:1], max_new_tokens=8) == texts(lm, wanted[:1])


def test_stop_texts_end_an_answer_and_are_cut_off() -> None:
    lm = lm_of("llama")
    whole = lm.generate(PROMPTS, max_new_tokens=12)
    mark = whole[0][4:6]
    got = lm.generate(PROMPTS, max_new_tokens=12, stop=["never written", mark])
    assert got == [text.split(mark)[0] for text in whole]
    assert got[0] != whole[0]


def test_blanks_before_an_answer_do_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = lm_of("llama")
    whole = lm.generate(PROMPTS, max_new_tokens=12)
    decode = lm.decode
    monkeypatch.setattr(lm, "decode", lambda tokens: "\n " + decode(tokens))
    assert lm.generate(PROMPTS, max_new_tokens=12, stop=["\n"]) == [text.lstrip() for text in whole]


def test_sampling_follows_seed_temperature_and_top_p() -> None:
    lm = lm_of("llama")

    def sampled(**options: Any) -> list[str]:
        return lm.generate(PROMPTS, max_new_tokens=10, **options)

    hot = sampled(temperature=1.5, seed=1)
    assert hot == sampled(temperature=1.5, seed=1) != sampled(temperature=1.5, seed=2)
    assert sampled(temperature=1e-4) == sampled(temperature=1.5, top_p=1e-6) == sampled()


def test_sampling_keeps_to_the_smallest_set_that_holds_top_p() -> None:
    from coldframe.frozen.generation import sample

    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log().expand(4000, -1)
    for top_p, expected in ((1.0, [0.5, 0.3, 0.15, 0.05]), (0.6, [0.625, 0.375, 0, 0]), (0.4, [1, 0, 0, 0])):
        drawn = sample(logits, 1.0, top_p, torch.Generator().manual_seed(0))
        shares = torch.bincount(drawn, minlength=4) / 4000
        torch.testing.assert_close(shares, torch.tensor(expected, dtype=torch.float), atol=0.03, rtol=0)
        assert all(share == 0 for share, wanted in zip(shares, expected, strict=True) if wanted == 0)


def test_sampling_looks_past_the_likeliest_tokens_where_they_do_not_hold_top_p() -> None:
    from coldframe.frozen.generation import _LIKELY, sample

    flat = torch.zeros(2000, 4 * _LIKELY)
    drawn = sample(flat, 1.0, 0.5, torch.Generator().manual_seed(0))
    assert len(drawn.unique()) > _LIKELY  # half of all tokens hold half of it
    peaked = flat.clone()
    peaked[:, 7] = 20
    assert set(sample(peaked, 1.0, 0.9, torch.Generator().manual_seed(0)).tolist()) == {7}


@pytest.mark.parametrize("wrong", [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.1}])
def test_generation_settings_out_of_range_are_errors(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="out of range"):
        lm_of("llama").generate(PROMPTS, **wrong)


# ---- bounds -----------------------------------------------------------------------------------------------


def test_the_farthest_exemplars_are_dropped_where_the_context_is_too_short_and_counted() -> None:
    lm = FrozenLM(*tiny("gpt2"))
    blocks = tuple(f"exemplar {i} " * 4 + "\n" for i in range(8))
    conditioning = Conditioning(contexts=(blocks,), soft_tokens=soft_of(lm, tokens=10, rows=1))
    (row,) = lm.rows(PROMPTS[:1], conditioning, reserve=5)
    text = lm.tokenizer.decode([*row.shared, *row.own], skip_special_tokens=True)
    kept = [i for i in range(8) if f"exemplar {i}" in text]
    assert kept == list(range(8 - len(kept), 8)) and 0 < len(kept) < 8
    assert lm.dropped_contexts == 8 - len(kept)
    longest = lm.anatomy.max_positions - 10 - 5
    assert len(row) <= longest < len(row) + len(lm.tokenize(blocks[0]))
    assert torch.isfinite(lm.label_scores(PROMPTS[:1], WORDS, conditioning)).all()


@pytest.mark.parametrize("architecture", ["gpt2", "opt", "llama"])
def test_a_row_may_fill_the_context_to_the_last_position_and_no_further(architecture: str) -> None:
    lm = lm_of(architecture)
    room = lm.anatomy.max_positions - 1 - 4 - len(answer_of(lm, "maybe so"))  # BOS and soft tokens
    conditioning = Conditioning(soft_tokens=soft_of(lm, rows=1))
    full, over = ("1" * room, "1" * (room + 1))
    assert torch.isfinite(lm.label_scores([Prompt(full)], WORDS, conditioning)).all()
    with pytest.raises(DataError, match="longer than the model's context.*at most 256"):
        lm.label_scores([Prompt(over)], WORDS, conditioning)


def test_what_does_not_fit_is_told() -> None:
    lm = lm_of("llama")
    for soft in (torch.zeros(2, 3, lm.d_model), torch.zeros(3, 3, lm.d_model + 1)):
        for placement in ("prefix", "suffix"):
            with pytest.raises(ConfigError, match="do not fit the batch"):
                lm.label_scores(PROMPTS, WORDS, Conditioning(soft_tokens=soft, placement=placement))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="Head gains have the wrong shape"):
        lm.label_scores(PROMPTS, WORDS, Conditioning(head_gains=torch.ones(1, 4)))
    with pytest.raises(ConfigError, match="same tokens"):
        lm.label_scores(PROMPTS, ["yes", " yes"])
    for answer in ("", " "):
        with pytest.raises(DataError, match="An answer has no tokens"):
            lm.loss(PROMPTS[:1], [answer])
    with pytest.raises(ConfigError, match="contexts"):
        lm.label_scores(PROMPTS, WORDS, Conditioning(contexts=(("one\n",),)))


def test_a_query_may_be_empty() -> None:
    lm, plain = lm_of("llama"), plain_of("llama")
    for prompt in (Prompt(""), Prompt("", "Only a header.")):
        for placement in ("none", "prefix", "suffix"):
            conditioning = conditioning_of(lm, placement)
            soft = None if conditioning.soft_tokens is None else conditioning.soft_tokens[:1]
            one = Conditioning(soft_tokens=soft, placement=conditioning.placement)
            wanted = naive.loss(
                plain, naive.tokens_of(lm, prompt), answer_of(lm, "yes"), None if soft is None else soft[0], placement
            )
            torch.testing.assert_close(lm.loss([prompt], ["yes"], one)[0], wanted, **CLOSE)


def test_a_tokenizer_without_bos() -> None:
    model, tokenizer = tiny("llama")
    lm = FrozenLM(model, tokenizer)
    lm.bos = ()
    ids = torch.tensor([tokenizer(PROMPTS[0].query, add_special_tokens=False).input_ids])
    wanted = plain_of("llama")(input_ids=ids).logits[0, -1]
    got = lm.label_scores([Prompt(PROMPTS[0].query)], WORDS[:2])[0]
    torch.testing.assert_close(got, wanted[[answer_of(lm, w)[0] for w in WORDS[:2]]], **CLOSE)
    soft = Conditioning(soft_tokens=soft_of(lm, rows=1), placement="prefix")
    assert torch.isfinite(lm.label_scores([Prompt(PROMPTS[0].query)], WORDS, soft)).all()
    with pytest.raises(DataError, match="A prompt has no tokens"):
        lm.label_scores([Prompt("")], WORDS)


# ---- loading ----------------------------------------------------------------------------------------------


def test_a_local_folder_loads_frozen_and_names_itself(tmp_path: Any) -> None:
    model, tokenizer = tiny("llama")
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    lm = load_lm(str(tmp_path), dtype="float32", device="cpu")
    assert lm.weight_hash == lm_of("llama").weight_hash
    assert lm.provenance["name"] == str(tmp_path) and lm.provenance["source"] == "local"
    assert not any(p.requires_grad for p in lm.model.parameters()) and not lm.model.training
    with torch.no_grad():
        torch.testing.assert_close(
            lm.label_scores(PROMPTS, WORDS), lm_of("llama").label_scores(PROMPTS, WORDS), **CLOSE
        )
    assert load_lm(str(tmp_path), dtype="bfloat16", device="cpu").dtype == torch.bfloat16


def test_an_unknown_dtype_or_name_is_told(tmp_path: Any) -> None:
    for dtype in ("float12", "int8", "nn"):
        with pytest.raises(ConfigError, match="Unknown dtype"):
            load_lm("smollm2", dtype=dtype)
    with pytest.raises(ModelError, match="Cannot load"):
        load_lm(str(tmp_path))


def test_what_fits_of_a_prompt_does_not_depend_on_the_answers_of_others() -> None:
    lm = FrozenLM(*tiny("llama"))
    limit = lm.anatomy.max_positions
    long = Prompt("w " * ((limit - 12) // len(lm.tokenize("w "))))
    answers = ["yes", "no " * 30]
    with torch.no_grad():
        alone = lm.loss([long], answers[:1])
        together = lm.loss([long, Prompt("Q")], answers)
    torch.testing.assert_close(together[:1], alone, **CLOSE)
