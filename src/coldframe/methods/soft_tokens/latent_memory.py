"""Latent memory: learned slots look into an embedding store and become soft tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from coldframe.errors import ConfigError
from coldframe.frozen.ports import Conditioning
from coldframe.methods.config import MethodContext
from coldframe.methods.search_space import Choices, SearchSpace
from coldframe.methods.soft_tokens.base import EncodedConfig, EncodedMethod, vocabulary_prompt
from coldframe.retrieval.store import Retrieved


@dataclasses.dataclass(frozen=True)
class LatentMemoryConfig(EncodedConfig):
    """Settings of latent memory.

    Args:
        tokens: m, slots, each of which becomes a soft token, at least 1.
        k: Entries retrieved per query, at least 1.
        heads: Of the cross-attention, at least 1; they share the model's width between them.
        slope: g at the start, what a cosine counts in the scores, at least 0. Cosines of neighbours differ by tenths:
            with 1 attention stays even for hundreds of steps.
        static: Adds the slots to what they read, so that a method that reads nothing is Prompt Tuning.
    """

    section = "latent memory settings"
    at_least = {"tokens": 1, "k": 1, "heads": 1, "slope": 0}

    tokens: int = 16
    k: int = 5
    heads: int = 4
    slope: float = 20.0
    adapter: int | None = None
    dropout: float = 0.0


class LatentMemory(EncodedMethod):
    """Cross-attention from learned slots over the retrieved entries of an embedding store.

    With ``e_x = E(x)``, entries ``s_i = E(x_i (+) y_i)`` of similarity ``r_i``, slots ``p_1 .. p_m`` and heads
    h = 1..H of width ``d_h = d / H``::

        u = W_2 tanh(W_1 e_x + b_1) + b_2    q_j = W_Q (p_j + u) + b_Q    k_i = W_K s_i    v_i = W_V s_i + b_V
        a_hji = softmax_i(q_jh . k_ih / sqrt(d_h) + g_h r_i)
        C_j = p_j + W_O [sum_i a_1ji v_i1; ..; sum_i a_Hji v_iH] + b_O

    Where the entries are alike, or say nothing about the answer, all that is left to learn is ``p_j``: a
    static prompt.

    Paper: the pipeline of "Your retriever is just doing prompt tuning", which states m = 16, d = 768 and the
    counts 3,555,076 and (for the static prompt) 12,288, but neither its parts nor its code. The parts are ours,
    chosen to give the stated count: at ``d = d' = 768`` there are six matrices, 16 slots, 5 biases and 4 scalars.
    Deviates: suffix placement; the slots learn at a rate of their own (``static_learning_rate``).

    Shapes:
        e_x ``[batch, d']``, s ``[batch, k, d']`` -> C ``[batch, m, d]``.

    Cost:
        ``3 d (d + d') + (m + 5) d + H`` parameters (plus adapter, and ``2 d`` for each label where labels are
        vectors), m tokens.

    Relations:
        :class:`PromptTuning` with m tokens is what is left when it reads nothing. :class:`MHAESP` has no slots:
        its heads ask with the query alone, and have the model's full width each.

    Example:
        >>> LatentMemory().config.tokens
        16
    """

    name: ClassVar[str] = "latent-memory"
    paper: ClassVar[str] = "Your retriever is just doing prompt tuning"
    config_class = LatentMemoryConfig
    config: LatentMemoryConfig
    uses_retrieval: ClassVar[bool] = True
    search_space: ClassVar[SearchSpace] = {
        **EncodedMethod.search_space,
        "tokens": Choices((8, 16, 32)),
        "k": Choices((3, 5, 10)),
    }
    learning_rate: ClassVar[float] = 1e-3

    def build(self, context: MethodContext) -> None:
        """Slots, query encoder and the four maps of attention."""
        d, heads = context.lm.d_model, self.config.heads
        if d % heads:
            sizes = f"{heads} heads, width {d}"
            raise ConfigError("The heads share the model's width", got=sizes, expected="a divisor of the width")
        self.build_inputs(context, self.config.tokens)
        self.slots = nn.Parameter(vocabulary_prompt(context, self.config.tokens)) if self.static is None else None
        d_entry = self.d_in + self.d_label
        self.ask = nn.Sequential(nn.Linear(self.d_in, d), nn.Tanh(), nn.Linear(d, d))
        self.query = nn.Linear(d, d)
        self.key = nn.Linear(d_entry, d, bias=False)  # a bias would add the same to all scores of a softmax
        self.value = nn.Linear(d_entry, d)
        self.output = self.scaled_linear(d, d)
        self.slope = nn.Parameter(torch.full((heads,), self.config.slope))

    @property
    def scoring_parameters(self) -> list[nn.Parameter]:
        """Of queries and keys."""
        return [*self.query.parameters(), *self.key.parameters()]

    def condition(self, texts: Sequence[str], retrieved: Retrieved) -> Conditioning:
        """Generate ``[batch, m, d]`` from the queries and the set retrieved for each."""
        read, attention = self.attend(texts, retrieved.ranked().top(self.config.k).canonical())
        return Conditioning(
            soft_tokens=self.placed(read), placement=self.config.placement, attention=attention.mean(dim=1)
        )

    def attend(self, texts: Sequence[str], retrieved: Retrieved) -> tuple[Tensor, Tensor]:
        """The equations, but for the slots that are added: ``[batch, m, d]``, and attention ``[batch, H, m, k]``."""
        n, heads, d = len(texts), self.config.heads, self.ready.lm.d_model
        slots = self.slots if self.static is None else self.static
        assert slots is not None  # one of the two was built
        entries, present = self.exemplar_vectors(retrieved)
        similarity = torch.from_numpy(retrieved.scores).to(entries.device)
        shifted = slots + self.ask(self.encode(texts)).unsqueeze(1)
        q, k, v = (
            x.view(n, -1, heads, d // heads).transpose(1, 2)
            for x in (self.query(shifted), self.key(entries), self.value(entries))
        )
        scores = q @ k.transpose(-1, -2) / (d // heads) ** 0.5
        scores = scores + self.slope[:, None, None] * similarity[:, None, None, :]
        scores = scores.masked_fill(~present[:, None, None, :], float("-inf"))
        # A query without any entry reads nothing instead of dividing zero by zero.
        a = torch.softmax(scores, dim=-1).nan_to_num(0.0)
        self.watch(a.flatten(1, 2), present)
        return self.output((a @ v).transpose(1, 2).reshape(n, -1, d)), a
