"""An encoder that is fine-tuned with the method, by low-rank updates."""

from __future__ import annotations

from torch import Tensor, nn

from coldframe.errors import ConfigError
from coldframe.frozen.hooks import weight_deltas
from coldframe.frozen.ports import LowRank
from coldframe.methods.search_space import SearchSpace
from coldframe.methods.weight_deltas.adapters import trained_factors
from coldframe.retrieval.encoders import Encoder, encoder_spec, load_encoder
from coldframe.retrieval.neural import HFEncoder
from coldframe.tasks.task import Schema


def searched_with(spec: str, schema: Schema, space: SearchSpace) -> SearchSpace:
    """A search space without ``encoder_rank`` where the encoder of a spec cannot be fine-tuned: such trials fail."""
    if "encoder_rank" not in space or isinstance(load_encoder(encoder_spec(spec, schema.domain)), HFEncoder):
        return space
    return {name: values for name, values in space.items() if name != "encoder_rank"}


class TunedEncoder(nn.Module):
    """``E`` with ``W x + B A x`` in the place of every linear ``W x``; its own weights stay frozen and unsaved.

    Paper: MHA-RAG (arXiv 2510.05363) fine-tunes its encoder with LoRA of rank 64; targets and scale are not
    stated. Here: all linears but an unused pooler, scale 1.

    Cost:
        ``r (in + out)`` parameters for every linear. Every text is encoded anew at every step: nothing can
        be remembered.
    """

    def __init__(self, encoder: Encoder, rank: int) -> None:
        super().__init__()
        if not isinstance(encoder, HFEncoder):
            raise ConfigError(
                f"The encoder {encoder.spec!r} cannot be fine-tuned",
                expected="minilm or hf:<id>",
                fix="Pass encoder_rank=0, or another encoder.",
            )
        object.__setattr__(self, "encoder", encoder)  # not a submodule: its weights are not ours to save
        modules = encoder.model.named_modules()
        linears = {name: at for name, at in modules if isinstance(at, nn.Linear) and "pooler" not in name}
        self.names = list(linears)
        self.a, self.b = trained_factors(((at.in_features, at.out_features) for at in linears.values()), rank)

    def forward(self, texts: list[str]) -> Tensor:
        """Vectors, ``[n, dim]``."""
        encoder: HFEncoder = self.encoder  # type: ignore[assignment]
        updates = {name: LowRank(a, b) for name, a, b in zip(self.names, self.a, self.b, strict=True)}
        with weight_deltas(encoder.model, updates):
            return encoder.pooled(texts)
