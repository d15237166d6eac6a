"""Zero-shot: the frozen model as it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from coldframe.frozen.ports import EMPTY, Conditioning
from coldframe.methods.base import Method
from coldframe.methods.config import MethodConfig
from coldframe.methods.search_space import Choices, SearchSpace
from coldframe.retrieval.store import Retrieved
from coldframe.tasks.prompts import with_instruction
from coldframe.tasks.task import Schema, Task


@dataclasses.dataclass(frozen=True)
class ZeroShotConfig(MethodConfig):
    """Settings of zero-shot.

    Args:
        instruction: Said before everything: the task's own if None, ``"auto"`` for one that its kind makes, ``""`` for
            none.
    """

    section = "zero-shot settings"

    instruction: str | None = None


class ZeroShot(Method):
    """The base model, asked with the task's template and nothing else: ``p(y | x)``.

    The control under all others.

    Cost:
        No parameters; no extra tokens but the instruction's, which are read once for all queries.
    """

    name: ClassVar[str] = "zero-shot"
    config_class = ZeroShotConfig
    config: ZeroShotConfig
    trainable: ClassVar[bool] = False
    search_space: ClassVar[SearchSpace] = {"instruction": Choices((None, "", "auto"))}

    def schema_for(self, task: Task, seed: int = 0) -> Schema:
        """With the instruction."""
        return with_instruction(task, self.config.instruction)

    def condition(self, texts: Sequence[str], retrieved: Retrieved) -> Conditioning:
        """The empty conditioning."""
        return EMPTY
