from __future__ import annotations

import time

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from coldframe.errors import ConfigError, ModelError
from coldframe.evaluation.cost import (
    FEW,
    Cost,
    counted_flops,
    latency,
    mean_prefill_flops,
    prefill_flops,
    weights_of,
)

SMALL = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 6, "vocab_size": 131}
CONFIGS = {
    "llama-gqa": transformers.LlamaConfig(**SMALL, num_key_value_heads=2, intermediate_size=80),
    "qwen3-wide-heads": transformers.Qwen3Config(**SMALL, num_key_value_heads=3, head_dim=16, intermediate_size=80),
    "gpt2": transformers.GPT2Config(n_embd=48, n_layer=3, n_head=6, vocab_size=131, n_positions=64),
    "opt-projected": transformers.OPTConfig(**SMALL, ffn_dim=96, word_embed_proj_dim=32, max_position_embeddings=64),
    "bloom": transformers.BloomConfig(hidden_size=48, n_layer=3, n_head=6, vocab_size=131),
    "falcon-multi-query": transformers.FalconConfig(**SMALL, multi_query=True, alibi=False),
    "falcon-grouped": transformers.FalconConfig(**SMALL, new_decoder_architecture=True, num_kv_heads=2, alibi=False),
    "phi": transformers.PhiConfig(**SMALL, intermediate_size=80),
    "gemma3": transformers.Gemma3TextConfig(**SMALL, num_key_value_heads=2, head_dim=16, intermediate_size=80),
    "mistral": transformers.MistralConfig(**SMALL, num_key_value_heads=2, intermediate_size=80),
    "qwen2": transformers.Qwen2Config(**SMALL, num_key_value_heads=2, intermediate_size=80),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("cached", "tokens", "positions"), [(0, 17, 1), (9, 5, 1), (0, 12, 12)])
def test_formula_agrees_with_torch(name, cached, tokens, positions):
    config = CONFIGS[name]
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    ids = torch.randint(0, 131, (1, cached + tokens))
    with torch.no_grad():
        past = model(ids[:, :cached], use_cache=True).past_key_values if cached else None
        with FlopCounterMode(display=False) as counter:
            model(ids[:, cached:], past_key_values=past, use_cache=True, logits_to_keep=positions)
    counted = counter.get_total_flops()
    # What the formula leaves out: rotary angles and ALiBi are tiny matrix products.
    assert prefill_flops(config, tokens, cached=cached, positions=positions) == pytest.approx(counted, rel=0.01)


def test_formula_agrees_with_torch_on_an_encoder():
    config = transformers.BertConfig(**SMALL, intermediate_size=96)
    model = transformers.BertModel(config, add_pooling_layer=False).eval()
    counted = counted_flops(lambda: model(torch.randint(0, 131, (1, 11))))
    assert prefill_flops(config, 11, positions=0) == pytest.approx(counted, rel=1e-9)


@pytest.mark.parametrize(
    ("config", "giga"),
    [
        (transformers.Qwen3Config(hidden_size=1024, num_hidden_layers=28, num_attention_heads=16, head_dim=128,
                                  num_key_value_heads=8, intermediate_size=3072), 0.88),
        (transformers.LlamaConfig(hidden_size=3072, num_hidden_layers=28, num_attention_heads=24,
                                  num_key_value_heads=8, intermediate_size=8192), 5.64),
        (transformers.Qwen3Config(hidden_size=2560, num_hidden_layers=36, num_attention_heads=32, head_dim=128,
                                  num_key_value_heads=8, intermediate_size=9728), 7.27),
        (transformers.MistralConfig(hidden_size=4096, num_hidden_layers=32, num_attention_heads=32,
                                    num_key_value_heads=8, intermediate_size=14336), 13.96),
    ],
)  # fmt: skip
def test_operations_per_token_of_the_papers_models(config, giga):
    assert 2 * weights_of(config) / 1e9 == pytest.approx(giga, abs=0.005)


def test_a_shared_prefix_costs_its_part_once():
    """Read in one go or in two parts, the same matrices; only attention over later tokens differs."""
    config = CONFIGS["llama-gqa"]
    whole = prefill_flops(config, 20)
    parts = prefill_flops(config, 12, positions=0) + prefill_flops(config, 8, cached=12)
    assert whole - parts == 4 * 3 * 48 * (20 * 20 - 12 * 12 - 8 * 20) > 0
    assert mean_prefill_flops(config, [4, 10]) == (prefill_flops(config, 4) + prefill_flops(config, 10)) / 2


def test_unknown_models_and_nonsense_are_told():
    with pytest.raises(ModelError, match="mamba.*GATED or PLAIN"):
        prefill_flops(transformers.MambaConfig(), 3)
    with pytest.raises(ConfigError, match="negative"):
        prefill_flops(CONFIGS["gpt2"], -1)


def test_latency():
    median, p90 = latency(lambda: time.sleep(0.002), repeats=5, warm_up=0)
    assert 2 <= median <= p90 < 200
    calls: list[int] = []
    latency(lambda: (calls.append(1), time.sleep(0.002)), repeats=50, warm_up=1, seconds=0.005)
    assert len(calls) == 1 + FEW, "what takes long is timed a few times"


def test_cost_round_trip():
    cost = Cost(trainable_parameters=10, prefill_flops=1.5e9)
    assert Cost.from_dict(cost.to_dict()) == cost
