"""PEAR: find the heads that hold retrieval back, and weigh them anew."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Conditioning
from coldframe.methods.base import Method, MethodConfig, MethodContext
from coldframe.methods.head_gains.coefficients import GainTrainer, Trained
from coldframe.methods.head_gains.config import ReweightConfig
from coldframe.methods.head_gains.discovery import Effects, Report, choose_heads, discover
from coldframe.progress import say
from coldframe.retrieval.store import Retrieved
from coldframe.storage.cache import cache_dir
from coldframe.storage.checkpoints import CheckpointStore
from coldframe.tasks.task import content_hash

_FORMAT = 1  # of what is kept in the cache: another number and nothing older is taken up
_DISCOVERY = ("repetitions", "discovery", "mean_over", "bos", "seed")


@dataclasses.dataclass(frozen=True)
class Reweighting:
    """A model's gains, and how they were found.

    Attributes:
        heads: The chosen heads, ``(layer, head)``, those of the highest effect first.
        effects: Of all heads.
        trained: Gains and losses.
    """

    heads: tuple[tuple[int, int], ...]
    effects: Effects
    trained: Trained


def reweight(lm: FrozenLM, config: ReweightConfig, report: Report | None = None) -> Reweighting:
    """Find the heads that hold retrieval back, and train a gain for each.

    What is finished is kept in the cache, under the hash of the weights and of all settings it depends on. So an
    interrupted call goes on where it stopped, the same call again costs nothing, and another K uses the
    same effects.

    Args:
        lm: The model; never changed.
        config: How.
        report: Told of the progress: stage, units done, units in all, values.

    Example:
        >>> from coldframe import load_lm
        >>> found = reweight(load_lm("smollm2"), ReweightConfig(heads=10))  # doctest: +SKIP
        >>> found.trained.gains.shape                                   # doctest: +SKIP
        torch.Size([30, 9])
    """
    values = config.to_dict()
    settings = {field.name: values[field.name] for field in dataclasses.fields(ReweightConfig)}
    of_effects = content_hash(str(_FORMAT), lm.weight_hash, *(f"{key}={settings[key]}" for key in _DISCOVERY))
    of_all = content_hash(of_effects, repr(sorted(settings.items())))
    home = cache_dir() / "head-gains"
    effects = discover(lm, config, CheckpointStore(home / of_effects), report)
    heads = choose_heads(effects.mean(config.effect), config)
    return Reweighting(
        tuple(heads), effects, GainTrainer(lm, heads, config, CheckpointStore(home / of_all), report).train()
    )


@dataclasses.dataclass(frozen=True)
class PEARConfig(ReweightConfig, MethodConfig):
    """Settings of PEAR: those of :class:`~coldframe.methods.head_gains.config.ReweightConfig`; ``k`` means nothing."""

    section = "PEAR settings"


class PEAR(Method):
    """Position-embedding-agnostic attention re-weighting: ``sum_h g_h O_h z_h``, with ``g`` the same for every query.

    The heads are found and their gains trained on random sequences (the proxy task), so neither the task's rows nor
    what is retrieved plays a part: to the training loop there is nothing to train. The gains are made the
    first time they are needed, and stand in the artifact. Folded into a checkpoint they cost nothing at all
    (``coldframe reweight``), and that checkpoint goes under any other method.

    Paper: Tan et al. 2025, arXiv 2409.19745. Deviates: see :class:`~.coefficients.GainTrainer` and
    :func:`~.discovery.threshold`.

    Cost:
        No trained parameters in the task's sense, no tokens; the text's states depend on the gains.
    """

    name: ClassVar[str] = "pear"
    paper: ClassVar[str] = "arXiv 2409.19745"
    config_class = PEARConfig
    config: PEARConfig
    trainable: ClassVar[bool] = False

    gains: Tensor
    made: bool = False

    def build(self, context: MethodContext) -> None:
        """Gains that are still to be made, or to be loaded."""
        self.register_buffer("gains", torch.ones(context.lm.anatomy.n_layers, context.lm.anatomy.n_heads))
        self.made = False

    def make(self) -> None:
        """Find the heads and train their gains, unless that is done."""
        if not self.made:
            say("PEAR: finding heads and training their gains, unless they are in the cache")
            with torch.enable_grad():  # this may be the first prediction
                found = reweight(self.ready.lm, self.config)
            self.gains, self.made = found.trained.gains.to(self.gains.device), True

    def state_dict(self, *args: Any, **options: Any) -> Any:
        """The gains, made if they were not."""
        self.make()
        return super().state_dict(*args, **options)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Take gains that were made before."""
        found = super().load_state_dict(state_dict, strict, assign)
        self.made = True
        return found

    def condition(self, texts: Sequence[str], retrieved: Retrieved) -> Conditioning:
        """The same gains for every query."""
        self.make()
        return Conditioning(head_gains=self.gains)
