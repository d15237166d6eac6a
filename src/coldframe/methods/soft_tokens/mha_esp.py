"""MHA-ESP: retrieved exemplars become soft tokens through multi-head attention."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from coldframe.config import check
from coldframe.errors import ConfigError
from coldframe.frozen.ports import Conditioning
from coldframe.methods.config import MethodContext
from coldframe.methods.search_space import Choices, SearchSpace
from coldframe.methods.soft_tokens.base import EncodedConfig, EncodedMethod, LabelPlace
from coldframe.methods.soft_tokens.set_attention import ScoreKind, SetAttention, Similarity
from coldframe.methods.text.icl import rendered
from coldframe.retrieval.store import Retrieved


@dataclasses.dataclass(frozen=True)
class MHAESPConfig(EncodedConfig):
    """Settings of MHA-ESP.

    Args:
        heads: H, soft tokens per query, at least 1; the papers try 1, 2, 4, 8.
        k: K, exemplars per query, at least 1; 5 in the papers.
        layers: Attention layers, at least 1; the papers find 1 best.
        windows: Vectors per exemplar, from overlapping windows of its text, at least 1; the papers find 1
            best. More than 1 needs a text encoder.
        text_exemplars: c, nearest exemplars that are also put in the prompt as text, 0 to K.
        scores: ``"cosine"`` compares queries and keys by their directions, at a learned temperature that gives the
            scores a spread from the start (ours); ``"dot"`` is the papers'.
        similarity: Adds a learned multiple of the retriever's similarity to each head's scores, ``g_i s_k`` (ours):
            ``"standard"`` with mean 0 and variance 1 within the set, ``"raw"`` as it is; ``"none"`` is the papers'.
        slope: ``g_i`` at the start.
        query_part: Adds what the query alone says, ``z_i + W_i^X e_x``, so that the exemplars need only
            carry what it does not (ours; off in the papers). It is IDPG's prompt.
    """

    section = "MHA-ESP settings"
    at_least = {"heads": 1, "k": 1, "layers": 1, "windows": 1, "text_exemplars": 0}

    heads: int = 8
    k: int = 5
    layers: int = 1
    windows: int = 1
    text_exemplars: int = 0
    scores: ScoreKind = "cosine"
    similarity: Similarity = "standard"
    slope: float = 2.0
    query_part: bool = True
    label_place: LabelPlace = "vector"

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = self.text_exemplars <= self.k
        check(fits, "text_exemplars are some of the k exemplars", got=self.text_exemplars, expected=f"at most {self.k}")


class MHAESP(EncodedMethod):
    """Multi-head attention exemplar soft prompts.

    For head i = 1..H, with ``e_x = E(x)`` and ``e_k = E(x_k (+) y_k)``::

        q_i = W_i^Q e_x      k_ik = W_i^K e_k      v_ik = W_i^V e_k        W in R^{d x d'}, with bias
        a_ik = softmax_k(q_i . k_ik / sqrt(d))     z_i = sum_k a_ik v_ik   Z = [z_1 ... z_H]

    Each head gives one soft token: full-width heads, no output projection, no residual, no norm. The sum
    runs over a set, so the exemplars' order carries nothing; here it is also bit-identical, because the set
    is first put into the one order its members decide.

    By these equations every head takes the mean of its exemplars, because their scores start near zero and stay
    there. By default (``scores``, ``similarity``, ``label_place``)::

        h_k  = [E(x_k); y_k]                               y_k: one-hot
        a_ik = softmax_k(t_i cos(W_i^Q e_x, W_i^K h_k) + g_i s_k)                      see SetAttention
        v_ik = W_i^V h_k

    A head that chooses one exemplar can then say its label, by the column of ``W_i^V`` that belongs to it. Targets that
    are texts have ``h_k = [E(x_k) / |E(x_k)|; M y_k]`` with the target's embedding ``y_k``. The numbers ``t_i``,
    ``g_i`` learn at ten times the rate.

    Paper: MHA-RAG, arXiv 2510.05363 (v1), MHA-ESP (v2). Deviates, each by a setting that can be turned off, in the
    attention (above), and by an adapter instead of a fine-tuned encoder (``adapter``, ``encoder_rank``), a static
    prompt beside the retrieved part (``static``), a part from the query alone (``query_part``) and suffix placement
    (``placement``). Further layers are self-attention over the H tokens,
    ``Z <- Z + softmax(Z W^Q (Z W^K)^T / sqrt(d)) Z W^V``; the paper only says that layers are stacked.

    Shapes:
        e_x ``[batch, d']``, e_k ``[batch, k, d']`` -> Z ``[batch, heads, d]``.

    Cost:
        ``3 H d (d' + 1)`` parameters (plus adapter, static and query part and further layers), H tokens. ``l`` labels
        add ``2 H d l``; dense ones (``label_place="learned"``) ``l d + d d' + 2 H d d'``.

    Relations:
        :class:`PromptTuning` is its static part alone, :class:`IDPG` its query alone, :class:`PESP` its
        exemplars without attention.

    Example:
        >>> MHAESP(heads=4, k=3).config.heads
        4
    """

    name: ClassVar[str] = "mha-esp"
    paper: ClassVar[str] = "arXiv 2510.05363"
    config_class = MHAESPConfig
    config: MHAESPConfig
    uses_retrieval: ClassVar[bool] = True
    search_space: ClassVar[SearchSpace] = {
        **EncodedMethod.search_space,
        "heads": Choices((4, 8, 16)),
        "k": Choices((3, 5, 10)),
        "slope": Choices((0.5, 1.0, 2.0)),
        "label_place": Choices(("vector", "auto")),
    }

    def build(self, context: MethodContext) -> None:
        """Query, key and value maps of all heads, each in one matrix."""
        heads, d = self.config.heads, context.lm.d_model
        self.build_inputs(context, heads)
        reads_text = context.encoder is not None and context.encoder.takes_label_text
        if self.config.windows > 1 and not reads_text:
            raise ConfigError("Windows cut an exemplar's text, so they need a text encoder", got=self.config.encoder)
        config, d_exemplar = self.config, self.d_in + self.d_label
        self.label_map = None
        if self.labels is not None:
            d_exemplar = 2 * self.d_in
            self.label_map = nn.Linear(d, self.d_in, bias=False)
            nn.init.normal_(self.label_map.weight, std=self.d_in**-0.5)  # keeps norms
        widths = self.d_in, d_exemplar
        self.attention = SetAttention(widths, heads, d, config.scores, config.similarity, config.slope)
        self.value = self.scaled_linear(d_exemplar, heads * d)
        self.direct = self.scaled_linear(self.d_in, heads * d) if self.config.query_part else None
        self.deeper = nn.ModuleList(nn.Linear(d, 3 * d) for _ in range(self.config.layers - 1))

    @property
    def ports(self) -> frozenset[str]:
        """Soft tokens, and text where exemplars stand in the prompt too."""
        return super().ports | ({"text"} if self.config.text_exemplars else set())

    @property
    def makes_entry_vectors(self) -> bool:
        """Whether an entry has one vector, and not one for each of its windows."""
        return self.config.windows == 1

    @property
    def soft_token_count(self) -> int:
        """One for each head."""
        return self.config.heads

    def condition(self, texts: Sequence[str], retrieved: Retrieved) -> Conditioning:
        """Generate ``[batch, heads, d]`` from the queries and the set retrieved for each."""
        nearest = retrieved.ranked().top(self.config.k)  # the order given decides nothing, text exemplars included
        tokens, attention = self.attend(texts, nearest.canonical())
        return Conditioning(
            contexts=self.contexts(texts, nearest),
            soft_tokens=self.placed(tokens),
            placement=self.config.placement,
            attention=attention,
        )

    def contexts(self, texts: Sequence[str], retrieved: Retrieved) -> tuple[tuple[str, ...], ...] | None:
        """The nearest exemplars as text, if any."""
        count = self.config.text_exemplars
        return rendered(self.ready.schema, retrieved.ranked(), count) if count else None

    @property
    def scalars(self) -> list[nn.Parameter]:
        """Temperatures and slopes."""
        scalars = (self.attention.log_temperature, self.attention.slope)
        return [parameter for parameter in scalars if parameter is not None]

    @property
    def scoring_parameters(self) -> list[nn.Parameter]:
        """Of queries and keys."""
        return [*self.attention.query.parameters(), *self.attention.key.parameters()]

    def attend(self, texts: Sequence[str], retrieved: Retrieved) -> tuple[Tensor, Tensor]:
        """The equations: soft tokens ``[batch, heads, d]`` and attention ``[batch, heads, keys]``."""
        n, heads, d = len(texts), self.config.heads, self.ready.lm.d_model
        e_k, present, similarity = self._keys(retrieved)
        e_x = self.encode(texts)
        if self.label_map is not None:
            text, labels = e_k.split((self.d_in, d), dim=-1)
            e_k = torch.cat((nn.functional.normalize(text, dim=-1), self.label_map(labels)), dim=-1)
        a = self.attention(e_x, e_k, present, similarity)
        self.watch(a, present)
        z = torch.einsum("bhk,bkhd->bhd", a, self.value(e_k).view(n, -1, heads, d))
        if self.direct is not None:
            z = z + self.direct(e_x).view(n, heads, d)
        for layer in self.deeper:
            q2, k2, v2 = layer(z).chunk(3, dim=-1)
            z = z + torch.softmax(q2 @ k2.transpose(1, 2) / d**0.5, dim=-1) @ v2
        return z, a

    def _keys(self, retrieved: Retrieved) -> tuple[Tensor, Tensor, Tensor]:
        """What is attended to: vectors, which are present, similarities; ``windows`` of each exemplar."""
        similarity = torch.from_numpy(retrieved.scores).to(self.ready.lm.device)
        if self.config.windows == 1:
            vectors, present = self.exemplar_vectors(retrieved)
            return vectors, present, similarity
        parts, times = [], self.config.windows
        for row in range(len(retrieved)):
            for position in retrieved.indices[row]:
                text = self.solved(retrieved.store.examples[position]) if position >= 0 else ""
                parts += _windows(text, times)
        vectors = self.encode(parts).view(len(retrieved), -1, self.d_in)
        if self.d_label:
            places = torch.from_numpy(retrieved.indices >= 0).to(vectors.device)
            labels = vectors.new_zeros(*places.shape, self.d_label)
            entries = [entry for row in range(len(retrieved)) for entry in retrieved.examples(row)]
            labels[places] = self.label_vectors(entries).to(vectors.device)
            vectors = torch.cat((vectors, labels.repeat_interleave(times, dim=1)), dim=-1)
        present = torch.from_numpy(retrieved.indices >= 0).to(vectors.device).repeat_interleave(times, dim=1)
        return vectors * present.unsqueeze(-1), present, similarity.repeat_interleave(times, dim=1)


def _windows(text: str, count: int) -> list[str]:
    """``count`` windows over the words of a text, each overlapping the next by half.

    >>> _windows("a b c d e f", 2)
    ['a b c d', 'c d e f']
    """
    words = text.split()
    width = max(1, round(2 * len(words) / (count + 1)))
    starts = [round(i * max(0, len(words) - width) / max(1, count - 1)) for i in range(count)]
    return [" ".join(words[start : start + width]) for start in starts]
