"""Settings: frozen dataclasses that travel to JSON and YAML and back.

An unknown key is an error that names the nearest known one, a value out of range is an error when the
object is made, and no file can name a class to import.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml

from coldframe.errors import ConfigError, nearest

# Of a class, once: reports hold thousands of small objects.
_hints: Callable[[Any], dict[str, Any]] = functools.cache(typing.get_type_hints)


@dataclasses.dataclass(frozen=True)
class Config:
    """Base of every settings object.

    Subclasses are frozen dataclasses with plain fields (numbers, strings, booleans, None, tuples, nested
    ``Config``). One that checks more in ``__post_init__`` calls its parent's first, which checks choices and ranges.

    Attributes:
        section: What errors call these settings.
        at_least: The lowest value of a field; None passes.
        above: What a field must be larger than; None passes.
        at_most: The highest value of a field, if there is one of that name; None passes. What is allocated by a number
            that a file names has a bound.
        plain: Of a field that may be set to an object: makes the plain value that stands for it.
    """

    section: ClassVar[str] = "settings"
    at_least: ClassVar[Mapping[str, float]] = {}
    above: ClassVar[Mapping[str, float]] = {}
    at_most: ClassVar[Mapping[str, float]] = {}
    plain: ClassVar[Mapping[str, Callable[[Any], Any]]] = {}

    def __post_init__(self) -> None:
        for name, convert in self.plain.items():
            object.__setattr__(self, name, convert(getattr(self, name)))
        for cls in type(self).__mro__:
            for name, bound in vars(cls).get("at_least", {}).items():
                value = getattr(self, name)
                check(value is None or value >= bound, f"{name} must be at least {bound}", got=value)
            for name, bound in vars(cls).get("above", {}).items():
                value = getattr(self, name)
                check(value is None or value > bound, f"{name} must be above {bound}", got=value)
            for name, bound in vars(cls).get("at_most", {}).items():
                value = getattr(self, name, None)
                check(not isinstance(value, int) or value <= bound, f"{name} must be at most {bound:,}", got=value)
        for name, hint in _hints(type(self)).items():
            if typing.get_origin(hint) is typing.Literal:
                _coerce(getattr(self, name), hint, f"{self.section}.{name}")

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries and lists, ready for JSON."""
        return typing.cast(dict[str, Any], json.loads(json.dumps(dataclasses.asdict(self))))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, results: bool = False) -> Self:
        """Build from a mapping; unknown keys and wrong types are errors.

        Args:
            values: The settings.
            results: They are results, which JSON has null for where a number is not defined: it is NaN again.
        """
        fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
        hints = _hints(cls)
        built: dict[str, Any] = {}
        for key, value in values.items():
            if key not in fields:
                raise ConfigError(f"Unknown key {key!r} in the {cls.section}", fix=nearest(key, fields))
            built[key] = _coerce(cls.plain.get(key, _same)(value), hints[key], f"{cls.section}.{key}", results)
        needed = (n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING)
        for name in needed:
            check(name in built, f"The {cls.section} lack the key {name!r}")
        return cls(**built)

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read JSON or YAML (by the file's ending)."""
        return cls.from_dict(read_mapping(path))

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, checked like a new one."""
        return type(self).from_dict({**self.to_dict(), **changes})


def local_path(path: str | Path) -> Path:
    """A path as a user means it: ``~`` is the home folder.

    Raises:
        ConfigError: There is no home folder.

    Example:
        >>> local_path("~/a.csv") == Path.home() / "a.csv"
        True
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"Cannot tell where {path} is ({error})", fix="Write the path without '~'.") from error


def read_mapping(path: str | Path) -> dict[str, Any]:
    """A JSON or YAML file that holds a mapping, read safely (no tags, no code, no end of nesting or aliases)."""
    path = local_path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"Cannot read {path}: {error}", fix="Check the path and the encoding.") from error
    try:
        values = json.loads(text) if path.suffix == ".json" else read_yaml(text)
    except (ValueError, RecursionError) as error:  # a JSONDecodeError and a ConfigError are ValueErrors
        raise ConfigError(f"{path} is not valid {path.suffix.lstrip('.') or 'YAML'}: {_brief(error)}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} does not hold a mapping", got=type(values).__name__, expected="key: value")
    return values


