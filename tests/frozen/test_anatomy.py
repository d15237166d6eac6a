from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from tests.tiny import ARCHITECTURES, tiny
from torch import Tensor, nn

from coldframe.errors import ConfigError, ModelError
from coldframe.frozen import anatomy as module
from coldframe.frozen.anatomy import ANATOMIES, anatomy_of

every = pytest.mark.parametrize("architecture", ARCHITECTURES)


def ids_of(tokenizer: Any) -> Tensor:
    return tokenizer("Question: is CCO a molecule?", return_tensors="pt").input_ids


def test_every_entry_has_a_tiny_model() -> None:
    covered = {settings.get("model_type", name) for name, settings in ARCHITECTURES.items()}
    # gemma3 (the multimodal class) is gemma3_text behind a prefix, and has its own test below.
    assert set(ANATOMIES) - {"gemma3"} == covered


@every
def test_embeddings_make_the_inputs_embeds_that_ids_make(architecture: str) -> None:
    model, tokenizer = tiny(architecture)
    ids = ids_of(tokenizer)
    expected = model(input_ids=ids).logits
    given = model(inputs_embeds=anatomy_of(model).embeddings(ids)).logits
    assert torch.equal(given, expected)


@every
def test_lm_head_of_the_bodys_hidden_states_is_the_logits(architecture: str) -> None:
    model, tokenizer = tiny(architecture)
    bound, ids = anatomy_of(model), ids_of(tokenizer)
    logits = bound.lm_head(bound.body(input_ids=ids)[0])
    if cap := bound.logit_softcap:
        logits = cap * torch.tanh(logits / cap)
    assert torch.equal(logits, model(input_ids=ids).logits)


