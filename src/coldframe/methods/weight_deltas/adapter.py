"""One low-rank update of a model, as other libraries and servers take it: files of PEFT and GGUF, tensors of SGLang."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from coldframe.errors import ConfigError
from coldframe.frozen.base_name import base_of
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Conditioning, LowRank
from coldframe.methods.base import Method
from coldframe.retrieval.store import Retrieved
from coldframe.storage.files import write_json

#: The ranks that a vLLM server can be started with.
SERVER_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)

ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"


@dataclasses.dataclass(frozen=True)
class Adapter:
    """``y = W x + scale B A x`` at some linears of a model.

    Attributes:
        lm: The model.
        factors: Module path to ``(A, B)``.
        scale: Of the update.

    Shapes:
        A ``[r, in]``, B ``[out, r]``, float32, with one rank r for all.
    """

    lm: FrozenLM
    factors: Mapping[str, tuple[Tensor, Tensor]]
    scale: float

    @property
    def rank(self) -> int:
        """R."""
        return int(next(iter(self.factors.values()))[0].shape[0])

    @property
    def server_rank(self) -> int:
        """What a vLLM server needs as ``--max-lora-rank``, at least.

        Raises:
            ConfigError: No server takes so high a rank.
        """
        if self.rank > SERVER_RANKS[-1]:
            raise ConfigError(
                "No vLLM server takes an adapter of this rank",
                got=self.rank,
                expected=f"at most {SERVER_RANKS[-1]}",
                fix="Combine fewer passages (k).",
            )
        return next(rank for rank in SERVER_RANKS if rank >= self.rank)

    @property
    def deltas(self) -> dict[str, LowRank]:
        """As the weight-delta port takes it."""
        return {name: LowRank(a, b, self.scale) for name, (a, b) in self.factors.items()}

    def tensors(self) -> dict[str, Tensor]:
        """Named as PEFT names them; SGLang's ``load_lora_adapter_from_tensors`` takes them with :meth:`config`."""
        named = {}
        for name, (a, b) in self.factors.items():
            named[f"base_model.model.{name}.lora_A.weight"] = a
            named[f"base_model.model.{name}.lora_B.weight"] = b
        return named

    def config(self) -> dict[str, Any]:
        """``adapter_config.json`` of PEFT."""
        alpha = self.scale * self.rank  # servers want a whole number where it is one
        whole = round(alpha)
        names = list(self.factors)
        return {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            **base_of(self.lm),
            "inference_mode": True,
            "r": self.rank,
            "lora_alpha": whole if abs(alpha - whole) < 1e-9 * max(1, whole) else alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "fan_in_fan_out": type(self.lm.model.get_submodule(names[0])).__name__ == "Conv1D",
            "target_modules": _targets(self.lm, names),
        }

    def save(self, folder: Path) -> None:
        """Write PEFT's folder, which vLLM and SGLang load too."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.tensors(), folder / ADAPTER, metadata={"format": "pt"})
        write_json(folder / ADAPTER_CONFIG, self.config(), indent=2)


@torch.no_grad()
def compose(method: Method, texts: Sequence[str], retrieved: Retrieved) -> list[Adapter]:
    """The adapter that each query gets, whatever the method: of a task, of its passages, or mixed or written for it.

    Args:
        method: Trained; one that fills the weight-delta port.
        texts: The queries.
        retrieved: What was retrieved for each; of some passages alone it takes no text: ``[""]``.

    Raises:
        ConfigError: The method changes no weights.

    Example:
        >>> import coldframe as cf
        >>> pipeline = cf.load("runs/facts")                                        # doctest: +SKIP
        >>> questions = pipeline.queries(["Who is the mayor of Lovokor?"])          # doctest: +SKIP
        >>> texts, retrieved = [q.text for q in questions], pipeline.retrieve(questions)  # doctest: +SKIP
        >>> adapter = compose(pipeline.method, texts, retrieved)[0]                 # doctest: +SKIP
        >>> engine.load_lora_adapter_from_tensors("q", adapter.tensors(), adapter.config())  # doctest: +SKIP
    """
    return adapters_of(method.ready.lm, method.condition(texts, retrieved), len(texts))


def adapters_of(lm: FrozenLM, conditioning: Conditioning, rows: int) -> list[Adapter]:
    """The adapters in a conditioning, one for each of its rows.

    Raises:
        ConfigError: It changes no weights.
    """
    if not conditioning.deltas:
        raise ConfigError("The method changes no weights", fix="Choose one that fills the weight-delta port.")
    scale = next(iter(conditioning.deltas.values())).scale
    return [
        Adapter(
            lm, {name: (_row(delta.a, row), _row(delta.b, row)) for name, delta in conditioning.deltas.items()}, scale
        )
        for row in range(rows)
    ]


def _row(factor: Tensor, row: int) -> Tensor:
    """A factor of one row, which all rows may share."""
    return (factor if factor.dim() == 2 else factor[row]).detach().float().cpu().contiguous()


def _targets(lm: FrozenLM, names: Sequence[str]) -> list[str]:
    """Last parts of the targets' names where these mean no other module, as servers want them; else whole names."""
    ends = sorted({name.rpartition(".")[2] for name in names})
    matches = [name for name, _ in lm.model.named_modules() if name.rpartition(".")[2] in ends]
    return ends if sorted(matches) == sorted(names) else list(names)
