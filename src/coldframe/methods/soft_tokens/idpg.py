"""IDPG: a prompt generated from the query alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from coldframe.frozen.ports import Conditioning
from coldframe.methods.config import MethodContext
from coldframe.methods.search_space import Choices, SearchSpace
from coldframe.methods.soft_tokens.base import EncodedConfig, EncodedMethod
from coldframe.retrieval.store import Retrieved


@dataclasses.dataclass(frozen=True)
class IDPGConfig(EncodedConfig):
    """Settings of IDPG.

    Args:
        tokens: Soft tokens m, at least 1; the MHA-RAG paper's parameter counts imply 1.
    """

    section = "IDPG settings"
    at_least = {"tokens": 1}

    tokens: int = 8


class IDPG(EncodedMethod):
    """Instance-dependent prompt generation: ``Z = M e_x`` with ``e_x = E(x)``; exemplars are ignored.

    Paper: Wu et al. 2022, arXiv 2204.04497, in the one-layer form of MHA-RAG (arXiv 2510.05363). It tells
    what the *query's encoder* contributes apart from retrieval. Deviates: m tokens (the papers' table
    implies 1) and the shared adapter and static part of all our encoded methods, so that it differs from
    MHA-ESP in nothing but the exemplars.

    Cost:
        ``m d (d' + 1)`` parameters (plus adapter and static part), m tokens.
    """

    name: ClassVar[str] = "idpg"
    paper: ClassVar[str] = "arXiv 2204.04497"
    config_class = IDPGConfig
    config: IDPGConfig
    search_space: ClassVar[SearchSpace] = {**EncodedMethod.search_space, "tokens": Choices((4, 8, 16))}
    ablations: ClassVar[tuple[str, ...]] = ()

    def build(self, context: MethodContext) -> None:
        """One linear layer from an encoded query to all tokens."""
        self.build_inputs(context, self.config.tokens)
        self.project = self.scaled_linear(self.d_in, self.config.tokens * context.lm.d_model)

    def condition(self, texts: Sequence[str], retrieved: Retrieved) -> Conditioning:
        """Generate ``[batch, m, d]`` from the queries."""
        tokens = self.project(self.encode(texts)).view(len(texts), self.config.tokens, -1)
        return Conditioning(soft_tokens=self.placed(tokens), placement=self.config.placement)
