"""LoRA: the fine-tuning rival, one low-rank update of every linear."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from coldframe.frozen.ports import Conditioning, LowRank
from coldframe.methods.base import Method
from coldframe.methods.config import MethodConfig, MethodContext
from coldframe.methods.export import ExportRequest
from coldframe.methods.forms import Form
from coldframe.methods.search_space import Choices, Floats, SearchSpace
from coldframe.methods.weight_deltas.adapter import compose
from coldframe.methods.weight_deltas.adapter_export import Part, write_adapters, write_parts
from coldframe.methods.weight_deltas.adapters import trained_factors
from coldframe.retrieval.store import Retrieved


@dataclasses.dataclass(frozen=True)
class LoRAConfig(MethodConfig):
    """Settings of LoRA.

    Args:
        rank: r, at least 1; the MHA-RAG paper uses 16, 32 or 64.
        alpha: Scale numerator; updates are scaled by ``alpha / r``.
        targets: Which linears: ``"attention"``, ``"mlp"`` or ``"all"`` (the paper's).
    """

    section = "LoRA settings"
    at_least = {"rank": 1}
    above = {"alpha": 0}

    rank: int = 16
    alpha: float = 32.0
    targets: Literal["all", "attention", "mlp"] = "all"


class LoRA(Method):
    """Low-rank adaptation: ``y = W x + (alpha / r) B A x`` with ``A`` in ``R^{r x in}``, ``B`` in ``R^{out x r}``.

    Paper: Hu et al. 2021, arXiv 2106.09685. ``A`` starts Kaiming-uniform, ``B`` at zero, as in ``peft``,
    with which it agrees to rounding (tested). It changes the model, which the soft-token methods do not;
    it is here as their strongest rival. No dropout.

    Cost:
        ``r (in + out)`` parameters for every target; no tokens; the text's states depend on it, so
        nothing can be kept between epochs.
    """

    name: ClassVar[str] = "lora"
    paper: ClassVar[str] = "arXiv 2106.09685"
    config_class = LoRAConfig
    config: LoRAConfig
    learning_rate: ClassVar[float] = 2e-4
    search_space: ClassVar[SearchSpace] = {
        "training.learning_rate": Floats(5e-5, 2e-3),
        "training.epochs": Choices((1, 2, 4, 8)),
        "rank": Choices((8, 16, 32)),
    }

    def build(self, context: MethodContext) -> None:
        """A pair of factors for every target."""
        self.targets = context.lm.anatomy.linears(self.config.targets)
        self.a, self.b = trained_factors(((at.d_in, at.d_out) for at in self.targets), self.config.rank)

    @property
    def ports(self) -> frozenset[str]:
        """The targets."""
        return frozenset() if self.context is None else frozenset(target.name for target in self.targets)

    def condition(self, texts: Sequence[str], retrieved: Retrieved) -> Conditioning:
        """The same update for every query."""
        scale = self.config.alpha / self.config.rank
        targets = zip(self.targets, self.a, self.b, strict=True)
        return Conditioning(deltas={linear.name: LowRank(a, b, scale) for linear, a, b in targets})

    @property
    def forms(self) -> tuple[Form, ...]:
        """Those of an adapter."""
        return "peft", "gguf", "sglang"

    def export(self, folder: Path, request: ExportRequest) -> list[str]:
        """Write the adapter, which is the same for every query."""
        adapters = compose(self, [""], request.retrieved)
        if request.form == "gguf":
            return write_parts(folder, [[Part(self.name, adapters[0])]], ["every-query"])
        return write_adapters(folder, adapters, [self.name], request)
