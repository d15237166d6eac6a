"""What every method is: a way to turn what was retrieved into a ``Conditioning``."""

from __future__ import annotations

import dataclasses
import importlib
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from coldframe.config import Config
from coldframe.errors import ArtifactError, ConfigError, NotFittedError
from coldframe.frozen.model import FrozenLM
from coldframe.frozen.ports import Conditioning
from coldframe.retrieval.encoders import Encoder
from coldframe.retrieval.store import Retrieved
from coldframe.storage.files import atomic_path
from coldframe.tasks.task import Schema

WEIGHTS = "model.safetensors"


@dataclasses.dataclass(frozen=True)
class MethodConfig(Config):
    """Settings that every method has.

    Args:
        k: Exemplars retrieved per query; methods that use none ignore it.
    """

    section = "method settings"

    k: int = 0


@dataclasses.dataclass
class MethodContext:
    """What a method is built for: the frozen model, the task's schema, the encoder of its inputs.

    ``encoder`` is None for methods that encode nothing.
    """

    lm: FrozenLM
    schema: Schema
    encoder: Encoder | None = None


class Method(nn.Module):
    """Base of all methods. A subclass is one file: a config, ``build``, ``condition``.

    Class attributes:
        name: As on the command line.
        paper: Where it comes from.
        config_class: Its settings.
        order_invariant: Whether a permutation of the retrieved set leaves the logits bit-identical.
        uses_retrieval: Whether ``condition`` looks at the retrieved exemplars.
        uses_encoder: Whether it needs vectors of the inputs (or of the exemplars).
        trainable: Whether there is anything to train.
        strategy: How its exemplars are retrieved unless asked otherwise.
        learning_rate: Its natural rate, used unless another is given.
    """

    name: ClassVar[str]
    paper: ClassVar[str] = ""
    config_class: ClassVar[type[MethodConfig]] = MethodConfig
    order_invariant: ClassVar[bool] = True
    uses_retrieval: ClassVar[bool] = False
    uses_encoder: ClassVar[bool] = False
    trainable: ClassVar[bool] = True
    strategy: ClassVar[str] = "top"
    learning_rate: ClassVar[float] = 1e-3

    config: MethodConfig
    context: MethodContext | None = None

    def __init__(self, config: MethodConfig | None = None, **settings: Any) -> None:
        super().__init__()
        if config is not None and settings:
            raise ConfigError("Pass a config or keyword settings, not both", got=sorted(settings))
        self.config = config if config is not None else self.config_class.from_dict(settings)
        self.pipeline: Any = None

    def setup(self, context: MethodContext, seed: int = 0) -> Self:
        """Create the parameters for a model and a task, the same for the same seed."""
        object.__setattr__(self, "context", context)  # not a submodule: the frozen model is never ours to save
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.build(context)
        self.to(context.lm.device)
        return self

    @property
    def ready(self) -> MethodContext:
        """The setting, or an error if ``setup`` was never called."""
        if self.context is None:
            raise NotFittedError(f"{self.name} has not been fitted", fix="Call fit(lm, task) or coldframe.load(path).")
        return self.context

    @abstractmethod
    def build(self, context: MethodContext) -> None:
        """Create parameters (float32). Called once, under the seed."""

    @abstractmethod
    def condition(self, texts: Sequence[str], retrieved: Retrieved) -> Conditioning:
        """Turn a batch of queries and what was retrieved for them into a conditioning."""

    def forward(self, texts: Sequence[str], retrieved: Retrieved) -> Conditioning:
        """``condition`` under the name that data-parallel wrappers call."""
        return self.condition(texts, retrieved)

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Optimiser groups; a method with parts of different natural rates overrides this."""
        return [{"params": [p for p in self.parameters() if p.requires_grad], "lr": learning_rate}]

    def save(self, folder: Path) -> list[str]:
        """Write what was learned into an artifact's folder; returns the names of the files."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        with atomic_path(folder / WEIGHTS) as path:
            save_file(tensors, path)
        return [WEIGHTS]

    def load(self, folder: Path) -> None:
        """Take what :meth:`save` wrote.

        Raises:
            ArtifactError: It is damaged, or belongs to other settings.
        """
        try:
            self.load_state_dict(load_file(folder / WEIGHTS))
        except (SafetensorError, OSError) as error:
            raise ArtifactError(f"{folder / WEIGHTS} is damaged: {error}", fix="Fit again.") from error
        except RuntimeError as error:
            raise ArtifactError(f"The weights do not fit the method {self.name}: {error}") from error

    def fit(self, lm: FrozenLM, task: Any, **options: Any) -> Self:
        """Adapt ``lm`` to ``task``; see :func:`coldframe.fit` for the options. Returns itself, fitted."""
        # The one call upwards: what drives a method lives above it, and is looked up by name.
        self.pipeline = importlib.import_module("coldframe.pipeline.pipeline").fit(self, lm, task, **options)
        return self

    def predict(self, texts: Sequence[str]) -> list[str]:
        """Labels (or generated texts) of new inputs."""
        return list(self._fitted().predict(texts))

    def save_pretrained(self, path: str) -> None:
        """Write the artifact: config, weights, exemplar store, model card."""
        self._fitted().save_pretrained(path)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Save and upload to a hub repository."""
        return str(self._fitted().push_to_hub(repo_id, **options))

    def _fitted(self) -> Any:
        if self.pipeline is None:
            raise NotFittedError(f"{self.name} has not been fitted", fix="Call fit(lm, task) first.")
        return self.pipeline
