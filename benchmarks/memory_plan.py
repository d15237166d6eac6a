"""How much memory of one card the papers' models and recipes need: from shapes alone, nothing is loaded.

    python -m benchmarks.memory_plan

Models are built on torch's meta device, which has shapes and no numbers. What a backward pass needs is what autograd
keeps of a forward pass there (saved tensors that are no weights), so it is counted, not estimated. It is an upper
bound: the attention that keeps its weights is counted, and a card's fused one keeps none. On top come what is trained
(the parameter, its gradient and AdamW's two moments, float32), the kept states of the texts and the logits that are
read. A card needs a tenth more, for what its libraries and their pool take.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, PretrainedConfig, Qwen3Config

from benchmarks.common import say

GB = 1e9


def _config(kind: type[PretrainedConfig], **sizes: Any) -> PretrainedConfig:
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    shape = dict(zip((*names, "vocab_size"), sizes.pop("shape"), strict=True))
    return kind(**shape, **sizes)


MODELS: Mapping[str, PretrainedConfig] = {
    "Qwen/Qwen3-0.6B": _config(
        Qwen3Config, shape=(1024, 3072, 28, 16, 8, 151936), head_dim=128, tie_word_embeddings=True
    ),
    "Qwen/Qwen3-4B": _config(
        Qwen3Config, shape=(2560, 9728, 36, 32, 8, 151936), head_dim=128, tie_word_embeddings=True
    ),
    "meta-llama/Llama-3.2-1B": _config(LlamaConfig, shape=(2048, 8192, 16, 32, 8, 128256), tie_word_embeddings=True),
    "meta-llama/Llama-3.2-3B": _config(LlamaConfig, shape=(3072, 8192, 28, 24, 8, 128256), tie_word_embeddings=True),
    "mistralai/Mistral-7B-v0.3": _config(MistralConfig, shape=(4096, 14336, 32, 32, 8, 32768), sliding_window=None),
}
"""Hub id and shape of the papers' models."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What is done at once.

    Attributes:
        title: For the table.
        batch: Sequences.
        read: Tokens of each whose states are read or kept without a gradient; the batch attends to them.
        trained: Tokens of each that a gradient passes.
        kept: Texts whose states of ``read`` tokens are kept on the card.
        rank: Of the low-rank updates of all linears that are trained; 0 none.
        heads: Of an MHA-ESP that is trained; 0 none.
        per_row: Whether every sequence has an update of its own.
    """

    title: str
    batch: int
    read: int
    trained: int
    kept: int = 0
    rank: int = 0
    heads: int = 0
    per_row: bool = False

    def parameters(self, model: torch.nn.Module, config: PretrainedConfig) -> int:
        """Numbers that training changes."""
        width = config.hidden_size
        linears = [
            at for name, at in model.named_modules() if isinstance(at, torch.nn.Linear) and "lm_head" not in name
        ]
        low_rank = sum(self.rank * (at.in_features + at.out_features) for at in linears)
        # Queries, keys and values of every head, from an encoder's 384 numbers; the label beside them is small.
        return low_rank * (self.batch if self.per_row else 1) + 3 * self.heads * width * 384


JOBS = (
    Job("MHA-ESP, H = 8, soft tokens before 512 tokens, batch 8 (the papers' placement)", 8, 0, 520, heads=8),
    Job("MHA-ESP, H = 8, after 512 tokens, batch 16, states of 2,000 texts kept", 16, 512, 8, kept=2000, heads=8),
    Job("MHA-ESP, H = 8, after 512 tokens, batch 16, states read anew", 16, 512, 8, heads=8),
    Job("LoRA, rank 64, all linears, 512 tokens, batch 8", 8, 0, 512, rank=64),
    Job("PRAG, rank 2, 8 passages at once, sequences of 512 tokens", 8, 0, 512, rank=2, per_row=True),
    Job("retrieved ICL, K = 5, 2,048 tokens, batch 8, no training", 8, 2048, 0),
)


def model_of(config: PretrainedConfig) -> torch.nn.Module:
    """The model's shape in bfloat16, without numbers."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            model: torch.nn.Module = AutoModelForCausalLM.from_config(config)
    finally:
        torch.set_default_dtype(before)
    return model.eval().requires_grad_(False)


def saved_bytes(model: Any, batch: int, tokens: int) -> int:
    """Bytes that autograd keeps of a forward pass whose inputs have a gradient, weights left out."""
    weights = {id(parameter) for parameter in model.parameters()}
    seen: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        base = tensor if tensor._base is None else tensor._base
        if id(base) not in weights:
            seen.setdefault(id(base), base)
        return tensor

    first = next(model.parameters())
    embeds = torch.zeros(
        batch, tokens, model.config.hidden_size, dtype=first.dtype, device=first.device, requires_grad=True
    )
    mask = torch.ones(batch, 1, tokens, tokens, dtype=torch.bool, device=first.device).tril()
    positions = torch.arange(tokens, device=first.device)[None]
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        model.model(inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=False)
    return sum(base.nbytes for base in seen.values())


def plan(config: PretrainedConfig, job: Job) -> dict[str, float]:
    """GB of one card, by what takes them."""
    model = model_of(config)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    token_state = 2 * 2 * config.num_hidden_layers * config.num_key_value_heads * head  # keys and values, bfloat16
    trained = 16 * job.parameters(model, config)
    backward = saved_bytes(model, job.batch, job.trained) if job.trained else 0
    if job.rank:  # the inputs of the linears, which only a trained update needs
        inputs = 2 * config.hidden_size + config.num_attention_heads * head + config.intermediate_size
        backward += 2 * job.batch * job.trained * config.num_hidden_layers * inputs
    copies = 2 if job.trained else 1  # put side by side, then once more with what follows them
    states = token_state * job.read * (job.kept + copies * job.batch)
    logits = 4 * job.batch * config.vocab_size
    parts = {"weights": weights, "trained": trained, "backward": backward, "states": states, "logits": logits}
    gigabytes = {name: value / GB for name, value in parts.items()}
    return {**gigabytes, "sum": sum(gigabytes.values()), "card": 1.1 * sum(gigabytes.values())}


def main() -> None:
    """Print the table as Markdown, and all numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="all parts instead of the table")
    options = parser.parse_args()
    table = {name: {job.title: plan(config, job) for job in JOBS} for name, config in MODELS.items()}
    if options.json:
        print(json.dumps(table, indent=1))
        return
    print("| GB of one card | " + " | ".join(name.partition("/")[2] for name in table) + " |")
    print("|---|" + "---:|" * len(table))
    for job in JOBS:
        print(f"| {job.title} | " + " | ".join(f"{table[name][job.title]['card']:.0f}" for name in table) + " |")
    say("bfloat16; upper bounds; a tenth is added for what a card's libraries take")


if __name__ == "__main__":
    main()
