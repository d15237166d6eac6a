"""A reweighted checkpoint that is made when a recipe asks for it, and kept."""

from __future__ import annotations

from pathlib import Path

from coldframe.errors import ConfigError
from coldframe.frozen.model import FrozenLM
from coldframe.methods.head_gains.config import ReweightConfig
from coldframe.methods.head_gains.discovery import Report
from coldframe.methods.head_gains.fold import is_packed, save_reweighted
from coldframe.methods.head_gains.pear import reweight
from coldframe.progress import say
from coldframe.storage.cache import cache_dir, lock
from coldframe.tasks.task import content_hash


def reweighted_folder(lm: FrozenLM, config: ReweightConfig, report: Report | None = None) -> Path:
    """The folder of a model reweighted with these settings: made the first time, found again afterwards.

    Args:
        lm: The base model, loaded by name.
        config: How.
        report: Told of the progress.

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
            save_reweighted(lm, config, reweight(lm, config, report), folder)
    return folder
