"""``coldframe methods``."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import inspect
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from coldframe.cli.output import print_json
from coldframe.cli.parsing import parse
from coldframe.config import Config
from coldframe.docstrings import meanings_of, plain
from coldframe.errors import ConfigError, nearest
from coldframe.methods.catalogue import Described, Setting, described_methods

if TYPE_CHECKING:
    from coldframe.methods.base import Method

TRAITS = ("paper", "trainable", "uses_retrieval", "order_invariant")


@dataclasses.dataclass(frozen=True)
class Methods(Config):
    """List the methods, or explain the settings of one, as --set takes them.

    For example:
      coldframe methods
      coldframe methods mha-esp

    Args:
        method: The method to explain; all are listed if you name none.
        json: Print it as JSON.
    """

    method: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="NAME")] = None
    json: bool = False


def run(argv: Sequence[str]) -> None:
    """Print what there is."""
    options = parse(Methods, "methods", argv)
    methods = dict(sorted((described_methods() | _plugged()).items()))
    if options.method is not None and options.method not in methods:
        raise ConfigError(f"There is no method {options.method!r}", fix=nearest(options.method, methods))
    if options.method is not None:
        _explain(methods[options.method], options.json)
    elif options.json:
        print_json([_summary(method) for method in methods.values()])
    else:
        for method in methods.values():
            print(f"{method.name:<14} {_first_line(method)}")
            print(f"{'':<14} {', '.join(f'{s.name}={_shown(s.default)}' for s in method.settings)}")
        print("\nIts settings explained: coldframe methods NAME")


def _plugged() -> dict[str, Described]:
    """Methods that other packages bring, which have to be imported."""
    if not importlib.metadata.entry_points(group="coldframe.methods"):
        return {}
    from coldframe.methods.registry import all_methods

    own = described_methods()
    return {name: _imported(cls) for name, cls in all_methods().items() if name not in own}


def _imported(cls: type[Method]) -> Described:
    meanings: dict[str, str] = {}
    for base in reversed(cls.config_class.__mro__):
        meanings |= meanings_of(inspect.cleandoc(base.__doc__ or ""))
    hints = {field.name: str(field.type) for field in dataclasses.fields(cls.config_class)}
    settings = cls.config_class().to_dict().items()
    traits = {name: getattr(cls, name) for name in TRAITS}
    explained = tuple(Setting(name, value, hints[name], meanings.get(name, "")) for name, value in settings)
    return Described(cls.name, inspect.getdoc(cls) or "", traits, explained)


def _summary(method: Described) -> dict[str, Any]:
    """A method in plain data: the first line of its description, what it looks at, its settings."""
    return {
        "name": method.name,
        "description": _first_line(method),
        **{name: method.traits[name] for name in TRAITS},
        "settings": {setting.name: setting.default for setting in method.settings},
    }


def _explain(method: Described, as_json: bool) -> None:
    if as_json:
        print_json({**_summary(method), "settings": [dataclasses.asdict(setting) for setting in method.settings]})
        return
    print(f"{method.name}: {_first_line(method)}")
    if method.traits["paper"]:
        print(f"Paper: {method.traits['paper']}")
    print("\nSettings, each as --set NAME=VALUE:")
    for setting in method.settings:
        print(f"\n  {setting.name}={_shown(setting.default)}    {_values(setting.values)}")
        print(textwrap.fill(setting.meaning, 100, initial_indent=" " * 6, subsequent_indent=" " * 6))


def _first_line(method: Described) -> str:
    return plain((method.docstring.splitlines() or [""])[0])


def _shown(value: Any) -> str:
    """A default as --set would take it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _values(annotation: str) -> str:
    """What may be given, for people: ``Literal['a', 'b'] | None`` is "a, b or null"."""
    parts = [part.strip() for part in annotation.split(" | ")]
    words = {"int": "a whole number", "float": "a number", "str": "a text", "bool": "true or false", "None": "null"}
    return " or ".join(words.get(part, part.removeprefix("Literal[").rstrip("]").replace("'", "")) for part in parts)
