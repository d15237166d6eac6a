"""Several methods at once, each in a port of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn

from coldframe.config import check
from coldframe.errors import ConfigError
from coldframe.frozen.ports import Conditioning
from coldframe.methods.base import Method, VectorSource
from coldframe.methods.config import MethodConfig, MethodContext
from coldframe.methods.export import ExportRequest
from coldframe.methods.forms import Form
from coldframe.methods.search_space import SearchSpace
from coldframe.methods.training_set import Problem, RetrievedRows, TrainingData
from coldframe.retrieval.store import Retrieved
from coldframe.storage.artifact import Artifact
from coldframe.tasks.task import Example, Schema, Task

JOIN = "+"


@dataclasses.dataclass(frozen=True)
class ComposeConfig(MethodConfig):
    """Settings of a composition.

    Args:
        k: Entries retrieved per query: the most that a part looks at.
        parts: Settings of the parts, by their names.
    """

    section = "settings of a composition"

    parts: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """By the names of the parts, as :func:`coldframe.methods.registry.create` takes them."""
        return dict(super().to_dict()["parts"])


class Compose(Method):
    """``C(x, S) = C_1(x, S) + C_2(x, S) + ...``: every part fills its own port, for instance text and weights.

    Each part sees as many of the nearest entries as its own ``k`` says. Parts are trained one after another: first
    those that learn nothing from the task (PEAR), then the others in their order, with the ports of those before them
    in place where the loss is that of the task's answers. The training settings are those that the parts want; where
    several want one, the last.

    Args:
        *parts: At least two, of different names.

    Raises:
        ConfigError: Two parts have one name, or fill the same port, or one of them reads no model.

    Example:
        >>> from coldframe.methods.head_gains.pear import PEAR
        >>> from coldframe.methods.text.icl import RetrievedICL
        >>> Compose(RetrievedICL(k=3), PEAR()).name
        'icl+pear'
    """

    name = "compose"
    config_class: ClassVar[type[MethodConfig]] = ComposeConfig
    config: ComposeConfig

    def __init__(self, *parts: Method) -> None:
        names = [part.name for part in parts]
        distinct = len(parts) >= 2 and len({*names}) == len(names)
        check(distinct, "A composition has parts of different names", got=names)
        alone = next((part.name for part in parts if not part.reads_model), None)
        if alone is not None:
            raise ConfigError(f"{alone} scores the labels itself: there is no model for another method to adapt")
        _check_ports(parts)
        most = max([part.config.k for part in parts if part.uses_retrieval], default=0)
        super().__init__(ComposeConfig(most, {part.name: part.config.to_dict() for part in parts}))
        self.parts = nn.ModuleList(parts)
        flags = ["uses_retrieval", "uses_query", "uses_encoder", "reads_text"]
        flags += ["trainable", "needs_passages"]
        facts: dict[str, Any] = {flag: any(getattr(part, flag) for part in parts) for flag in flags}
        facts["needs_gradient"] = any(part.trainable and part.needs_gradient for part in parts)
        facts["learns_from_task"] = any(part.trainable and part.learns_from_task for part in parts)
        facts["name"] = JOIN.join(names)
        facts["training_defaults"] = {k: value for part in parts for k, value in part.training_defaults.items()}
        facts["search_space"] = _together({part.name: part.search_space for part in parts})
        facts["order_invariant"] = all(part.order_invariant for part in parts)
        strategies = {part.strategy for part in parts if part.uses_retrieval}
        check(len(strategies) < 2, f"The parts of {facts['name']} retrieve in different ways", got=sorted(strategies))
        facts["strategy"] = min(strategies, default="auto")
        of_settings = {f"{ablation}-routing" for ablation in ("uniform", "random")}  # theirs is a part's own setting
        facts["ablations"] = tuple(dict.fromkeys(a for part in parts for a in part.ablations if a not in of_settings))
        facts["query_settings"] = tuple(f"{part.name}.{key}" for part in parts for key in part.query_settings)
        for attribute, value in facts.items():  # those of the class hold for no composition in particular
            setattr(self, attribute, value)
        self._trained: list[Method] = list(parts)

    def searched(self, schema: Schema) -> SearchSpace:
        """What is searched of the parts."""
        return _together({part.name: part.searched(schema) for part in self.methods})

    def __repr__(self) -> str:
        """As it is made."""
        return f"Compose({', '.join(map(repr, self.parts))})"

    @property
    def methods(self) -> list[Method]:
        """The parts."""
        return [part for part in self.parts if isinstance(part, Method)]

    @property
    def ports(self) -> frozenset[str]:
        """Those of all parts."""
        return frozenset(port for part in self.methods for port in part.ports)

    @property
    def shares_text(self) -> bool:
        """Whether no part changes what the text's states are."""
        return all(part.shares_text for part in self.methods)

    @property
    def soft_token_count(self) -> int:
        """Of all parts."""
        return sum(part.soft_token_count for part in self.methods)

    @property
    def trains_on_retrieved(self) -> bool:
        """Whether the training of a part does."""
        return any(part.trains_on_retrieved for part in self.methods)

    def learned_rows(self, task: Task) -> tuple[Example, ...]:
        """Of all parts."""
        return tuple(row for part in self.methods for row in part.learned_rows(task))

    @property
    def makes_entry_vectors(self) -> bool:
        """Whether all parts do that look at entries."""
        readers = [part for part in self.methods if part.uses_retrieval]
        return bool(readers) and all(part.makes_entry_vectors for part in readers)

    def with_entry_vectors(self, source: VectorSource) -> Self:
        """The same parts, the readers of entries with vectors from ``source``."""
        return self._of(part.with_entry_vectors(source) if part.uses_retrieval else part for part in self.methods)

    def _of(self, parts: Iterable[Method]) -> Self:
        """The same composition of changed parts."""
        changed = type(self)(*parts)
        changed.label_bias = self.label_bias
        object.__setattr__(changed, "context", self.context)
        return changed.train(self.training)

    @property
    def trained_parameters(self) -> int:
        """Of all parts."""
        return sum(part.trained_parameters for part in self.methods)

    @property
    def entry_bytes(self) -> float | None:
        """Of all parts."""
        sizes = [size for part in self.methods if (size := part.entry_bytes) is not None]
        return sum(sizes) if sizes else None

    @property
    def left_out(self) -> Mapping[str, str]:  # type: ignore[override]
        """Of all parts."""
        return {entry: reason for part in self.methods for entry, reason in part.left_out.items()}

    def with_settings(self, **settings: Any) -> Self:
        """The same composition with other settings of its parts: ``icl={"k": 3}``, or ``**{"icl.k": 3}``."""
        changes: dict[str, dict[str, Any]] = {}
        names = [part.name for part in self.methods]
        for key, value in settings.items():
            name, _, setting = key.partition(".")
            check(name in names, f"{name!r} is not a part of {self.name}", got=name, expected=", ".join(names))
            changes.setdefault(name, {}).update({setting: value} if setting else value)
        return self._of(part.with_settings(**changes.get(part.name, {})) for part in self.methods)

    def schema_for(self, task: Task, seed: int = 0) -> Schema:
        """As the part wants it that puts text into the prompt, if there is one."""
        texts = [part for part in self.methods if part.port == "text"]
        return texts[0].schema_for(task, seed) if texts else super().schema_for(task, seed)

    def setup(self, context: MethodContext, seed: int = 0) -> Self:
        """Every part, with the encoder if it needs it."""
        object.__setattr__(self, "context", context)
        for part in self.methods:
            encoder = context.encoder if part.uses_encoder else None
            part.setup(dataclasses.replace(context, encoder=encoder), seed)
        _check_ports(self.methods)
        return self

    def condition(self, texts: Sequence[str], retrieved: Retrieved) -> Conditioning:
        """The parts' conditionings, merged."""
        conditionings = [
            part.condition(texts, retrieved.nearest(part.config.k) if part.uses_retrieval else retrieved)
            for part in self._trained
        ]
        return reduce(Conditioning.merge, conditionings)

    def contexts(self, texts: Sequence[str], retrieved: Retrieved) -> tuple[tuple[str, ...], ...] | None:
        """Of the part that fills the text port."""
        rendered = (
            part.contexts(texts, retrieved.nearest(part.config.k)) for part in self.methods if part.uses_retrieval
        )
        return next((contexts for contexts in rendered if contexts is not None), None)

    def problems(self, data: TrainingData) -> Iterator[Problem]:
        """The problems of every part that trains."""
        order = sorted(self.methods, key=lambda part: part.learns_from_task)
        self._trained = [part for part in order if not part.trainable]
        for part in order:
            if part.trainable:
                self._trained.append(part)
                yield from self._problems_of(part, part.problems(_within(data, part)))
        self._trained = self.methods

    def growth(self, data: TrainingData) -> Iterator[Problem]:
        """Of every part."""
        for part in self.methods:
            yield from self._problems_of(part, part.growth(_within(data, part)))

    def _problems_of(self, part: Method, problems: Iterator[Problem]) -> Iterator[Problem]:
        """Losses of the task's answers are taken with the ports of the parts before in place."""
        for problem in problems:
            if isinstance(problem.items, RetrievedRows):
                yield dataclasses.replace(problem, method=_Within(self, part))
            else:
                yield problem

    def save(self, folder: Path) -> list[str]:
        """Every part in a folder of its own."""
        return [f"{part.name}/{name}" for part in self.methods for name in part.save(folder / part.name)]

    def load(self, artifact: Artifact) -> None:
        """Every part."""
        for part in self.methods:
            part.load(artifact.within(part.name))

    @property
    def forms(self) -> tuple[Form, ...]:
        """Those of all parts; none where a part has none."""
        forms = [part.forms for part in self.methods]
        return tuple(dict.fromkeys(form for part in forms for form in part)) if all(forms) else ()

    def export(self, folder: Path, request: ExportRequest) -> list[str]:
        """Every part in a folder of its own, in the form that is asked for or, without it, its usual one."""
        notes = []
        for part in self.methods:
            own = dataclasses.replace(
                request,
                form=request.form if request.form in part.forms else part.forms[0],
                out=request.out / part.name,
                retrieved=request.retrieved.nearest(part.config.k) if part.uses_retrieval else request.retrieved,
            )
            notes += [f"{part.name}: {note}" for note in part.export(folder / part.name, own)]
        return notes


