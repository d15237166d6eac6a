"""What every method is: a way to turn what was retrieved into a ``Conditioning``, and to learn how."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self, TypeAlias

import torch
from torch import Tensor, nn

from coldframe.errors import ArtifactError, ConfigError, NotFittedError
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Conditioning, LanguageModel, Prompt
from coldframe.methods import export
from coldframe.methods.config import MethodConfig, MethodContext
from coldframe.methods.forms import Form
from coldframe.methods.search_space import SearchSpace
from coldframe.methods.training_set import Problem, RetrievedRows, TrainingData
from coldframe.retrieval.store import Retrieved
from coldframe.storage.artifact import Artifact
from coldframe.storage.tensors import read_tensors, write_tensors
from coldframe.tasks.prompts import with_solved
from coldframe.tasks.task import Example, Schema, Task

WEIGHTS = "model.safetensors"

#: Vectors of what was retrieved, ``[n, k, d]``, and which are present, ``[n, k]``.
EntryVectors: TypeAlias = Callable[[Retrieved], tuple[Tensor, Tensor]]
#: Other vectors in their place: gets the method, its own ``EntryVectors`` and what was retrieved.
VectorSource: TypeAlias = Callable[[nn.Module, EntryVectors, Retrieved], tuple[Tensor, Tensor]]


class Method(nn.Module):
    """Base of all methods. A subclass is one file: a config, ``build``, ``condition``.

    Class attributes, which are all that the rest of the library knows of a method:
        name: As on the command line.
        paper: Where it comes from.
        config_class: Its settings.
        order_invariant: Whether a permutation of the retrieved set leaves the logits bit-identical.
        uses_retrieval: Whether ``condition`` looks at the retrieved entries.
        uses_query: Whether ``condition`` looks at the query itself, and not only at what was retrieved for it.
        uses_encoder: Whether it needs vectors of the inputs (or of the entries).
        trainable: Whether there is anything to train.
        needs_passages: Whether its store must hold passages with questions about them.
        learns_from_task: Whether the task's rows play a part in its training.
        needs_labels: Whether its store must hold solved exemplars, which passages are not.
        reads_text: Whether what it retrieves stands in the prompt, so that a query costs several times the tokens.
        reads_model: Whether the frozen model gives its answers. One that scores the labels itself is a control: its
            ``condition`` fills ``Conditioning.scores``, and the model is not run.
        needs_model: Whether it is built for a model; one that does not read it may still have its widths.
        needs_gradient: Whether its training goes through the model's weights, which a server keeps to itself.
        learns_validation: Whether it is fitted to the validation rows too, once it has chosen by them: then they cannot
            judge it.
        uses_seed: Whether another training seed makes another method of it.
        strategy: How its entries are retrieved unless told otherwise.
        learning_rate: Its natural rate, used unless another is given.
        training_defaults: The training settings that it wants where they are not the usual ones.
        port: What it fills: ``text``, ``soft tokens`` or ``head gains``; ``ports`` names weights that it changes.
        query_settings: Settings that may be changed after training.
        search_space: What ``compare --tune`` searches, of its own settings and of training (``training.epochs``).
        ablations: What may be changed for a comparison: names of ``QUERY_ABLATIONS`` and ``TRAINING_ABLATIONS`` in
            ``coldframe.evaluation.jobs``.
    """

    name: ClassVar[str]
    paper: ClassVar[str] = ""
    config_class: ClassVar[type[MethodConfig]] = MethodConfig
    order_invariant: ClassVar[bool] = True
    uses_retrieval: ClassVar[bool] = False
    uses_query: ClassVar[bool] = False
    uses_encoder: ClassVar[bool] = False
    trainable: ClassVar[bool] = True
    needs_passages: ClassVar[bool] = False
    learns_from_task: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = False
    reads_text: ClassVar[bool] = False
    reads_model: ClassVar[bool] = True
    needs_model: ClassVar[bool] = True
    needs_gradient: ClassVar[bool] = True
    learns_validation: ClassVar[bool] = False
    uses_seed: ClassVar[bool] = True
    strategy: ClassVar[str] = "auto"
    learning_rate: ClassVar[float] = 1e-3
    training_defaults: ClassVar[Mapping[str, Any]] = {}
    port: ClassVar[str | None] = None
    query_settings: ClassVar[tuple[str, ...]] = ()
    search_space: ClassVar[SearchSpace] = {}
    ablations: ClassVar[tuple[str, ...]] = ()

    config: MethodConfig
    context: MethodContext | None = None
    #: Store entries that nothing could be learned for, by id, with the reason; they are not retrieved.
    left_out: Mapping[str, str] = {}
    #: Added to the scores of the labels, in nats: a correction that was fitted to validation rows.
    label_bias: Sequence[float] = ()

    def __init__(self, config: MethodConfig | None = None, **settings: Any) -> None:
        super().__init__()
        if config is not None and settings:
            raise ConfigError("Pass a config or keyword settings, not both", got=sorted(settings))
        self.config = config if config is not None else self.config_class.from_dict(settings)

    def __repr__(self) -> str:
        """The class with the settings that are not the usual ones."""
        usual = self.config_class()
        changes = {
            field.name: getattr(self.config, field.name)
            for field in dataclasses.fields(self.config)
            if getattr(self.config, field.name) != getattr(usual, field.name)
        }
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in changes.items())})"

    # ---- what it is -------------------------------------------------------------------------------------

    @property
    def shares_text(self) -> bool:
        """Whether the states of a query's text are the base model's, so that they are read once and kept."""
        return False

    @property
    def ports(self) -> frozenset[str]:
        """The ports it fills; of weights the names, once it is set up."""
        return frozenset() if self.port is None else frozenset({self.port})

    @property
    def soft_token_count(self) -> int:
        """Soft tokens beside each query."""
        return 0

    @property
    def trains_on_retrieved(self) -> bool:
        """Whether its training looks at what is retrieved for a row."""
        return self.trainable and self.uses_retrieval and self.learns_from_task and not self.needs_passages

    def learned_rows(self, task: Task) -> tuple[Example, ...]:
        """The rows that it learns from or is chosen by; no test row may be one of them."""
        learns = self.trainable and self.learns_from_task
        return (*task.train, *task.validation, *task.about) if learns else ()

    @property
    def makes_entry_vectors(self) -> bool:
        """Whether it makes one vector of each retrieved entry, which ``with_entry_vectors`` can replace."""
        return False

    @property
    def trained_parameters(self) -> int:
        """How many parameters training changes."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)

    @property
    def entry_bytes(self) -> float | None:
        """Bytes that it holds for each entry of the store; None for a method that holds none."""
        return None

    @property
    def ready(self) -> MethodContext:
        """The context, or an error if ``setup`` was never called."""
        if self.context is None:
            raise NotFittedError(f"{self.name} has not been fitted", fix="Call coldframe.fit or coldframe.load.")
        return self.context

    def with_settings(self, **settings: Any) -> Self:
        """The same method, trained as it is, with other settings that only matter to a query.

        Raises:
            ConfigError: A setting is none, or cannot be changed once the method is trained.
        """
        for name in settings:
            if name not in self.query_settings:
                problem = f"{name!r} cannot be changed once {self.name} is trained"
                raise ConfigError(problem, expected=", ".join(self.query_settings) or "none", fix="Fit again.")
        changed = copy.copy(self)
        changed.config = self.config.replace(**settings)
        return changed

    def with_entry_vectors(self, source: VectorSource) -> Self:
        """The same method, which takes the vectors of the retrieved entries from elsewhere: for controls.

        Raises:
            ConfigError: It makes no vectors of single entries.
        """
        raise ConfigError(f"{self.name} makes no vectors of single entries")

    def schema_for(self, task: Task, seed: int = 0) -> Schema:
        """The task's schema with the prompt that it wants; the seed draws solved examples, for text RAG beside it."""
        return with_solved(task, None, seed) if self.uses_retrieval and self.reads_model else task.schema

    def depends_on_seed(self, task: Task, first: int, second: int) -> bool:
        """Whether two seeds make different methods of it: it is trained, or its solved examples are others."""
        return (self.trainable and self.uses_seed) or self.schema_for(task, first) != self.schema_for(task, second)

    def searched(self, schema: Schema) -> SearchSpace:
        """What ``compare --tune`` searches for a task: ``search_space``, as far as it can be set there."""
        return self.search_space

    # ---- what a method defines --------------------------------------------------------------------------

    def setup(self, context: MethodContext, seed: int = 0) -> Self:
        """Create the parameters for a model and a task, the same for the same seed.

        Raises:
            ConfigError: The task has no labels, and the method can do nothing but choose among labels.
        """
        if not self.reads_model and context.schema.kind != "classification":
            raise ConfigError(
                f"{self.name} chooses among labels and has no language model to write with",
                got=f"the {context.schema.kind} task {context.schema.name}",
                fix="Choose a method that adapts the model: coldframe methods.",
            )
        object.__setattr__(self, "context", context)  # not a submodule: the frozen model is never ours to save
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.build(context)
        self.to(context.lm.device)
        return self

    def build(self, context: MethodContext) -> None:
        """Create parameters (float32). Called once, under the seed."""

    @abstractmethod
    def condition(self, texts: Sequence[str], retrieved: Retrieved) -> Conditioning:
        """Turn a batch of queries and what was retrieved for them into a conditioning."""

    def contexts(self, texts: Sequence[str], retrieved: Retrieved) -> tuple[tuple[str, ...], ...] | None:
        """What ``condition`` puts into the text port, without the work of the other ports; None for nothing."""
        return None

    def label_scores(
        self, lm: LanguageModel, prompts: Sequence[Prompt], words: Sequence[str], conditioning: Conditioning
    ) -> Tensor:
        """Log-scores of the label words, ``[batch, labels]``: the model's choices among them, and ``label_bias``.

        Those that the conditioning brings along, if it does, take the place of the model's.
        """
        if conditioning.scores is not None:
            return self.biased(conditioning.scores)
        return self.biased(lm.label_scores(prompts, words, conditioning, choices=True))

    def biased(self, scores: Tensor) -> Tensor:
        """Scores of the labels with ``label_bias``."""
        return scores + scores.new_tensor(self.label_bias) if self.label_bias else scores

    def label_losses(
        self,
        lm: FrozenLM,
        prompts: Sequence[Prompt],
        words: Sequence[str],
        targets: Sequence[int],
        conditioning: Conditioning,
    ) -> Tensor:
        """Cross-entropies of the right labels over the softmax of :meth:`label_scores`, ``[batch]``, in nats."""
        if conditioning.scores is not None:
            gold = torch.tensor(targets, device=conditioning.scores.device)
            return nn.functional.cross_entropy(conditioning.scores, gold, reduction="none")
        return lm.label_losses(prompts, words, targets, conditioning, choices=True)

    # ---- training ---------------------------------------------------------------------------------------

    def problems(self, data: TrainingData) -> Iterator[Problem]:
        """What is trained, one problem after another; the code after a ``yield`` runs when that one is trained.

        By default there is one: the training rows, each with what was retrieved for it.
        """
        yield Problem(self, data.train, data.validation, name=self.name)

    def growth(self, data: TrainingData) -> Iterator[Problem]:
        """What is trained when the store of a fitted method grows: nothing, by default.

        Args:
            data: The task with the new entries alone, and the questions about them.
        """
        yield from ()

    def loss(self, lm: FrozenLM, batch: Any) -> Tensor:
        """The loss of each item of a batch, ``[n]``: by default ``-log p(target | conditioning)``, in nats.

        Args:
            lm: The model.
            batch: What ``TrainingSet.take`` gives; here :class:`RetrievedRows`.
        """
        rows: RetrievedRows = batch
        schema, texts = self.ready.schema, rows.texts
        conditioning = self.condition(texts, rows.retrieved)
        queries = prompts(schema, texts)
        if schema.kind == "classification" and (rows.objective == "labels" or not self.reads_model):
            targets = schema.targets(rows.items)
            return self.label_losses(lm, queries, schema.words, targets, conditioning)
        answers = [schema.template.answer(schema.word(example.target)) for example in rows.items]
        return lm.loss(queries, answers, conditioning)

    def forward(self, lm: FrozenLM, batch: Any) -> Tensor:
        """``loss`` under the name that data-parallel wrappers call."""
        return self.loss(lm, batch)

    def step_figures(self) -> dict[str, float]:
        """Figures of a step once its gradients are there; an epoch's record has their means. None by default."""
        return {}

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Optimiser groups; a method with parts of different natural rates overrides this."""
        return [{"params": [p for p in self.parameters() if p.requires_grad], "lr": learning_rate}]

    def optimizer(self, groups: list[dict[str, Any]], **settings: Any) -> torch.optim.Optimizer:
        """The optimiser of the training loop, with ``lr`` and ``weight_decay``: AdamW."""
        return torch.optim.AdamW(groups, **settings)

    # ---- files ------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> list[str]:
        """Write what was learned into an artifact's folder; returns the names of the files."""
        write_tensors(folder / WEIGHTS, self.state_dict())
        return [WEIGHTS]

    def load(self, artifact: Artifact) -> None:
        """Take what :meth:`save` wrote.

        Raises:
            ArtifactError: It is damaged, or belongs to other settings.
        """
        tensors, _ = read_tensors(artifact / WEIGHTS, fix="Fit again.")
        try:
            self.load_state_dict(tensors)
        except RuntimeError as error:
            raise ArtifactError(f"The weights do not fit the method {self.name}: {error}") from error

    @property
    def forms(self) -> tuple[Form, ...]:
        """In which forms it leaves for other libraries, the usual one first; none if only coldframe can run it."""
        return export.forms_of(self)

    def export(self, folder: Path, request: export.ExportRequest) -> list[str]:
        """Write what was learned into a new folder, in one of :attr:`forms`; returns what to know of it."""
        return export.write_export(self, folder, request)


def prompts(schema: Schema, texts: Sequence[str]) -> list[Prompt]:
    """Queries as the task's template puts them."""
    template = schema.template
    return [Prompt(template.query(text), template.header, template.end) for text in texts]


def is_concrete(cls: type[Method]) -> bool:
    """Whether a class is a method that can be asked for by its name."""
    return "name" in cls.__dict__ and not inspect.isabstract(cls)
