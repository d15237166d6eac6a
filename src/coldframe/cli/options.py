"""What several commands take: the library's own settings as flags, recipes as their defaults."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar, get_args, get_origin, get_type_hints

import tyro

from coldframe.cli.flags import REGISTRY, Grouped, completed, described
from coldframe.config import Config, local_path, read_mapping, read_yaml
from coldframe.errors import ColdframeError, ConfigError, nearest
from coldframe.retrieval.retriever import RetrievalConfig
from coldframe.storage.files import writing
from coldframe.storage.folders import claim
from coldframe.tasks.options import TaskConfig
from coldframe.training.config import TrainingConfig

if TYPE_CHECKING:
    from coldframe.frozen.model import FrozenLM
    from coldframe.tasks.task import Task

Flat = tyro.conf.arg(name="")
Command = TypeVar("Command", bound=Config)

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
    """

    section = "model settings"
    groups = {"model": ()}

    model: str = "smollm2"
    revision: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    reweight: tyro.conf.Suppress[dict[str, Any] | None] = None  # of a recipe: settings of PEAR, folded in first

    def load(self) -> FrozenLM:
        """The model; reweighted, if a recipe says so."""
        from coldframe.frozen.model import load_lm

        lm = load_lm(self.model, dtype=self.dtype, device=self.device, revision=self.revision)
        if self.reweight is None:
            return lm
        from coldframe.methods.head_gains.config import ReweightConfig
        from coldframe.pipeline.reweight import reweighted_folder

        folder = reweighted_folder(lm, ReweightConfig.from_dict(self.reweight))
        return load_lm(str(folder), dtype=self.dtype, device=self.device)


def parse(command: type[Command], name: str, argv: Sequence[str], default: Command | None = None) -> Command:
    """Read a command's words; a recipe named among them gives the defaults.

    Args:
        command: Its options.
        name: As it is called.
        argv: What follows the name.
        default: What is meant where nothing is said; the command's own defaults if None.
    """
    options: dict[str, Any] = {} if default is None else {"default": default}
    options |= {
        "prog": f"coldframe {name}",
        "args": completed(command, argv),
        "config": (tyro.conf.HelptextFromCommentsOff, tyro.conf.FlagCreatePairsOff),
        "registry": REGISTRY,
        "description": described(command),
    }
    recipe = _value_of("--recipe", argv)
    if recipe is not None:
        values = read_mapping(recipe_path(recipe))
        for key, field in (("task", "data"), ("model", "model")):  # short for a mapping with nothing else in it
            if isinstance(values.get(key), str):
                values[key] = {field: values[key]}
        options["default"] = command.from_dict(values)
    parsed: Command = tyro.cli(command, **options)
    return parsed


def recipe_path(name: str) -> Path:
    """The file of a recipe: a path, or the name of one that comes with coldframe.

    Raises:
        ConfigError: There is none.
    """
    if local_path(name).is_file():
        return local_path(name)
    package = Path(__file__).parents[1]
    # In an installed package beside the code, in a checkout at its root.
    folder = next((f for f in (package / "recipes", package.parents[1] / "recipes") if f.is_dir()), package)
    recipes = {path.stem: path for path in folder.glob("*.yaml")}
    if name not in recipes:
        raise ConfigError(f"There is no recipe {name!r}", fix=f"Give a file, or a name. {nearest(name, recipes)}")
    return recipes[name]


def settings_of(pairs: Sequence[str]) -> dict[str, Any]:
    """``KEY=VALUE`` words as a mapping; values are read as YAML.

    Settings of a part of a composition have its name before a dot.

    >>> settings_of(["heads=8", "label-place=vector", "adapter=null", "icl.k=3"])
    {'heads': 8, 'label_place': 'vector', 'adapter': None, 'icl': {'k': 3}}
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key:
            raise ConfigError("--set takes KEY=VALUE", got=pair, expected="for example --set heads=8")
        try:
            *parts, name = key.split(".")
            target = settings
            for part in parts:
                target = target.setdefault(part, {})
            target[name.replace("-", "_")] = read_yaml(value)
        except ConfigError as error:
            raise ConfigError(f"The value in --set {pair} cannot be read: {error}") from error
    return settings


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


def writable(out: Path) -> Path:
    """The folder, made and ours; an error before the work and not after it where nothing can be written."""
    out = local_path(out)
    occupied = next((path for path in (out, *out.parents) if path.is_file()), None)
    if occupied is not None:
        raise ColdframeError(f"Cannot write {occupied}: it is a file", fix="Choose another --out.")
    out = claim(out)
    with writing(out / ".writable"):
        (out / ".writable").touch()
        (out / ".writable").unlink()
    return out


def _value_of(flag: str, argv: Sequence[str]) -> str | None:
    for word, following in zip(argv, [*argv[1:], None], strict=False):
        if word == flag:
            return following
        if word.startswith(flag + "="):
            return word.removeprefix(flag + "=")
    return None
