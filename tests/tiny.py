"""Tiny random models of every known architecture, and a tokenizer, made in memory: no download, the same every time."""

from __future__ import annotations

import functools
import os
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

DEVICE = os.environ.get("COLDFRAME_TEST_DEVICE", "cpu")  # where the tiny models are
SPECIAL = ("<pad>", "<bos>", "<eos>")
WORDS = ("Ġyes", "Ġno", "Ġthe", "Ġanswer", "Ġis", "Ġmolecule", "Yes", "No", "Question", "Answer")

_COMMON: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2}
_GATED: dict[str, Any] = {**_COMMON, "intermediate_size": 48, "num_key_value_heads": 2, "max_position_embeddings": 256}
_FALCON: dict[str, Any] = {**_COMMON, "model_type": "falcon", "max_position_embeddings": 256, "bias": True}

# A name stands for a model_type, or for a variant that the model_type's config chooses.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {**_GATED, "num_hidden_layers": 3},
    "mistral": {**_GATED, "head_dim": 16},
    "qwen2": {**_GATED, "tie_word_embeddings": True},
    "qwen3": {**_GATED, "head_dim": 16},
    "gemma3_text": {**_GATED, "head_dim": 16, "final_logit_softcapping": 30.0, "sliding_window": 128},
    "phi": {**_GATED, "num_key_value_heads": 4},
    "phi3": {**_GATED},
    "gpt2": {"n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 256},
    "opt": {**_COMMON, "ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 256},
    "opt-projected": {
        **_COMMON,
        "model_type": "opt",
        "ffn_dim": 48,
        "word_embed_proj_dim": 24,
        "max_position_embeddings": 256,
        "do_layer_norm_before": False,
    },
    "bloom": {"hidden_size": 32, "n_head": 4, "n_layer": 2},
    "falcon": {**_FALCON, "multi_query": True},
    "falcon-new": {**_FALCON, "new_decoder_architecture": True, "num_kv_heads": 2},
    "falcon-alibi": {**_FALCON, "alibi": True, "parallel_attn": False, "multi_query": False},
    "gpt_neox": {**_COMMON, "intermediate_size": 48, "max_position_embeddings": 256},
}


@functools.cache
def _tokenizer_json() -> str:
    """A byte-level vocabulary: all 256 bytes, the special tokens and a few whole words; any text is covered."""
    vocabulary = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        for end in range(2, len(word) + 1):
            pair = (word[: end - 1], word[end - 1])
            if word[:end] not in vocabulary:
                vocabulary.append(word[:end])
                merges.append(pair)
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(vocabulary)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", SPECIAL.index("<bos>"))]
    )
    tokenizer.add_special_tokens(list(SPECIAL))
    return str(tokenizer.to_str())


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of about 300 tokens with ``<bos>`` (put first), ``<eos>`` and ``<pad>``."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_tokenizer_json()), pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )


def tiny(architecture: str = "llama", seed: int = 0) -> tuple[Any, PreTrainedTokenizerFast]:
    """A frozen random float32 model and its tokenizer; the same weights for the same seed.

    The weights are larger than a usual initialisation, so that attention is far from uniform and a wrong
    mask or position shows in the logits.
    """
    tokenizer = tiny_tokenizer()
    settings = {"model_type": architecture, **ARCHITECTURES[architecture]}
    config = AutoConfig.for_model(
        **settings,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for parameter in model.parameters():
            if parameter.dim() == 2:
                torch.nn.init.normal_(parameter, std=1.5 / parameter.shape[-1] ** 0.5)
            else:
                parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model.eval().requires_grad_(False).to(DEVICE), tokenizer
