"""What all soft-token methods share: placement, scale, a static part, vectors of queries and exemplars."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from coldframe.config import check
from coldframe.errors import ConfigError
from coldframe.frozen.ports import Placement
from coldframe.methods.base import Method, VectorSource
from coldframe.methods.config import MethodConfig, MethodContext
from coldframe.methods.entry_vectors import gathered, one_hot_labels
from coldframe.methods.export import ExportRequest
from coldframe.methods.forms import Form
from coldframe.methods.search_space import Choices, Floats, SearchSpace
from coldframe.methods.soft_tokens.label_vectors import LabelVectors
from coldframe.methods.soft_tokens.peft_prompt import write_peft_prompt
from coldframe.methods.soft_tokens.set_attention import attention_entropy
from coldframe.methods.soft_tokens.tuned_encoder import TunedEncoder, searched_with
from coldframe.retrieval.encoder_objects import spec_of
from coldframe.retrieval.store import Retrieved
from coldframe.tasks.task import Example, Passage, Schema

LabelPlace = Literal["auto", "text", "vector", "learned"]

_BESIDE_STATIC = 0.1
_SCALARS = 10.0  # a step of Adam moves each number by the rate: a matrix adds up hundreds of such moves, a scalar none


@dataclasses.dataclass(frozen=True)
class SoftTokenConfig(MethodConfig):
    """Settings of every soft-token method.

    Args:
        placement: ``"prefix"`` (the papers') puts the soft tokens after BOS, ``"suffix"`` after the query's
            text: the text's states are then computed once and shared.
    """

    section = "soft-token settings"

    placement: Placement = "suffix"


@dataclasses.dataclass(frozen=True)
class EncodedConfig(SoftTokenConfig):
    """Settings of soft-token methods that encode their inputs.

    Args:
        encoder: Encoder of queries and exemplars, as a spec of ``coldframe.retrieval``; ``"auto"`` takes
            the domain's default. Or the encoder itself: a ``SentenceTransformer``, or any object with
            ``encode(texts)``.
        encoder_rank: Rank of a LoRA that fine-tunes the encoder, 64 in the papers; 0 leaves it frozen. Needs a
            transformers encoder (``minilm``, ``hf:...``).
        adapter: Width of a trainable layer ``tanh(W e)`` between encoder and method, at least 1; None has
            none (as in the papers, which fine-tune the encoder instead).
        dropout: Share of encoder features dropped in training, in [0, 1).
        static: Adds a learned prompt to what is generated, ``Z + P``, so that the method need not spend its
            generator on what is the same for every query (ours; off in the papers).
        static_learning_rate: Of that prompt; a free vector learns at a higher rate than a matrix.
        label_place: How an exemplar's label enters: ``"text"`` concatenates it to the encoder's input
            (the papers), ``"vector"`` appends a one-hot vector to the encoder's output (where targets are texts, their
            mean embedding in the frozen model), ``"learned"`` a dense vector that starts as the frozen model's
            embedding of the label's word; ``"auto"`` takes text where the encoder reads text, else a vector.
    """

    section = "soft-token settings"
    at_least = {"encoder_rank": 0, "adapter": 1, "dropout": 0}
    above = {"static_learning_rate": 0}
    plain = {"encoder": spec_of}

    encoder: str = "auto"
    encoder_rank: int = 0
    adapter: int | None = 256
    dropout: float = 0.3
    static: bool = True
    static_learning_rate: float = 3e-2
    label_place: LabelPlace = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.dropout < 1, "dropout must be below 1", got=self.dropout)


def vocabulary_prompt(context: MethodContext, tokens: int) -> Tensor:
    """``[tokens, d_model]``: embeddings of random vocabulary entries, the usual start of a soft prompt."""
    ids = torch.randint(0, context.lm.anatomy.vocab_size, (tokens,))
    return context.lm.embed(ids.to(context.lm.device)).float().cpu().clone()


class SoftTokenMethod(Method):
    """A method that puts soft tokens beside the text, before it or after it."""

    port: ClassVar[str | None] = "soft tokens"
    config_class = SoftTokenConfig
    config: SoftTokenConfig

    @property
    def soft_token_count(self) -> int:
        """As many as the settings say; one for a method without such a setting."""
        return int(getattr(self.config, "tokens", 1))

    @property
    def shares_text(self) -> bool:
        """Whether the tokens stand after the query's text, whose states are then the base model's."""
        return self.config.placement == "suffix"

    @property
    def forms(self) -> tuple[Form, ...]:
        """PEFT's too, where the prompt is the same for every query and stands before the text: PEFT has no other."""
        if not self.reads_model:
            return ()
        fixed = not (self.uses_query or self.uses_retrieval)
        return ("peft", "safetensors") if fixed and self.config.placement == "prefix" else ("safetensors",)

    @torch.no_grad()
    def export(self, folder: Path, request: ExportRequest) -> list[str]:
        """Write what was learned, and the soft tokens of the queries."""
        if request.form != "peft":
            return super().export(folder, request)
        prompt = self.condition([""], request.retrieved).soft_tokens
        assert prompt is not None  # the port that it fills
        return write_peft_prompt(folder, self.ready.lm, prompt.reshape(-1, prompt.shape[-1]))


