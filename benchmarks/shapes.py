"""Models of the shapes that the papers measured, with random weights: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from coldframe.frozen.model import FrozenLM


def _shape(width: int, inner: int, layers: int, heads: int, kv_heads: int, vocab: int) -> dict[str, int]:
    return {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
    }


SHAPES: Mapping[str, Mapping[str, int]] = {
    "smollm2-135m": _shape(576, 1536, 30, 9, 3, 49152),
    "smollm2-360m": _shape(960, 2560, 32, 15, 5, 49152),
    "llama-3.2-1b": _shape(2048, 8192, 16, 32, 8, 128256),
    "llama-3.2-3b": _shape(3072, 8192, 28, 24, 8, 128256),
    "llama-2-7b": _shape(4096, 11008, 32, 32, 32, 32000),
}


def of_shape(
    shape: Mapping[str, int], device: str = "cpu", tokenizer: PreTrainedTokenizerBase | None = None
) -> FrozenLM:
    """A model with random weights in bf16; the tokenizer only names tokens, if none is given."""
    config = LlamaConfig(**shape)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            model = LlamaForCausalLM(config)
        model.to_empty(device=device)
        with torch.no_grad():
            for name, tensor in model.named_parameters():
                tensor.fill_(1.0) if "norm" in name else tensor.uniform_(-0.03, 0.03)
        model.model.rotary_emb = type(model.model.rotary_emb)(config).to(device)
    finally:
        torch.set_default_dtype(before)
    return FrozenLM(model.eval(), tokenizer or _names(shape["vocab_size"]), {"name": "random weights"})


def _names(count: int) -> PreTrainedTokenizerBase:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    vocab = {f"t{i}": i for i in range(count)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(vocab, unk_token="t0")))  # noqa: S106
