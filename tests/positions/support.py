"""A llama written from its equations, one row and no cache, with any positions: what the rivals must match."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from tests.contract.cases import STORE, WRITE
from tests.tiny import tiny
from torch import Tensor
from transformers import AutoModelForCausalLM

from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Conditioning, Prompt
from coldframe.frozen.scoring import next_logits
from coldframe.frozen.tokens import end_tokens
from coldframe.methods.config import MethodContext
from coldframe.methods.registry import create
from coldframe.retrieval.store import Retrieved

ROTARY = ("llama", "mistral", "qwen2", "qwen3", "gemma3_text", "phi", "phi3", "gpt_neox")
PROMPTS = ["The answer is yes, the", "No", "Question: is the molecule the answer? Answer:"]
CLOSE = {"atol": 1e-4, "rtol": 1e-4}


def tiny_lm(architecture: str = "llama", seed: int = 0) -> FrozenLM:
    return FrozenLM(*tiny(architecture, seed))


def random_ids(rows: int, tokens: int) -> Tensor:
    return torch.randint(3, 250, (rows, tokens), generator=torch.Generator().manual_seed(tokens))


def with_rope(model: Any, **parameters: Any) -> Any:
    """The same weights in a model whose config has other RoPE parameters (those of every kind of layer alike)."""
    config = copy.deepcopy(model.config)
    nested = [one for one in config.rope_parameters.values() if isinstance(one, dict)]
    for one in nested or [config.rope_parameters]:
        one.update(parameters)
    other = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    other.load_state_dict(model.state_dict())
    return other.eval().requires_grad_(False)


def turned(x: Tensor, positions: Tensor, base: float = 10000.0) -> Tensor:
    """RoPE of one head, as a product of complex numbers: ``[T, d]`` at ``[T]``."""
    half = x.shape[-1] // 2
    angles = positions[:, None].double() * base ** -(torch.arange(half).double() / half)
    pairs = torch.complex(x[:, :half].double(), x[:, half:].double()) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((pairs.real, pairs.imag), dim=-1).float()


def causal_weights(q: Tensor, k: Tensor) -> Tensor:
    """Attention weights of one head, ``[T, T]``."""
    scores = q @ k.T / q.shape[-1] ** 0.5
    later = torch.ones_like(scores, dtype=torch.bool).triu(1)
    return scores.masked_fill(later, -torch.inf).softmax(-1)


def naive_llama(model: Any, ids: Sequence[int], attend: Callable[[int, int, Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """Logits ``[T, vocab]``; ``attend(layer, head, q, k, v)`` is the output of one query head, ``[T, d]``."""
    config = model.config
    dim = config.hidden_size // config.num_attention_heads
    groups = config.num_attention_heads // config.num_key_value_heads

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + config.rms_norm_eps) * weight

    x = model.model.embed_tokens.weight[torch.tensor(ids)]
    for index, block in enumerate(model.model.layers):
        h, own = norm(x, block.input_layernorm.weight), block.self_attn
        q, k, v = h @ own.q_proj.weight.T, h @ own.k_proj.weight.T, h @ own.v_proj.weight.T
        outputs = []
        for head in range(config.num_attention_heads):
            mine, shared = slice(head * dim, (head + 1) * dim), slice(head // groups * dim, (head // groups + 1) * dim)
            outputs.append(attend(index, head, q[:, mine], k[:, shared], v[:, shared]))
        x = x + torch.cat(outputs, dim=-1) @ own.o_proj.weight.T
        x = x + block.mlp(norm(x, block.post_attention_layernorm.weight))
    return norm(x, model.model.norm.weight) @ model.lm_head.weight.T


@functools.cache
def _queries(count: int) -> Retrieved:
    return Retrieved.nothing(STORE, count)


def reading(lm: FrozenLM, name: str, **settings: Any) -> Reading:
    """A method on a model, and what prompts come to under it."""
    return Reading(lm, create(name, settings).setup(MethodContext(lm, WRITE)))


@dataclasses.dataclass
class Reading:
    lm: FrozenLM
    method: Any

    def put(self, rows: int = 1) -> Conditioning:
        conditioning: Conditioning = self.method.condition([""] * rows, _queries(rows))
        return conditioning

    def logits(self, ids: Tensor) -> Tensor:
        return self.lm.logits(ids, None, self.put())

    def next_logits(self, texts: Sequence[str]) -> Tensor:
        """By way of the prompts' own reading, up to a constant of each row."""
        put, rows = self.put(), self.lm.rows([Prompt(text) for text in texts])
        with torch.no_grad(), self.lm.ports(put):
            return next_logits(self.lm, self.lm.prefill(rows, put).last, put.positions)

    def generate(self, texts: Sequence[str], count: int) -> list[str]:
        return self.lm.generate([Prompt(text) for text in texts], self.put(), max_new_tokens=count)


def prompt_ids(lm: FrozenLM, text: str) -> list[int]:
    return [*lm.bos, *lm.tokenize(text)]


def greedy(lm: FrozenLM, text: str, count: int, next_logits: Callable[[list[int]], Tensor]) -> str:
    """Greedy decoding that reads the whole row again for every token."""
    ids, written = prompt_ids(lm, text), []
    for _ in range(count):
        token = int(next_logits([*ids, *written]).argmax())
        if token in end_tokens(lm):
            break
        written.append(token)
    return lm.decode(written)