@every
def test_scaling_heads_at_o_proj_is_scaling_its_column_blocks(architecture: str) -> None:
    model, tokenizer = tiny(architecture)
    bound, ids = anatomy_of(model), ids_of(tokenizer)
    torch.manual_seed(1)
    gains = 0.5 + torch.rand(bound.n_layers, bound.n_heads)
    plain = model(input_ids=ids).logits

    def scaled_by(gain: Tensor) -> Any:
        return lambda _, args: (args[0] * gain.repeat_interleave(bound.head_dim),)

    widths: list[int] = []
    handles = []
    for i in range(bound.n_layers):
        handles.append(bound.o_proj(i).register_forward_pre_hook(scaled_by(gains[i])))
        handles.append(bound.o_proj(i).register_forward_pre_hook(lambda _, args: widths.append(args[0].shape[-1])))
    hooked = model(input_ids=ids).logits
    for handle in handles:
        handle.remove()
    for i in range(bound.n_layers):
        projection, factors = bound.o_proj(i), gains[i].repeat_interleave(bound.head_dim)
        columns = factors if isinstance(projection, nn.Linear) else factors[:, None]  # Conv1D is transposed
        projection.weight.data.mul_(columns)
    folded = model(input_ids=ids).logits
    assert widths == [bound.n_heads * bound.head_dim] * bound.n_layers
    torch.testing.assert_close(hooked, folded, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(hooked, plain, atol=1e-2)


@every
def test_heads_lie_side_by_side_in_the_input_of_o_proj(architecture: str) -> None:
    """Each head's outputs are mixes, by that head's attention weights, of one value per distinct token."""
    model, _ = tiny(architecture)
    model.double().set_attn_implementation("eager")
    bound = anatomy_of(model)
    ids = torch.tensor([[7, 9, 7, 9, 9, 7]])
    one_place = {"position_ids": torch.zeros_like(ids)} if bound.position == "learned" else {}
    seen: list[Tensor] = []
    handle = bound.o_proj(0).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    weights = model(input_ids=ids, output_attentions=True, **one_place).attentions[0][0]
    handle.remove()
    outputs = seen[0].reshape(ids.shape[1], bound.n_heads, bound.head_dim).transpose(0, 1)

    mixes = torch.stack([weights[:, :, ids[0] == token].sum(-1) for token in (7, 9)], dim=-1)

    def misfit(outputs: Tensor) -> float:
        return float((mixes @ torch.linalg.lstsq(mixes, outputs).solution - outputs).norm() / outputs.norm())

    assert misfit(outputs) < 1e-4 < 1e-2 < misfit(outputs.roll(1, dims=0))


@every
def test_linears_name_every_linear_of_the_blocks_once(architecture: str) -> None:
    model, tokenizer = tiny(architecture)
    bound = anatomy_of(model)
    modules, inputs = dict(model.named_modules()), {}
    linears = bound.linears()
    assert linears == [*bound.linears("attention"), *bound.linears("mlp")]
    handles = [
        linear.module.register_forward_hook(
            lambda _, args, output, name=linear.name: inputs.update({name: (args[0].shape[-1], output.shape[-1])})
        )
        for linear in linears
    ]
    model(input_ids=ids_of(tokenizer))
    for handle in handles:
        handle.remove()
    assert inputs == {linear.name: (linear.d_in, linear.d_out) for linear in linears}
    assert all(modules[linear.name] is linear.module for linear in linears)
    inside = {n for n in modules if n.startswith(f"{bound.anatomy.layers}.") and type(modules[n]).__name__ in CALLED}
    assert {linear.name for linear in linears} == inside


CALLED = {"Linear", "Conv1D", "FalconLinear"}


@every
def test_numbers(architecture: str) -> None:
    model, tokenizer = tiny(architecture)
    bound = anatomy_of(model)
    assert bound.n_layers == len(bound.layers) == model.config.num_hidden_layers
    assert bound.layer(1) is bound.layers[1]
    assert bound.d_model == model.get_input_embeddings().weight.shape[1]
    assert bound.vocab_size == len(tokenizer)
    assert bound.max_positions == (2048 if architecture == "bloom" else 256)
    assert (bound.position == "alibi") == (architecture in ("bloom", "falcon-alibi"))
    assert bound.parallel == (architecture in ("phi", "falcon", "falcon-new", "gpt_neox"))
    one = torch.tensor([7])
    torch.testing.assert_close(bound.embeddings(one), bound.embeddings.weight[one] * bound.embedding_scale)


def test_learned_positions_are_finite_and_others_are_relative() -> None:
    """A prefix changes nothing for a relative position (llama), and something for a learned one (gpt2)."""
    shifts = {}
    for architecture in ("llama", "gpt2", "opt"):
        model, tokenizer = tiny(architecture)
        ids = ids_of(tokenizer)
        positions = torch.arange(ids.shape[1])[None]
        here = model(input_ids=ids, position_ids=positions).logits
        there = model(input_ids=ids, position_ids=positions + 20).logits
        shifts[anatomy_of(model).position, architecture] = float((here - there).abs().max())
    assert shifts["rope", "llama"] < 1e-3 < 0.1 < min(shifts["learned", "gpt2"], shifts["learned", "opt"])


def test_multimodal_gemma3_is_bound_to_its_text_part() -> None:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text, tokenizer = tiny("gemma3_text")
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Gemma3Config(
        text_config=text.config.to_dict(), vision_config={**vision, "image_size": 28, "patch_size": 14}
    )
    model = Gemma3ForConditionalGeneration(config).eval()
    bound, ids = anatomy_of(model), ids_of(tokenizer)
    model.model.language_model.load_state_dict(text.model.state_dict())
    model.lm_head.load_state_dict(text.lm_head.state_dict())
    hidden = bound.body(input_ids=ids)[0]
    assert torch.equal(hidden, text.model(input_ids=ids)[0])
    assert bound.n_heads == 4 and len(bound.linears("attention")) == 4 * bound.n_layers


def test_an_unknown_architecture_says_what_to_add() -> None:
    from transformers import AutoModelForCausalLM, StableLmConfig

    config = StableLmConfig(
        vocab_size=32, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=16
    )
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(ModelError) as caught:
        anatomy_of(model)
    message = str(caught.value)
    for part in ("ANATOMIES['stablelm']", "coldframe/frozen/anatomy.py", "layers: model.layers", "model.embed_tokens"):
        assert part in message
    assert "self_attn.o_proj (32, 32)" in message and "lm_head" in message


def test_something_that_is_no_model_is_refused() -> None:
    with pytest.raises(ModelError, match="does not know"):
        anatomy_of(object())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"o_proj": "self_attn.out"}, "no module model.layers.0.self_attn.out"),
        ({"o_proj": "mlp.down_proj"}, "takes 48 features, not 4 heads of 8"),
        ({"lm_head": "model.norm"}, "not a linear"),
        ({"mlp": ("mlp.act_fn",)}, "not a linear"),
        ({"embeddings": "config"}, "not a module"),
    ],
)
def test_a_wrong_entry_is_found_when_it_is_bound(
    change: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = tiny("llama")
    monkeypatch.setitem(module.ANATOMIES, "llama", dataclasses.replace(ANATOMIES["llama"], **change))
    with pytest.raises(ModelError, match=message):
        anatomy_of(model)


def test_a_model_that_goes_round_its_modules_is_refused() -> None:
    model, _ = tiny("bloom")
    model.config.slow_but_exact = True
    with pytest.raises(ModelError, match="slow_but_exact=False"):
        anatomy_of(model)


def test_an_unknown_kind_of_linears_names_the_known() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'attention'"):
        anatomy_of(tiny("llama")[0]).linears("attentions")  # type: ignore[arg-type]


def test_tiny_models_are_the_same_every_time_and_cover_any_text() -> None:
    (first, tokenizer), (second, _), (other, _) = tiny("llama"), tiny("llama"), tiny("llama", seed=1)
    ids = ids_of(tokenizer)
    assert torch.equal(first(input_ids=ids).logits, second(input_ids=ids).logits)
    assert not torch.equal(first(input_ids=ids).logits, other(input_ids=ids).logits)
    for text in ("C1=CC=CC=C1", " Yes", "naïve 漢字 🧪\n", "the answer is yes"):
        encoded = tokenizer(text).input_ids
        assert encoded[0] == tokenizer.bos_token_id
        assert tokenizer.decode(encoded, skip_special_tokens=True) == text
    assert len(tokenizer(" yes", add_special_tokens=False).input_ids) == 1
    assert 256 < len(tokenizer) < 350
