"""What the rivals of PEAR that change positions are: another attention in the same frozen model."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from coldframe.config import check
from coldframe.frozen.ports import Conditioning
from coldframe.frozen.rotary import PositionScheme, Rotary
from coldframe.methods.base import Method
from coldframe.methods.config import MethodConfig, MethodContext
from coldframe.retrieval.store import Retrieved


@dataclasses.dataclass(frozen=True)
class BasesConfig(MethodConfig):
    """Settings of methods that read under several RoPE bases.

    Args:
        k: None: nothing is retrieved.
        bases: RoPE bases, each above 0, for a model whose own base is ``reference``.
        reference: A model with another base gets each of ``bases`` times its own base over this; to state bases
            outright, put the model's own here.
    """

    above = {"reference": 0}

    bases: tuple[float, ...] = ()
    reference: float = 10000.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check(bool(self.bases) and min(self.bases) > 0, "There must be RoPE bases, each above 0", got=self.bases)

    @property
    def factors(self) -> list[float]:
        """By how much each base is larger than the model's own."""
        return [base / self.reference for base in self.bases]


class PositionMethod(Method):
    """A method that reads a rotary model with other positions. A subclass is one file: a config and ``scheme``."""

    port: ClassVar[str | None] = "positions"  # which are no port, but two methods cannot both change them
    trainable: ClassVar[bool] = False
    learns_from_task: ClassVar[bool] = False

    def build(self, context: MethodContext) -> None:
        """Look up the model's positions."""
        self.rotary = Rotary(context.lm.anatomy)

    @abstractmethod
    def scheme(self) -> PositionScheme:
        """How one batch is read."""

    def condition(self, texts: Sequence[str], retrieved: Retrieved) -> Conditioning:
        """The same positions for every query; nothing is kept from one batch to the next."""
        return Conditioning(positions=self.scheme())
