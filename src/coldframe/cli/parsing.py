"""How a command's words are read, without anything that a command works with: help is there at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from coldframe.cli.flags import REGISTRY, completed, described
from coldframe.config import Config, check, local_path, read_mapping, read_yaml
from coldframe.errors import ConfigError, nearest
from coldframe.progress import first_process
from coldframe.storage.files import writing
from coldframe.storage.folders import claimed

Command = TypeVar("Command", bound=Config)


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
        options["default"] = from_recipe(command, recipe)
    parsed: Command = tyro.cli(command, **options)
    return parsed


def from_recipe(command: type[Command], name: str) -> Command:
    """The options of a command that a recipe says."""
    values = read_mapping(recipe_path(name))
    for key, field in (("task", "data"), ("model", "model")):  # short for a mapping with nothing else in it
        if isinstance(values.get(key), str):
            values[key] = {field: values[key]}
    return command.from_dict(values)


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
        *parts, name = key.split(".")
        target = settings
        for part in parts:
            target = target.setdefault(part, {})
            check(isinstance(target, dict), f"--set gives {part!r} both a value and settings of its own", got=pair)
        try:
            target[name.replace("-", "_")] = read_yaml(value)
        except ConfigError as error:
            raise ConfigError(f"The value in --set {pair} cannot be read: {error}") from error
    return settings


@contextlib.contextmanager
def writable(out: Path) -> Iterator[Path]:
    """The folder, made and ours alone while the block runs; an error now and not after the work if that cannot be."""
    if not first_process():
        yield local_path(out)
        return
    with claimed(local_path(out)) as folder:
        with writing(folder / ".writable"):
            (folder / ".writable").touch()
            (folder / ".writable").unlink()
        yield folder


def _value_of(flag: str, argv: Sequence[str]) -> str | None:
    for word, following in zip(argv, [*argv[1:], None], strict=False):
        if word == flag:
            return following
        if word.startswith(flag + "="):
            return word.removeprefix(flag + "=")
    return None
