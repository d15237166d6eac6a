"""The rungs of the prompt-tuning ladder before they are trained: which methods, which settings, which rates."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from coldframe.config import check
from coldframe.errors import ConfigError, nearest
from coldframe.evaluation import linear_head
from coldframe.evaluation.runs import Job
from coldframe.frozen.model import FrozenLM
from coldframe.methods.base import Method, MethodConfig
from coldframe.methods.registry import create
from coldframe.methods.soft_tokens.base import EncodedConfig, SoftTokenConfig
from coldframe.pipeline.pipeline import Pipeline
from coldframe.pipeline.setup import context_of
from coldframe.retrieval.retriever import RetrievalConfig
from coldframe.retrieval.store import Store
from coldframe.tasks.task import Task
from coldframe.training.config import TrainingConfig

#: Rates of a rung's sweep, as multiples of its method's natural rate.
FACTORS = (1 / 3, 1.0, 3.0)


@dataclasses.dataclass(frozen=True)
class _Rung:
    """A line of the table of rungs.

    Attributes:
        name: Of the rung.
        what: The method and what it may look at, in words, for ``m`` tokens and the full method's ``name``.
        method: The method; None for the full one, with all its settings.
        shared: Which of its settings it has from the full method: those of this config, but what is retrieved.
        constant: Whether the method is told the same whatever is asked.
    """

    name: str
    what: str
    method: str | None = None
    shared: type[MethodConfig] = MethodConfig
    constant: bool = False


_TABLE = (
    _Rung("prompt-tuning", "{m} free tokens, the same for all queries", "prompt-tuning", SoftTokenConfig),
    _Rung(
        "reparameterised",
        "{m} tokens out of a network, the same for all queries",
        "reparameterised-prompt-tuning",
        SoftTokenConfig,
    ),
    _Rung("constant", "{name}, told one query and its exemplars for all", constant=True),
    _Rung("query-only", "{m} tokens from the query alone (IDPG)", "idpg", EncodedConfig),
    _Rung("full", "{name}"),
)
RUNGS = tuple(rung.name for rung in _TABLE)
#: The control that reads soft tokens without a language model: its method is this one.
_HEADED = "mha-esp"


@dataclasses.dataclass(frozen=True)
class Step:
    """A rung before it is trained.

    Attributes:
        name: One of ``RUNGS``.
        what: The method and what it may look at, in words.
        method: The method's name.
        settings: Its settings.
        rates: Learning rates to choose from.
        constant: Whether the method is told the same whatever is asked.
    """

    name: str
    what: str
    method: str
    settings: Mapping[str, Any]
    rates: tuple[float, ...]
    constant: bool = False

    def job(self, rate: float, seed: int) -> Job:
        """One run of the rung."""
        settings = {**self.settings, "training": {"learning_rate": rate}}
        title = f"{self.name}, learning rate {rate:g}"
        return Job(title, None, self.method, settings, seed, constant=self.constant)


def count_tokens(method: Method, lm: FrozenLM, task: Task, retrieval: RetrievalConfig) -> int:
    """How many soft tokens a method puts into the model, by what it does with the first training row.

    Raises:
        ConfigError: It puts none there.
    """
    first = task.train[:1]
    fresh = create(method.name, method.config.to_dict())
    fresh.setup(context_of(fresh, lm, task.schema)).eval()
    pipeline = Pipeline(fresh, lm, task.schema, Store.of(task.exemplars), retrieval, TrainingConfig())
    tokens = None
    if not fresh.needs_passages:
        with torch.no_grad():
            conditioning = fresh.condition([first[0].text], pipeline.retrieve(first))
        tokens = None if conditioning.changes_backbone else conditioning.soft_tokens
    if tokens is None:
        raise ConfigError(
            f"{method.name} puts no soft tokens into the model, or other things too, so there is no static prompt "
            "to set beside it",
            expected="a trained method of the soft-token port, as mha-esp or idpg",
            fix="The ladder asks how far a prompt of as many tokens gets without the query and its exemplars. What "
            "retrieval does for a method without soft tokens, the store ablation says; for exemplars in the prompt, "
            "compare icl with icl-fixed.",
        )
    return int(tokens.shape[-2])


def plan(
    method: Method, tokens: int, training: TrainingConfig, learning_rates: Mapping[str, Sequence[float]]
) -> list[Step]:
    """The rungs of a method, with all that its inputs have in common with theirs.

    Args:
        method: The full method.
        tokens: Its soft tokens m.
        training: Where the full method's own rate comes from, if one was set.
        learning_rates: Rates by name of the rung, for those that are not to have the default ones.
    """
    for name, rates in learning_rates.items():
        if name not in RUNGS:
            raise ConfigError(f"There is no rung {name!r}", fix=nearest(name, RUNGS))
        check(bool(rates) and min(rates) > 0, f"Learning rates of {name!r} must be positive", got=list(rates))

    steps = []
    for rung in _TABLE:
        if rung.method is None:
            settings = method.config.to_dict()
        else:
            settings = {**_shared(method.config, rung.shared), "tokens": tokens}
        name = rung.method or method.name
        natural = method.learning_rate if name == method.name else create(name).learning_rate
        if name == method.name and training.learning_rate is not None:
            natural = training.learning_rate
        rates = learning_rates.get(rung.name) or [float(f"{natural * factor:.3g}") for factor in FACTORS]
        what = rung.what.format(m=tokens, name=method.name)
        steps.append(Step(rung.name, what, name, settings, tuple(rates), rung.constant))
    return steps


def head(method: Method, tokens: int, seed: int) -> Job:
    """The control that reads the soft tokens of MHA-ESP without a language model, with the full method's inputs."""
    settings = {**_shared(method.config, create(_HEADED).config_class), "heads": tokens}
    settings |= {"k": method.config.k} if method.config.k else {}
    if method.name != _HEADED:  # a rate that was set is the full method's
        settings["training"] = {"learning_rate": None}
    return Job(linear_head.NAME, "no-lm", _HEADED, settings, seed, headed=True)


def _shared(config: MethodConfig, like: type[MethodConfig]) -> dict[str, Any]:
    """Settings of the full method that a kind of method has as well; what is retrieved is not among them."""
    names = [field.name for field in dataclasses.fields(like) if field.name != "k"]
    return {name: getattr(config, name) for name in names if hasattr(config, name)}
