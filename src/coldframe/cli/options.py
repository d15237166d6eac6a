"""What several commands take: the library's own settings as flags, recipes as their defaults."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, get_args, get_origin, get_type_hints

import tyro

from coldframe.cli.flags import Grouped
from coldframe.cli.threads import start_threads
from coldframe.errors import ConfigError
from coldframe.retrieval.retriever import RetrievalConfig
from coldframe.tasks.options import TaskConfig
from coldframe.training.config import TrainingConfig

if TYPE_CHECKING:
    from coldframe.frozen.model import FrozenLM
    from coldframe.tasks.task import Task

Flat = tyro.conf.arg(name="")

#: Words of ``--set``, which may be given several times.
Settings = Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="KEY=VALUE")]


@dataclasses.dataclass(frozen=True)
class TaskFlags(TaskConfig, Grouped):
    """The options of a task as flags."""

    groups = {
        "table": ("text", "label", "positive", "test", "questions", "title", "contexts", "store"),
        "prompt": ("template", "instruction", "words", "end"),
        "split": ("split", "test_size", "validation_size", "seed", "max_train"),
        "reading": (),
    }

    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA")] = ""
    seed: Annotated[int, tyro.conf.arg(name="split-seed")] = 0


@dataclasses.dataclass(frozen=True)
class RetrievalFlags(RetrievalConfig, Grouped):
    """The settings of retrieval as flags."""

    groups = {"retrieval": ()}

    encoder: Annotated[str, tyro.conf.arg(name="retrieval-encoder")] = "auto"
    seed: Annotated[int, tyro.conf.arg(name="retrieval-seed")] = 0


class _TrainingFlags(Grouped):
    """Marks the class below for the type checker."""

    groups = {"training": ()}

    def changes(self) -> dict[str, Any]:
        """The settings that were given."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if value is not None}


#: The settings of training, each None where it is left to the method.
TrainingFlags = dataclasses.make_dataclass(
    "TrainingFlags",
    [
        (name, hint if type(None) in get_args(hint) else hint | None, None)
        for name, hint in get_type_hints(TrainingConfig).items()
        if get_origin(hint) is not ClassVar
    ],
    bases=(_TrainingFlags,),
    frozen=True,
)
TrainingFlags.__doc__ = TrainingConfig.__doc__


@dataclasses.dataclass(frozen=True)
class ModelFlags(Grouped):
    """Which frozen model.

    Args:
        model: A name that comes from the package index (smollm2, gemma3-270m, qwen2.5-coder-1.5b), a folder,
            or a hub id.
        revision: Of a hub model.
        dtype: bfloat16 where the processor has it, or one of bfloat16, float16, float32.
        device: A GPU if there is one, or cpu, cuda, cuda:1 and so on.
        exact: Read one query at a time, so that a score does not depend on the batch, to the bit; several times slower.
    """

    section = "model settings"
    groups = {"model": ()}

    model: str = "smollm2"
    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    exact: bool = False
    reweight: tyro.conf.Suppress[dict[str, Any] | None] = None  # of a recipe: settings of PEAR, folded in first

    def load(self, quiet: bool = False) -> FrozenLM:
        """The model; reweighted, if a recipe says so."""
        start_threads(quiet)
        from coldframe.frozen.model import load_lm

        numbers: dict[str, Any] = {"dtype": self.dtype, "device": self.device, "exact": self.exact}
        lm = load_lm(self.model, revision=self.revision, **numbers)
        if self.reweight is None:
            return lm
        from coldframe.methods.head_gains.config import ReweightConfig
        from coldframe.pipeline.reweight import reweighted_folder

        folder = reweighted_folder(lm, ReweightConfig.from_dict(self.reweight))
        return load_lm(str(folder), **numbers)


def load(flags: TaskConfig) -> Task:
    """The task.

    Raises:
        ConfigError: None was named.
    """
    from coldframe.tasks import load_task

    fix = "Name a built-in task (coldframe tasks), a file or a data set on the hub."
    if not flags.data:
        raise ConfigError("There is no data", fix=fix)
    return load_task(TaskConfig.from_dict(flags.to_dict()))
