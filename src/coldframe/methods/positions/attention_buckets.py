"""Attention Buckets: the same model with several RoPE bases at once, the surest of which counts most."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import Tensor

from coldframe.frozen.rotary import Heads, PositionScheme, rotate
from coldframe.methods.config import MethodContext
from coldframe.methods.positions.scheme import BasesConfig, PositionMethod


@dataclasses.dataclass(frozen=True)
class AttentionBucketsConfig(BasesConfig):
    """Settings of Attention Buckets, those of :class:`BasesConfig`: there is a copy for each base."""

    section = "Attention Buckets settings"

    bases: tuple[float, ...] = (10000.0, 13000.0, 16000.0, 19000.0, 22000.0, 25000.0, 28000.0)


class AttentionBuckets(PositionMethod):
    """B copies of a prompt, each under a RoPE base of its own; their next-token logits are mixed at every step.

        w_b    = softmax over b of max_v logits_b[v]
        logits = sum_b w_b logits_b

    The attention of a base decays in waves over the distance; with several bases the troughs of one are the crests
    of another. The chosen token goes to all copies.

    Paper: Chen et al. 2023, arXiv 2312.04455. Deviates: the bases of its retrieval script are for Llama 2, whose own
    base is 10,000; for other models the ladder is scaled to theirs.

    Cost: B rows for every prompt: B times the time, and B caches.

    Example:
        >>> AttentionBuckets(bases=[10000, 13000])
        AttentionBuckets(bases=(10000.0, 13000.0))
    """

    name: ClassVar[str] = "attention-buckets"
    paper: ClassVar[str] = "arXiv 2312.04455"
    config_class = AttentionBucketsConfig
    config: AttentionBucketsConfig

    def build(self, context: MethodContext) -> None:
        """The angles under every base."""
        super().build(context)
        self.frequencies = self.rotary.frequencies(self.config.factors)

    def scheme(self) -> PositionScheme:
        """A copy for every base."""
        return _Copies(self.frequencies)


class _Copies(PositionScheme):
    """The rows of a batch under their copies' bases."""

    def __init__(self, frequencies: list[Tensor]) -> None:
        self.frequencies, self.copies = frequencies, len(frequencies[0])

    def attend(self, at: Heads) -> Tensor:
        """Ordinary attention."""
        bases = self.frequencies[at.layer].repeat(at.q.shape[0] // self.copies, 1)[:, None, None]  # of each row
        return at.mixed(rotate(at.q, at.q_at * bases), rotate(at.k, at.k_at * bases))

    def mix(self, logits: Tensor) -> Tensor:
        """``[batch * B, ..., vocab] -> [batch, ..., vocab]``."""
        copies = logits.unflatten(0, (-1, self.copies))
        weights = copies.amax(-1, keepdim=True).softmax(1)
        mixed: Tensor = (weights * copies).sum(1)
        return mixed
