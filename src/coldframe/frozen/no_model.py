"""What stands in the place of a language model for a method that needs none."""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import torch

from coldframe.errors import ConfigError
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.states import StateCache

#: The source of no model, as an artifact has it.
SOURCE = "none"


class NoModel(FrozenLM):
    """No model: texts may have any length, their lengths are counted in words, and there is nothing to be read.

    All that only a model has is a :class:`ConfigError`.

    Example:
        >>> NoModel().tokenize("three short words")
        (0, 1, 2)
    """

    def __init__(self) -> None:  # not FrozenLM's: there are no weights to freeze
        self.provenance: dict[str, Any] = {"name": "no language model", "source": SOURCE, "revision": None}
        self.states = StateCache(0, self.device)
        self.dropped_contexts = 0
        self._exact = False
        self.bos = ()

    @property
    def device(self) -> torch.device:
        """Where what is trained goes: beside the encoders."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Of what is trained."""
        return torch.float32

    @property
    def max_positions(self) -> int:
        """Without end."""
        return sys.maxsize

    @property
    def weight_hash(self) -> str:
        """Empty."""
        return ""

    def hash_now(self) -> str:
        """Empty."""
        return ""

    def tokenize(self, text: str) -> tuple[int, ...]:
        """The positions of the words."""
        return tuple(range(len(text.split())))

    def answer_tokens(self, answer: str, end: str = "") -> tuple[int, ...]:
        """None: nothing is written."""
        return ()

    def __getattr__(self, name: str) -> NoReturn:
        raise _missing(name)


def _missing(name: str) -> Exception:
    if name.startswith("__"):  # of copies and pickles, which expect an AttributeError
        return AttributeError(name)
    return ConfigError(
        "This method has no language model, and what is done here needs one",
        got=name,
        fix="Choose a method that adapts a model: coldframe methods.",
    )
