"""The rungs of the prompt-tuning ladder before they are trained: which methods, which settings, which rates."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from coldframe.config import check
from coldframe.errors import ConfigError, nearest
from coldframe.evaluation.jobs import Job
from coldframe.frozen.model import FrozenLM
from coldframe.methods.base import Method
from coldframe.methods.config import MethodConfig
from coldframe.methods.registry import create
from coldframe.methods.soft_tokens.base import EncodedConfig, SoftTokenConfig
from coldframe.pipeline.setup import context_of
from coldframe.tasks.task import Schema
from coldframe.training.config import TrainingConfig

#: Rates of a rung's sweep, as multiples of its method's natural rate.
FACTORS = (1 / 3, 1.0, 3.0)


RUNGS = ("prompt-tuning", "reparameterised", "constant", "query-only", "full")
#: The method whose settings the controls without a language model have.
_LIKE = "mha-esp"


@dataclasses.dataclass(frozen=True)
class Step:
    """A rung before it is trained: its name, what it may look at in words, method, settings, learning rates to try."""

    name: str
    what: str
    method: str
    settings: Mapping[str, Any]
    rates: tuple[float, ...]

    def job(self, rate: float, seed: int) -> Job:
        """One run of the rung."""
        settings = {**self.settings, "training": {"learning_rate": rate}}
        change = "constant-input" if self.name == "constant" else None
        return Job(f"{self.name}, learning rate {rate:g}", None, self.method, settings, seed, change)


def count_tokens(method: Method, lm: FrozenLM, schema: Schema) -> int:
    """How many soft tokens a method makes; a ConfigError if there are none, or if it changes weights or gains too."""
    fresh = create(method.name, method.config.to_dict())
    fresh.setup(context_of(fresh, lm, schema))  # which weights it changes is known then
    if not fresh.soft_token_count or fresh.ports - {"soft tokens", "text"}:
        raise ConfigError(
            f"{method.name} puts no soft tokens into the model, or other things too, so there is no static prompt "
            "to set beside it",
            expected="a trained method of the soft-token port, such as mha-esp or idpg",
            fix="The ladder asks how far a prompt of as many tokens gets without the query and its exemplars. What "
            "retrieval does for a method without soft tokens, the store ablation says; for exemplars in the prompt, "
            "compare icl with icl-fixed.",
        )
    return fresh.soft_token_count


def plan(
    method: Method, tokens: int, training: TrainingConfig, learning_rates: Mapping[str, Sequence[float]]
) -> list[Step]:
    """The rungs of a method with ``tokens`` soft tokens; rates by rung, where they are not to be the default ones."""
    for name, rates in learning_rates.items():
        if name not in RUNGS:
            raise ConfigError(f"There is no rung {name!r}", fix=nearest(name, RUNGS))
        check(bool(rates) and min(rates) > 0, f"Learning rates of {name!r} must be positive", got=list(rates))
    static, query = ({**_shared(method.config, kind), "tokens": tokens} for kind in (SoftTokenConfig, EncodedConfig))
    own, m = method.config.to_dict(), f"{tokens} tokens"
    rungs: list[tuple[str, Mapping[str, Any], str]] = [  # method, settings, what it may look at; in the order of RUNGS
        ("prompt-tuning", static, f"{tokens} free tokens, the same for all queries"),
        ("reparameterised-prompt-tuning", static, f"{m} out of a network, the same for all queries"),
        (method.name, own, f"{method.name} with the same query and exemplars for all"),
        ("idpg", query, f"{m} from the query alone (IDPG)"),
        (method.name, own, method.name),
    ]
    steps = []
    for rung, (name, settings, what) in zip(RUNGS, rungs, strict=True):
        natural = method.learning_rate if name == method.name else create(name).learning_rate
        if name == method.name and training.learning_rate is not None:
            natural = training.learning_rate
        rates = learning_rates.get(rung) or [float(f"{natural * factor:.3g}") for factor in FACTORS]
        steps.append(Step(rung, what, name, settings, tuple(rates)))
    return steps


def control_settings(method: Method, tokens: int) -> dict[str, dict[str, Any]]:
    """Settings of the controls without a language model, with the full method's inputs, by the method they are like."""
    settings = {**_shared(method.config, create(_LIKE).config_class), "heads": tokens}
    settings |= {"k": method.config.k} if method.config.k else {}
    if method.name != _LIKE:  # a rate that was set is the full method's
        settings["training"] = {"learning_rate": None}
    return {_LIKE: settings}


def _shared(config: MethodConfig, like: type[MethodConfig]) -> dict[str, Any]:
    """Settings of the full method that a kind of method has as well; what is retrieved is not among them."""
    names = [field.name for field in dataclasses.fields(like) if field.name != "k"]
    return {name: getattr(config, name) for name in names if hasattr(config, name)}
