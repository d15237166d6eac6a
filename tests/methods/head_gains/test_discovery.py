"""Effects of heads: the fast form is the naive loop, on every architecture; the planted head is found first."""

from __future__ import annotations

import copy
from typing import Any, Literal

import pytest
import torch
from tests.methods.head_gains.planted import COPIER, SUPPRESSOR
from tests.tiny import ARCHITECTURES, tiny
from torch import Tensor

from coldframe.errors import ConfigError, ModelError
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.model_sources import weight_hash
from coldframe.methods.head_gains import discovery
from coldframe.methods.head_gains.ablation import attribution, mean_of_heads, one_by_one
from coldframe.methods.head_gains.config import ReweightConfig
from coldframe.methods.head_gains.discovery import Effects, choose_heads, discover, threshold
from coldframe.methods.head_gains.path_patching import path_patching
from coldframe.methods.head_gains.proxy import ProxyTask
from coldframe.pipeline.reweight import reweight

QUICK = ReweightConfig(repetitions=((12, 10), (8, 15)))


def centred(lm: FrozenLM, hidden: Tensor, targets: Tensor) -> Tensor:
    logits = lm.head(hidden)
    return logits.gather(-1, targets.expand(hidden.shape[:-1]).unsqueeze(-1)).squeeze(-1) - logits.mean(-1)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_fast_form_is_the_naive_loop_with_q_k_and_v_frozen(architecture: str) -> None:
    model, tokens = tiny(architecture)
    lm = FrozenLM(model, tokens)
    ids = ProxyTask(lm).sequences(3, 6, 0)
    means: list[Literal["batch", "sequence"]] = ["batch", "sequence"]
    for mean_over in means:
        clean, patched = path_patching(lm, ids[:, :-1], mean_over)
        wanted_clean, wanted = one_by_one(lm, ids[:, :-1], mean_over, frozen=True)
        got = (centred(lm, patched, ids[:, -1]) - centred(lm, clean, ids[:, -1])).flatten(0, 1)
        effects = centred(lm, wanted, ids[:, -1]) - centred(lm, wanted_clean, ids[:, -1])
        torch.testing.assert_close(got, effects, atol=1e-4, rtol=0)
        assert bool((effects.abs().amax(1) > 1e-2).all())  # every head does something, so agreement says something
    last, heads = lm.anatomy.n_layers - 1, lm.anatomy.n_heads
    _, plain = one_by_one(lm, ids[:, :-1], "sequence")
    torch.testing.assert_close(plain[last * heads :], wanted[last * heads :], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(plain[:heads], wanted[:heads], atol=1e-2)  # later attention takes part


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bloom", "gemma3_text", "opt-projected"])
def test_bfloat16_weights_are_computed_in_float32_one_block_at_a_time(architecture: str) -> None:
    model, tokens = tiny(architecture)
    coarse = FrozenLM(model.bfloat16(), tokens)
    exact = FrozenLM(copy.deepcopy(coarse.model).float(), tokens)
    ids = ProxyTask(coarse).sequences(3, 6, 0)[:, :-1]
    before, held = weight_hash(coarse.model), [p.data_ptr() for p in coarse.model.parameters()]
    most: list[int] = []

    def count(*_: Any) -> None:
        blocks = coarse.anatomy.layers
        most.append(sum(next(block.parameters()).dtype == torch.float32 for block in blocks))

    for layer in range(coarse.anatomy.n_layers):
        coarse.anatomy.o_proj(layer).register_forward_pre_hook(count)
    for got, wanted in zip(path_patching(coarse, ids), path_patching(exact, ids), strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)
    assert weight_hash(coarse.model) == before
    assert [p.data_ptr() for p in coarse.model.parameters()] == held
    assert most == [1] * coarse.anatomy.n_layers


def test_chunks_change_nothing(lm: FrozenLM, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = ProxyTask(lm).sequences(4, 6, 0)[:, :-1]
    _, wanted = path_patching(lm, ids)
    monkeypatch.setattr("coldframe.methods.head_gains.path_patching._CHUNK_TOKENS", 8)
    torch.testing.assert_close(path_patching(lm, ids)[1], wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("architecture", ["opt", "gpt2", "phi"])  # norms in float64: the slope is exact
def test_attribution_is_the_slope_of_plain_ablation(architecture: str) -> None:
    model, tokens = tiny(architecture)
    lm = FrozenLM(model.double(), tokens)
    ids = ProxyTask(lm).sequences(3, 6, 0)
    given, targets = ids[:, :-1], ids[:, -1]
    pi, estimates = attribution(lm, given, targets)
    dim, step = lm.anatomy.head_dim, 1e-4

    def moved(layer: int, head: int, share: float) -> Tensor:
        def hook(_: Any, args: tuple[Tensor]) -> tuple[Tensor]:
            z, part = args[0].clone(), slice(head * dim, (head + 1) * dim)
            z[:, -1, part] += share * (mean_of_heads(args[0], "batch") - args[0][:, -1])[:, part]
            return (z,)

        handle = lm.anatomy.o_proj(layer).register_forward_pre_hook(hook)
        logits = lm.logits(given)[:, -1]
        handle.remove()
        return logits.gather(-1, targets[:, None]).squeeze(-1) - logits.mean(-1)

    for layer, head in ((0, 1), (lm.anatomy.n_layers - 1, 3)):
        slope = (moved(layer, head, step) - moved(layer, head, -step)) / (2 * step)
        torch.testing.assert_close(estimates[layer, head] - pi, slope, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("way", ["path", "plain", "attribution"])
def test_the_planted_head_is_found_first(lm: FrozenLM, way: str) -> None:
    effects = discover(lm, QUICK.replace(discovery=way)).mean()
    assert choose_heads(effects, QUICK)[0] == SUPPRESSOR
    assert choose_heads(effects, QUICK.replace(choose="lowest", heads=1)) == [COPIER]
    if way != "attribution":  # a first-order estimate sees less of it
        assert effects[SUPPRESSOR] > 0.5 and effects.flatten().sort().values[-2] < 0.4


def test_both_definitions_of_the_effect(lm: FrozenLM) -> None:
    effects = Effects(torch.tensor([2.0, 4.0]), torch.tensor([[[2.5, 1.0]], [[4.0, 6.0]]]))
    torch.testing.assert_close(effects.by_pair(), torch.tensor([[[0.5, -1.0]], [[0.0, 2.0]]]))
    torch.testing.assert_close(effects.by_pair("ratio"), torch.tensor([[[0.25, -0.5]], [[0.0, 0.5]]]))
    torch.testing.assert_close(effects.mean("ratio"), torch.tensor([[0.125, 0.0]]))
    assert discover(lm, QUICK).mean("ratio").argmax() == 4 * SUPPRESSOR[0] + SUPPRESSOR[1]
    with pytest.raises(ModelError, match="does not copy"):
        Effects(torch.tensor([-0.5]), torch.ones(1, 1, 1)).mean("ratio")


def test_stability_is_the_mean_rank_correlation_between_pairs() -> None:
    up, down = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[3.0, 2.0, 1.0]])
    three = Effects(torch.zeros(3), torch.stack([up, 10 * up, down]))
    assert three.stability() == pytest.approx((1 - 1 - 1) / 3)
    assert Effects(torch.zeros(1), up[None]).stability() is None


def test_who_is_chosen() -> None:
    effects = torch.tensor([[0.0, 0.01, -0.02, 5.0], [-3.0, 0.02, 2.0, -0.01]])
    assert threshold(effects) < 2.0
    assert choose_heads(effects, ReweightConfig()) == [(0, 3), (1, 2)]
    assert choose_heads(effects, ReweightConfig(heads=3)) == [(0, 3), (1, 2), (1, 1)]
    assert choose_heads(effects, ReweightConfig(heads=2, choose="lowest")) == [(1, 0), (0, 2)]
    assert len(choose_heads(effects, ReweightConfig(choose="all"))) == 8
    drawn = [choose_heads(effects, ReweightConfig(heads=3, choose="random", seed=seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2] and len(set(drawn[0])) == 3
    with pytest.raises(ConfigError, match="heads=9.*at most 8"):
        choose_heads(effects, ReweightConfig(heads=9))
    below = torch.arange(-8.0, 0.0).view(2, 4)
    assert len(choose_heads(below, ReweightConfig(choose="all"))) == 8
    with pytest.raises(ConfigError, match="No head stands out"):
        choose_heads(below, ReweightConfig())


def test_an_interrupted_discovery_goes_on(lm: FrozenLM, own_cache: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, path, measured = discover(lm, QUICK), own_cache / "a.safetensors", []
    measure = discovery._measure

    def counted(*words: Any) -> Any:
        measured.append(words[2].shape)
        if len(measured) == 2:
            raise KeyboardInterrupt
        return measure(*words)

    monkeypatch.setattr(discovery, "_measure", counted)
    with pytest.raises(KeyboardInterrupt):
        discover(lm, QUICK, path)
    again = discover(lm, QUICK, path)
    assert measured == [(12, 20), (8, 30), (8, 30)]
    assert torch.equal(again.patched, wanted.patched) and torch.equal(again.clean, wanted.clean)


def test_activations_that_are_not_finite_are_told_and_nothing_is_left_behind() -> None:
    model, tokens = tiny("llama")
    lm = FrozenLM(model.bfloat16(), tokens)
    lm.anatomy.o_proj(1).weight.data[0, 0] = torch.inf
    with pytest.raises(ModelError, match="Layer 1 .* not finite.*bfloat16"):
        reweight(lm, ReweightConfig(heads=1, repetitions=((3, 6),)))
    assert all(p.dtype == torch.bfloat16 for p in lm.model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks or "forward" in m.__dict__ for m in lm.model.modules())


def test_a_sequence_over_the_context_is_told_before_the_work(lm: FrozenLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "_measure", lambda *_: pytest.fail("it began"))
    with pytest.raises(ConfigError, match="longer than the model's context.*80 tokens.*at most 64"):
        discover(lm, ReweightConfig(repetitions=((4, 8), (4, 40))))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"heads": 0}, "heads must be at least 1"),
        ({"repetitions": ()}, "a pair of N"),
        ({"repetitions": [[1, 5]]}, "each at least 2"),
        ({"steps": 3000}, "decay_steps"),
        ({"length": 1}, "length must be at least 2"),
        ({"choose": "higest"}, "Did you mean 'highest'"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ReweightConfig.from_dict(settings)
