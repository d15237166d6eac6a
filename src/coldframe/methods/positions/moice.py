"""MoICE: a router in every layer chooses among RoPE bases, for every head and token."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from coldframe.config import check
from coldframe.errors import DataError
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Conditioning
from coldframe.frozen.rotary import Heads, PositionScheme, rotate
from coldframe.frozen.sequence_loss import TokenSequence, mean_nll
from coldframe.methods.config import MethodContext
from coldframe.methods.positions.scheme import BasesConfig, PositionMethod
from coldframe.methods.training_set import Problem, TrainingData, TrainingSet
from coldframe.tasks.task import Example, Task

_INIT_STD = 0.02  # of new weights in the authors' training: Llama's own


@dataclasses.dataclass(frozen=True)
class MoICEConfig(BasesConfig):
    """Settings of MoICE, beside those of :class:`BasesConfig`: the router chooses among the bases.

    Args:
        top_k: Bases that count for a token, from 1 to all of them.
        balance: Weight of the load-balancing loss, at least 0.
        texts: Texts that are trained on, at most; drawn by the seed.
        length: Tokens of a text that are read, at least 2, and never more than the model's context.
    """

    section = "MoICE settings"
    at_least = {"top_k": 1, "balance": 0, "texts": 1, "length": 2}

    bases: tuple[float, ...] = (10000.0, 17500.0, 18000.0, 19000.0, 20000.0, 22500.0, 25000.0)
    top_k: int = 7
    balance: float = 0.3
    texts: int = 896
    length: int = 4608

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = self.top_k <= len(self.bases)
        check(fits, "top_k is larger than the number of bases", got=self.top_k, expected=f"1 to {len(self.bases)}")


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


class MoICE(PositionMethod):
    """Mixture of in-context experts: for every head and token a mixture of attentions under E RoPE bases.

        g_t = W_2 (silu(W_1 q_t) * W_3 q_t)      q_t as turned under the first base; W_1, W_3: d_h to E, W_2: E to E
        p_t = softmax(g_t), all but the top k set to 0, divided by the sum of what is left
        z_t = sum_e p_te Attention_e(q_t, K, V)

    An expert is a base, nothing else, so all that is trained is ``layers (2 d_h E + E^2)`` parameters, on plain text:

        L = mean over the text of -log p(x_{t+1} | x_{<=t})  +  balance E sum_e f_e P_e

    The texts are the entries of the store, or the solved training rows of a task without one. Untrained, all bases
    count about the same.

    Paper: Lin et al. 2024, arXiv 2406.19598. Deviates: the router is float32; bases are scaled to the model's own;
    the published data are OpenHermes.

    Cost: E attentions in each layer; keys are turned anew under every base at every step. The text's states depend on
    it.

    Example:
        >>> MoICE(bases=[10000, 20000], top_k=1)
        MoICE(bases=(10000.0, 20000.0), top_k=1)
    """

    name: ClassVar[str] = "moice"
    paper: ClassVar[str] = "arXiv 2406.19598"
    config_class = MoICEConfig
    config: MoICEConfig
    trainable: ClassVar[bool] = True
    learning_rate: ClassVar[float] = 1e-4
    training_defaults: ClassVar[Mapping[str, Any]] = {
        "epochs": 1,
        "batch_size": 128,
        "weight_decay": 0.0,
        "schedule": "constant",
        "warmup": 0.0,
        "clip": 0.0,
    }

    def build(self, context: MethodContext) -> None:
        """The angles under every base, and a router for every layer."""
        super().build(context)
        self.frequencies = self.rotary.frequencies(self.config.factors)
        anatomy = context.lm.anatomy
        gates = [Gate(anatomy.head_dim, len(self.config.bases)) for _ in range(anatomy.n_layers)]
        for weight in (weight for gate in gates for weight in gate.parameters()):
            nn.init.normal_(weight, std=_INIT_STD)
        self.router = nn.ModuleList(gates)

    def scheme(self) -> Mixture:
        """The mixture of the attentions under all bases."""
        return Mixture(self.frequencies, self.router, self.config.top_k)

    def problems(self, data: TrainingData) -> Iterator[Problem]:
        """The texts, each read alone and whole."""
        entries = data.task.train if data.task.store is None else data.task.store
        order = np.random.default_rng(data.seed).permutation(len(entries))[: self.config.texts]
        rows = self.token_rows([data.task.schema.rendered(entries[i]) for i in order])
        yield Problem(self, TrainingSet(rows, [len(row) for row in rows]), name="MoICE routers", at_once=1)

    def learned_rows(self, task: Task) -> tuple[Example, ...]:
        """Training rows, where the task has no store of its own."""
        return task.train if task.store is None else ()

    def token_rows(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        """Texts as what is trained on: token ids, of two tokens or more."""
        lm = self.ready.lm
        length = min(self.config.length, lm.max_positions)
        rows = [row for text in texts if len(row := (*lm.bos, *lm.tokenize(text))[:length]) >= 2]
        if not rows:
            expected = "at least one of two tokens or more"
            raise DataError("There is no text to train on", got=f"{len(texts)} texts", expected=expected)
        return rows

    def loss(self, lm: FrozenLM, batch: Any) -> Tensor:
        """Mean loss of each text's tokens, with the balance of its routing, ``[n]``."""
        rows: Sequence[tuple[int, ...]] = batch
        losses = [self.losses(lm, row) for row in rows]
        return torch.stack([nll + self.config.balance * balance for nll, balance in losses])

    def losses(self, lm: FrozenLM, ids: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Next-token loss of one text, and the balance of its routing."""
        scheme = self.scheme()
        seen: list[Tensor] = []
        scheme.seen = seen
        (nll,) = mean_nll(lm, [TokenSequence(ids)], Conditioning(positions=scheme))
        return nll, balance_loss([layer[:, :, :-1] for layer in seen], self.config.top_k)  # the last predicts nothing


class Mixture(PositionScheme):
    """The attentions under all bases, mixed for every head and token as the layer's router says.

    Attributes:
        seen: Takes the router's logits of every layer, where training wants them.
    """

    def __init__(self, frequencies: list[Tensor], router: nn.ModuleList, top_k: int) -> None:
        self.frequencies, self.router, self.top_k = frequencies, router, top_k
        self.seen: list[Tensor] | None = None

    def attend(self, at: Heads) -> Tensor:
        """The mixture, ``[batch, heads, Q, d]``."""
        frequencies = self.frequencies[at.layer]
        logits = self.router[at.layer](rotate(at.q, at.q_at * frequencies[0]).float())  # [batch, heads, Q, E]
        if self.seen is not None:
            self.seen.append(logits)
        weights = routed(logits, self.top_k).to(at.q.dtype)
        mixture = torch.zeros_like(at.q)
        for expert, base in enumerate(frequencies):
            answer = at.mixed(rotate(at.q, at.q_at * base), rotate(at.k, at.k_at * base))
            mixture = mixture + weights[..., expert, None] * answer
        return mixture


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