def _within(data: TrainingData, part: Method) -> TrainingData:
    """A part's data: what it finishes goes where it is saved."""
    return data if data.workspace is None else dataclasses.replace(data, workspace=data.workspace / part.name)


class _Within(Method):
    """A part that is trained while the others stand in the model."""

    whole: Compose

    def __init__(self, whole: Compose, part: Method) -> None:
        super().__init__(whole.config)  # all of it, because what the part learns depends on the others
        self.part = part
        object.__setattr__(self, "whole", whole)  # not a submodule: only the part's weights are kept
        object.__setattr__(self, "context", whole.context)
        for attribute in ("name", "learning_rate", "uses_retrieval"):
            setattr(self, attribute, getattr(part, attribute))

    @property
    def shares_text(self) -> bool:
        return self.whole.shares_text

    def condition(self, texts: Sequence[str], retrieved: Retrieved) -> Conditioning:
        return self.whole.condition(texts, retrieved)

    def contexts(self, texts: Sequence[str], retrieved: Retrieved) -> tuple[tuple[str, ...], ...] | None:
        return self.whole.contexts(texts, retrieved)

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        return self.part.parameter_groups(learning_rate)

    def optimizer(self, groups: list[dict[str, Any]], **settings: Any) -> torch.optim.Optimizer:
        return self.part.optimizer(groups, **settings)

    def step_figures(self) -> dict[str, float]:
        return self.part.step_figures()


def _check_ports(parts: Sequence[Method]) -> None:
    for first, second in combinations(parts, 2):
        if both := sorted(first.ports & second.ports):
            problem = f"{first.name} and {second.name} fill the same port"
            raise ConfigError(problem, got=both[0], fix="Compose different ports.")


def _together(spaces: Mapping[str, SearchSpace]) -> SearchSpace:
    """The search spaces of parts as one: the training is that of all of them."""
    return {
        key if key.startswith("training.") else f"{name}.{key}": values
        for name, space in spaces.items()
        for key, values in space.items()
    }
