"""MoICE: a router in every layer chooses among RoPE bases, for every head and token."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from coldframe.config import Config, check
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.rotary import Heads, rotate
from coldframe.methods.positions.router_file import read_router, write_router
from coldframe.methods.positions.scheme import PositionScheme

_INIT_STD = 0.02  # of new weights in the authors' training: Llama's own


@dataclasses.dataclass(frozen=True)
class MoICEConfig(Config):
    """Settings of MoICE.

    Args:
        bases: RoPE bases that the router chooses among, each above 0, for a model whose own base is ``reference``.
        reference: As for Attention Buckets: a model with another base gets the bases scaled to its own.
        top_k: Bases that count for a token, from 1 to all of them.
        seed: Of the untrained router.
    """

    section = "MoICE settings"

    bases: tuple[float, ...] = (10000.0, 17500.0, 18000.0, 19000.0, 20000.0, 22500.0, 25000.0)
    reference: float = 10000.0
    top_k: int = 7
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check(bool(self.bases) and min(self.bases) > 0, "Every expert needs a base above 0", got=self.bases)
        check(self.reference > 0, "reference must be positive", got=self.reference)
        known = 1 <= self.top_k <= len(self.bases)
        check(known, "top_k must be a number of bases", got=self.top_k, expected=f"1 to {len(self.bases)}")
        check(self.seed >= 0, "seed cannot be negative", got=self.seed)


class Gate(nn.Module):
    """The router of one layer: ``g = W_2 (silu(W_1 q) * W_3 q)``, the same for all its heads, without biases.

    Shapes:
        q: ``[..., head_dim]`` -> ``[..., E]``.
    """

    def __init__(self, head_dim: int, experts: int) -> None:
        super().__init__()
        self.gate1 = nn.Linear(head_dim, experts, bias=False)
        self.gate2 = nn.Linear(experts, experts, bias=False)
        self.gate3 = nn.Linear(head_dim, experts, bias=False)

    def forward(self, q: Tensor) -> Tensor:
        """Logits over the bases."""
        logits: Tensor = self.gate2(nn.functional.silu(self.gate1(q)) * self.gate3(q))
        return logits


class MoICE(PositionScheme):
    """Mixture of in-context experts: for every head and token a mixture of attentions under E RoPE bases.

        g_t = W_2 (silu(W_1 q_t) * W_3 q_t)      q_t as turned under the first base; W_1, W_3: d_h to E, W_2: E to E
        p_t = softmax(g_t), all but the top k set to 0, divided by the sum of what is left
        z_t = sum_e p_te Attention_e(q_t, K, V)

    An expert is a base, nothing else, so all that is trained is ``layers (2 d_h E + E^2)`` numbers
    (:func:`~coldframe.methods.positions.router_training.train_router`). Untrained, all bases count about the same.

    Paper: Lin et al. 2024, arXiv 2406.19598. Deviates: the router is float32; bases are scaled to the model's own.

    Cost: E attentions in each layer; keys are turned anew under every base at every step.
    """

    paper: ClassVar[str] = "arXiv 2406.19598"
    config_class = MoICEConfig
    config: MoICEConfig

    def __init__(self, lm: FrozenLM, config: MoICEConfig | None = None, **settings: Any) -> None:
        super().__init__(lm, config, **settings)
        self._frequencies = self.rotary.frequencies([base / self.config.reference for base in self.config.bases])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            gates = [Gate(lm.anatomy.head_dim, len(self.config.bases)) for _ in range(lm.anatomy.n_layers)]
            for weight in (weight for gate in gates for weight in gate.parameters()):
                nn.init.normal_(weight, std=_INIT_STD)
        self.router = nn.ModuleList(gates).to(lm.device)
        self.history: list[dict[str, float]] = []
        self.seen: list[Tensor] | None = None  # where training wants it: the router logits of every layer

    def attend(self, at: Heads) -> Tensor:
        """The mixture of the attentions under all bases."""
        frequencies = self._frequencies[at.layer]
        logits = self.router[at.layer](rotate(at.q, at.q_at * frequencies[0]).float())  # [batch, heads, Q, E]
        if self.seen is not None:
            self.seen.append(logits)
        weights = routed(logits, self.config.top_k).to(at.q.dtype)
        mixture = torch.zeros_like(at.q)
        for expert, base in enumerate(frequencies):
            answer = at.mixed(rotate(at.q, at.q_at * base), rotate(at.k, at.k_at * base))
            mixture = mixture + weights[..., expert, None] * answer
        return mixture

    def save(self, folder: str | Path) -> None:
        """Write the router: some kilobytes of JSON and safetensors."""
        base = {**self.lm.provenance, "weight_hash": self.lm.weight_hash, "dtype": str(self.lm.dtype)}
        described = {"base_model": base, "config": self.config.to_dict(), "history": self.history}
        write_router(Path(folder), described, self.router.state_dict())

    @classmethod
    def load(cls, lm: FrozenLM, folder: str | Path) -> Self:
        """A router that was saved, on the model it was trained for.

        Raises:
            ArtifactError: If there is none, it is damaged, or it belongs to other weights.
        """
        described, tensors = read_router(Path(folder), lm)
        made = cls(lm, MoICEConfig.from_dict(described["config"]))
        made.router.load_state_dict(tensors)
        made.history = described["history"]
        return made


def routed(logits: Tensor, top_k: int) -> Tensor:
    """The softmax over experts with all but the ``top_k`` set to 0 and the rest scaled to a sum of 1.

    >>> routed(torch.tensor([0.0, 0.0, -9.0]), 2).tolist()
    [0.5, 0.5, 0.0]
    """
    chosen = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, logits.topk(top_k, dim=-1).indices, True)
    return logits.masked_fill(~chosen, -torch.inf).softmax(-1)


def balance_loss(seen: list[Tensor], top_k: int) -> Tensor:
    """``E sum_e f_e P_e``: f_e the share of choices that have expert e in their top k, P_e its mean probability.

    It is least where both are even. With ``top_k = E``, as published, every ``f_e`` is 1 and the loss is ``E``
    whatever the router does: a constant, without a gradient.

    Paper: Fedus et al. 2021 (Switch Transformer), arXiv 2101.03961, summed over the k choices.

    Shapes:
        seen: one ``[..., E]`` for each layer; all layers, heads and tokens count the same. Returns ``[]``.
    """
    logits = torch.cat([layer.flatten(0, -2) for layer in seen])
    experts = logits.shape[-1]
    chosen = torch.zeros_like(logits).scatter(-1, logits.topk(top_k, dim=-1).indices, 1.0)
    return experts * (chosen.mean(0) * logits.softmax(-1).mean(0)).sum()
