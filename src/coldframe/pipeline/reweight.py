"""A model whose heads are weighed anew: PEAR fitted without a task."""

from __future__ import annotations

from pathlib import Path

from coldframe.errors import ConfigError
from coldframe.frozen.model import FrozenLM
from coldframe.methods.head_gains.config import ReweightConfig
from coldframe.methods.head_gains.fold import is_packed, save_reweighted
from coldframe.methods.head_gains.pear import PEAR, PEARConfig
from coldframe.methods.head_gains.reweighting import Reweighting
from coldframe.pipeline.fit import fit
from coldframe.progress import say
from coldframe.storage.cache import cache_dir, lock
from coldframe.tasks.task import Schema, Task, content_hash

COPYING = Task(Schema("copying", kind="generation", metric="token_f1"), (), (), (), store=())
"""The task of a method that learns nothing from a task."""


def reweight(lm: FrozenLM, config: ReweightConfig, quiet: bool = True) -> Reweighting:
    """Find the heads that hold retrieval back, and train a gain for each; see :class:`PEAR`.

    Args:
        lm: The model; never changed.
        config: How heads are found and weighed.
        quiet: No progress bars.

    Example:
        >>> from coldframe import load_lm
        >>> reweighting = reweight(load_lm("smollm2"), ReweightConfig(heads=10))  # doctest: +SKIP
        >>> reweighting.gains.shape                                           # doctest: +SKIP
        torch.Size([30, 9])
    """
    method = PEAR(PEARConfig.from_dict(config.to_dict()))
    fit(method, lm, COPYING, quiet=quiet)
    return method.reweighting


def reweighted_folder(lm: FrozenLM, config: ReweightConfig, quiet: bool = True) -> Path:
    """The folder of a model reweighted with these settings: made the first time, and kept in the cache.

    Args:
        lm: The base model, loaded by name.
        config: How heads are found and weighed.
        quiet: No progress bars.

    Raises:
        ConfigError: If the weights are packed, so that gains cannot be folded in.
    """
    if is_packed(lm):
        raise ConfigError(
            "Gains cannot be folded into packed weights", got=lm.provenance["name"], fix="Use --method pear."
        )
    name = content_hash(lm.weight_hash, str(lm.dtype), repr(sorted(config.to_dict().items())))[:12]
    folder = cache_dir() / "models" / f"{Path(str(lm.provenance['name'])).name}-pear-{name}"
    with lock(folder.name):
        if not folder.is_dir():
            say(f"reweighting {lm.provenance['name']} (once)")
            save_reweighted(lm, config, reweight(lm, config, quiet), folder)
    return folder
