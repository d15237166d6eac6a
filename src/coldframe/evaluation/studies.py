"""Optuna's part of tuning: what is searched in its words, what to try next, trials on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coldframe.methods.search_space import Choices, Floats, Integers

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial, Trial

#: Trials before the sampler and the pruner look at those before.
STARTUP = 4
#: The first epoch that a trial may be stopped after.
FIRST_PRUNED = 2
#: Draws for settings that no trial had; then all that there are count as tried.
DRAWS = 50


def distribution(values: Floats | Integers | Choices) -> BaseDistribution:
    """A part of a search space; choices as JSON writes them, so that they may be of any type."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(values, Floats):
        return FloatDistribution(values.low, values.high, log=values.log)
    if isinstance(values, Integers):
        return IntDistribution(values.low, values.high, log=values.log)
    return CategoricalDistribution([json.dumps(value) for value in values.values])


def is_in(distribution: Any, value: Any) -> bool:
    """Whether a value may come out of a distribution."""
    if hasattr(distribution, "choices"):
        return value in distribution.choices
    return isinstance(value, int | float) and distribution.low <= value <= distribution.high


def suggested(
    history: Sequence[FrozenTrial], distributions: Mapping[str, BaseDistribution], number: int
) -> tuple[Study, Trial | None]:
    """Settings that no trial had; a function of the trials before and of the number of this one."""
    import optuna

    tried = [trial.params for trial in history]
    for draw in range(DRAWS):
        study = optuna.create_study(
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=DRAWS * number + draw, n_startup_trials=STARTUP),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=FIRST_PRUNED),
        )
        study.add_trials(history)
        trial = study.ask(dict(distributions))
        if trial.params not in tried:
            return study, trial
    return study, None


def journal(path: Path) -> BaseStorage:
    """Trials on disk; a last line that was cut off is no trial, and goes."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file() and (content := path.read_bytes()) and not content.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)
    return JournalStorage(JournalFileBackend(str(path)))
