"""Trained parameters of the methods on the papers' models, counted on their shapes: no weights are needed.

    python -m reproduction.parameters --out runs/parameters

The papers' form of each method stands on a sentence encoder of width 384. Their table adds 1.200 million to every
encoded method, the LoRA of the encoder, whose list of targets is not stated; the same is added here. What a server
keeps for six tasks that are fine-tuned is six times the LoRA of one. OUT/results.json has millions by method and model.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, AutoModelForCausalLM

from coldframe.frozen.model import FrozenLM
from coldframe.methods.config import MethodContext
from coldframe.methods.registry import create
from coldframe.storage.files import write_json
from coldframe.tasks.task import Schema
from reproduction.small_gpt2 import tokenizer_of

ENCODER_LORA = 1.200
TASKS = 6
#: Of each model: kind, layers, width, feed-forward width, query heads, key-value heads, head width.
SHAPES = {
    "Qwen3-0.6B": ("qwen3", 28, 1024, 3072, 16, 8, 128),
    "Qwen3-4B": ("qwen3", 36, 2560, 9728, 32, 8, 128),
    "Llama-3.2-3B": ("llama", 28, 3072, 8192, 24, 8, 128),
    "Mistral-7B": ("mistral", 32, 4096, 14336, 32, 8, 128),
}
SCHEMA = Schema("counted", labels=("No", "Yes"), words=("no", "yes"))
#: The papers' form of a method that reads an encoder, and of their attention.
PLAIN: dict[str, Any] = {"encoder": "counted", "static": False, "adapter": None}
DOT: dict[str, Any] = {"scores": "dot", "similarity": "none", "label_place": "text", "query_part": False}


class Encoder:
    """As wide as ChemBERTa-2, and never asked for a vector."""

    spec = hash = "counted"
    dim, takes_label_text = 384, True

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Zeros."""
        return np.zeros((len(texts), self.dim), np.float32)


def shaped(model: str) -> FrozenLM:
    """A model of a published shape, of which no weight takes memory."""
    kind, layers, width, inner, heads, kv_heads, head_dim = SHAPES[model]
    config = AutoConfig.for_model(
        kind, hidden_size=width, intermediate_size=inner, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv_heads, head_dim=head_dim, vocab_size=640, max_position_embeddings=64,
    )  # fmt: skip
    with torch.device("meta"):
        return FrozenLM(AutoModelForCausalLM.from_config(config), tokenizer_of(iter(["a text"])), state_budget=0)


def slim(width: int) -> FrozenLM:
    """A model of a width and hardly anything else: soft tokens know no more of a model."""
    config = AutoConfig.for_model(
        "llama", hidden_size=width, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, head_dim=8, vocab_size=640, max_position_embeddings=64,
    )  # fmt: skip
    return FrozenLM(AutoModelForCausalLM.from_config(config), tokenizer_of(iter(["a text"])), state_budget=0)


def millions(name: str, lm: FrozenLM, settings: dict[str, Any]) -> float:
    """Trained parameters of a method, in millions."""
    method = create(name, settings)
    method.setup(MethodContext(lm, SCHEMA, Encoder() if method.uses_encoder else None))
    return sum(parameter.numel() for parameter in method.parameters()) / 1e6


def counts() -> dict[str, dict[str, float]]:
    """By method and model."""
    table: dict[str, dict[str, float]] = {}
    for model, shape in SHAPES.items():
        lm = slim(shape[2])
        for heads in (1, 2, 4, 8):
            own = millions("mha-esp", lm, {"heads": heads, **PLAIN, **DOT})
            table.setdefault(f"mha-esp, H = {heads}", {})[model] = own + ENCODER_LORA
        for name, settings in (("idpg", {"tokens": 1}), ("u-esp", {}), ("p-esp", {})):
            table.setdefault(name, {})[model] = millions(name, lm, {**settings, **PLAIN}) + ENCODER_LORA
        table.setdefault("prompt-tuning, m = 10", {})[model] = millions("prompt-tuning", lm, {"tokens": 10})
        with torch.device("meta"):
            lora = millions("lora", shaped(model), {"rank": 64})
        table.setdefault("lora, r = 64", {})[model] = lora
        table.setdefault("lora, six tasks", {})[model] = TASKS * lora
    return table


def main(argv: Sequence[str] | None = None) -> None:
    """Count and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    table = counts()
    write_json(options.out / "results.json", table, indent=2)
    for name, by_model in table.items():
        print(name, {model: round(value, 3) for model, value in by_model.items()})


if __name__ == "__main__":
    main()
