"""What a method is told: its settings, and what it is built for."""

from __future__ import annotations

import dataclasses

from coldframe.config import Config
from coldframe.frozen.model import FrozenLM
from coldframe.retrieval.encoders import Encoder
from coldframe.tasks.task import Schema


@dataclasses.dataclass(frozen=True)
class MethodConfig(Config):
    """Settings that every method has.

    Args:
        k: Entries retrieved per query; methods that use none ignore it.
    """

    section = "method settings"
    at_most = {
        **dict.fromkeys(("layers", "heads", "windows", "text_exemplars"), 1_024),
        **dict.fromkeys(("tokens", "rank", "encoder_rank"), 16_384),
        **dict.fromkeys(("adapter", "adapters", "hidden", "width"), 65_536),
        "k": 1_000_000,
    }

    k: int = 0


@dataclasses.dataclass
class MethodContext:
    """What a method is built for.

    Attributes:
        lm: The frozen model.
        schema: The task's.
        encoder: Of its inputs; None for methods that encode nothing.
    """

    lm: FrozenLM
    schema: Schema
    encoder: Encoder | None = None