class EncodedMethod(SoftTokenMethod):
    """A soft-token method that maps encoder vectors to soft tokens.

    Subclasses call :meth:`build_inputs` in ``build``, then use :meth:`encode`, :meth:`exemplar_vectors`
    and :meth:`placed` in ``condition``.
    """

    config_class = EncodedConfig
    config: EncodedConfig
    ablations: ClassVar[tuple[str, ...]] = ("shuffled-labels", "random-exemplars", "swapped-store")
    uses_query: ClassVar[bool] = True
    uses_encoder: ClassVar[bool] = True
    learning_rate: ClassVar[float] = 3e-4
    search_space: ClassVar[SearchSpace] = {
        "training.learning_rate": Floats(1e-4, 1e-2),
        "training.epochs": Choices((4, 8, 16)),
        "dropout": Choices((0.0, 0.3, 0.5)),
        "static_learning_rate": Floats(1e-2, 1e-1),
        "encoder_rank": Choices((0, 16)),
        "adapter": Choices((None, 256)),
    }

    _vector_source: VectorSource | None = None
    #: The attention of the last batch in training, and which exemplars were present.
    _attention: tuple[Tensor, Tensor] | None = None

    @property
    def makes_entry_vectors(self) -> bool:
        """Whether ``condition`` asks for :meth:`exemplar_vectors`."""
        return self.uses_retrieval

    def with_entry_vectors(self, source: VectorSource) -> Self:
        """The same method, whose :meth:`exemplar_vectors` come from ``source``."""
        if not self.makes_entry_vectors:
            return super().with_entry_vectors(source)
        changed = copy.copy(self)
        changed._vector_source = source
        return changed

    def searched(self, schema: Schema) -> SearchSpace:
        """Without the encoder's rank, where the encoder cannot be fine-tuned."""
        return searched_with(self.config.encoder, schema, super().searched(schema))

    def build_inputs(self, context: MethodContext, tokens: int) -> None:
        """Create the adapter and the static part; sets ``d_in``, the width of an encoded text."""
        if context.encoder is None:
            raise ConfigError(f"{self.name} needs an encoder")
        rank, width = self.config.encoder_rank, self.config.adapter
        self.tuned = TunedEncoder(context.encoder, rank) if rank else None
        self.adapter = None if width is None else nn.Linear(context.encoder.dim, width)
        self.d_in = width or context.encoder.dim
        self.drop = nn.Dropout(self.config.dropout)
        self.static = nn.Parameter(vocabulary_prompt(context, tokens)) if self.config.static else None
        place = self.config.label_place
        reads_text = context.encoder.takes_label_text
        if place == "text" and not reads_text:
            raise ConfigError(
                f"The encoder {context.encoder.spec!r} does not read text, so a label cannot be concatenated to it",
                fix="Use label_place='vector' or a text encoder.",
            )
        self.label_in_text = reads_text if place == "auto" else place == "text"
        dense = place == "learned" or (context.schema.kind == "generation" and not self.label_in_text)
        self.labels = LabelVectors(context) if dense and self.uses_retrieval else None
        one_hot = not self.label_in_text and self.labels is None
        self.d_label = len(context.schema.labels) if one_hot else 0 if self.labels is None else context.lm.d_model

    def scaled_linear(self, d_in: int, d_out: int) -> nn.Linear:
        """A linear layer whose outputs start small beside the model's token embeddings.

        Outputs of torch's default initialisation have norm ``sqrt(d_out / (3 d_in)) |x|``; weights are scaled
        so that an input of norm 1 lands at the embedding norm, or at a tenth of it where a static part
        stands in for the rest: what is generated then grows as far as it helps (the papers state no scale).
        """
        layer = nn.Linear(d_in, d_out)
        with torch.no_grad():
            start = _BESIDE_STATIC if self.config.static else 1.0
            layer.weight *= start * self.ready.lm.embedding_norm() / (d_out / (3 * d_in)) ** 0.5
            layer.bias.zero_()
        return layer

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Encoder vectors, adapted: ``[n, d_in]``."""
        encoder = self.ready.encoder
        assert encoder is not None  # build_inputs has checked
        encoded = torch.from_numpy(encoder.encode(list(texts))) if self.tuned is None else self.tuned(list(texts))
        vectors = self.drop(nn.functional.normalize(encoded.to(self.ready.lm.device), dim=-1))
        return vectors if self.adapter is None else torch.tanh(self.adapter(vectors))

    def solved(self, example: Example) -> str:
        """``x (+) y``: an exemplar as the encoder reads it; a passage has no y."""
        if isinstance(example, Passage):
            return example.text
        return f"{example.text} {self.ready.schema.word(example.target)}" if self.label_in_text else example.text

    def exemplar_vectors(self, retrieved: Retrieved) -> tuple[Tensor, Tensor]:
        """Vectors of the exemplars with their labels, and which are present.

        Shapes:
            Returns ``[n, k, d_in + d_label]`` and a boolean ``[n, k]``; absent exemplars are zero.
        """
        source = self._vector_source
        return self._own_vectors(retrieved) if source is None else source(self, self._own_vectors, retrieved)

    def _own_vectors(self, retrieved: Retrieved) -> tuple[Tensor, Tensor]:
        vectors, present = gathered(retrieved, self._entries, self.d_in + self.d_label, self.ready.lm.device)
        return vectors * present.unsqueeze(-1), present

    def _entries(self, entries: Sequence[Example]) -> Tensor:
        """Vectors of entries with their labels, where these are not in the text: ``[entries, d_in + d_label]``."""
        vectors = self.encode([self.solved(entry) for entry in entries])
        return torch.cat((vectors, self.label_vectors(entries).to(vectors.device)), dim=-1) if self.d_label else vectors

    def label_vectors(self, entries: Sequence[Example]) -> Tensor:
        """What says their labels beside their texts: ``[entries, d_label]``."""
        return one_hot_labels(self.ready.schema, entries) if self.labels is None else self.labels(entries)

    def placed(self, tokens: Tensor) -> Tensor:
        """Soft tokens with the static part added."""
        return tokens if self.static is None else tokens + self.static

    @property
    def scalars(self) -> list[nn.Parameter]:
        """Parameters of one number for each head: temperatures and slopes."""
        return []

    @property
    def scoring_parameters(self) -> list[nn.Parameter]:
        """Of the queries and keys of an attention over exemplars; none for a method without one."""
        return []

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """The generator; scalars and the static part at rates of their own and without weight decay."""
        static = [] if self.static is None else [self.static]
        scalars = self.scalars
        apart = {id(parameter) for parameter in (*static, *scalars)}
        generator = [p for p in self.parameters() if p.requires_grad and id(p) not in apart]
        groups: list[dict[str, Any]] = [{"params": generator, "lr": learning_rate}]
        if scalars:
            groups.append({"params": scalars, "lr": _SCALARS * learning_rate, "weight_decay": 0.0})
        if static:
            groups.append({"params": static, "lr": self.config.static_learning_rate, "weight_decay": 0.0})
        return groups

    def watch(self, attention: Tensor, present: Tensor) -> None:
        """Remember the attention ``[n, m, k]`` of a batch in training, for :meth:`step_figures`."""
        if self.training:
            self._attention = attention.detach(), present

    def step_figures(self) -> dict[str, float]:
        """``attention_entropy`` of the last batch, and ``attention_gradient``, the norm that queries and keys got."""
        figures = {}
        if self._attention is not None and (entropy := attention_entropy(*self._attention)) is not None:
            figures["attention_entropy"] = entropy
        gradients = [p.grad for p in self.scoring_parameters if p.grad is not None]
        if gradients:
            figures["attention_gradient"] = float(torch.nn.utils.get_total_norm(gradients))
        return figures
