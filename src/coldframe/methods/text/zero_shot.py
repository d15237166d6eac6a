"""Zero-shot: the frozen model as it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from coldframe.frozen.ports import EMPTY, Conditioning
from coldframe.methods.base import Method
from coldframe.retrieval.store import Retrieved


class ZeroShot(Method):
    """The base model, asked with the task's template and nothing else: ``p(y | x)``.

    The control under all others.

    Cost:
        No parameters, no extra tokens.
    """

    name: ClassVar[str] = "zero-shot"
    trainable: ClassVar[bool] = False

    def condition(self, texts: Sequence[str], retrieved: Retrieved) -> Conditioning:
        """The empty conditioning."""
        return EMPTY