MAX_YAML = 100_000
"""Most values of a YAML text, those that aliases repeat counted as often as they stand there."""


class _PlainLoader(yaml.SafeLoader):
    """YAML whose aliases and brackets have an end.

    A few lines of aliases can stand for more than any memory holds. The time that the scanner takes grows with the
    square of the open brackets.
    """

    def fetch_flow_collection_start(self, token: Any) -> Any:
        """As it is, unless there are too many around it."""
        if self.flow_level > 100:
            raise yaml.YAMLError("brackets are nested too deep")
        return super().fetch_flow_collection_start(token)

    def get_single_node(self) -> Any:
        """As it is, unless it stands for too much."""
        node = super().get_single_node()
        if node is not None:
            _values(node, {})
        return node


def _values(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for, with its aliases in their places."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = MAX_YAML + 1  # for an alias to what it stands in
    parts: list[yaml.Node] = []
    if isinstance(node, yaml.CollectionNode):
        for item in node.value:
            parts += item if isinstance(item, tuple) else [item]
    count = 1 + sum(_values(part, known) for part in parts)
    if count > MAX_YAML:
        raise yaml.YAMLError(f"it stands for more than {MAX_YAML:,} values")
    known[id(node)] = count
    return count


def read_yaml(text: str) -> Any:
    """Plain values of a YAML text.

    >>> read_yaml("{k: 3, name: mood}")
    {'k': 3, 'name': 'mood'}

    Raises:
        ConfigError: It is not valid, nested too deep, or stands for too many values.
    """
    try:
        return yaml.load(text, _PlainLoader)
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise ConfigError(f"This is no YAML that can be read: {_brief(error)}") from error


def _brief(error: BaseException) -> str:
    return str(error)[:300] or type(error).__name__


def without_nan(value: Any) -> Any:
    """The same plain data with None, which JSON has, where a float is not finite, which JSON has not.

    >>> without_nan({"value": float("nan"), "ends": (0.5, float("inf"))})
    {'value': None, 'ends': [0.5, None]}
    """
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): without_nan(item) for key, item in value.items()}
    return [without_nan(item) for item in value] if isinstance(value, (list, tuple)) else value


def check(condition: bool, problem: str, *, got: object = None, expected: object = None) -> None:
    """Raise ``ConfigError`` unless ``condition`` holds: the one line that range checks are written in."""
    if not condition:
        raise ConfigError(problem, got=got, expected=expected)


def _coerce(value: Any, hint: Any, where: str, results: bool = False) -> Any:
    """Check ``value`` against a field's type; integers pass for floats, lists for tuples, null for NaN in results."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        for option in args:
            with contextlib.suppress(ConfigError):
                return _coerce(value, option, where, results)
        raise ConfigError(f"{where} has the wrong type", got=repr(value), expected=_name(hint))
    if origin is typing.Literal:
        if value not in args:
            fix = nearest(str(value), map(str, args))
            raise ConfigError(f"{where} is not one of its choices", got=repr(value), fix=fix)
        return value
    nested = isinstance(hint, type) and issubclass(hint, Config)
    if nested and isinstance(value, hint):
        return value
    if nested or origin in (dict, Mapping):
        check(isinstance(value, Mapping), f"{where} must be a mapping", got=repr(value))
        if nested:
            return hint.from_dict(value, results=results)
        numbers = results and args[1:] == (float,)
        return {key: _coerce(item, float, where, results) if numbers else item for key, item in value.items()}
    if origin is tuple:
        check(isinstance(value, (list, tuple)), f"{where} must be a list", got=repr(value))
        return tuple(_coerce(item, args[0], where, results) for item in value)
    if hint is float and value is None and results:
        return math.nan
    if hint is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        # A text may be no number (YAML 1.1 reads 1e-3 as a text), and a number too large.
        with contextlib.suppress(ValueError, OverflowError):
            return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ConfigError(f"{where} has the wrong type", got=repr(value), expected=_name(hint))
    return value


def _same(value: Any) -> Any:
    return value


def _name(hint: Any) -> str:
    return getattr(hint, "__name__", None) or str(hint).replace("typing.", "")
