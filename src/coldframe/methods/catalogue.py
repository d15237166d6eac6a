"""What the methods are and take, read from their source: no method, and no torch, is imported for it."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from coldframe.docstrings import meanings_of
from coldframe.errors import ConfigError, nearest


@dataclasses.dataclass(frozen=True)
class Setting:
    """A setting of a method: its default, its values as an annotation has them, what it means."""

    name: str
    default: Any
    values: str
    meaning: str


@dataclasses.dataclass(frozen=True)
class Described:
    """A method in plain data; ``traits`` are its class attributes, ``settings`` those of its config class."""

    name: str
    docstring: str
    traits: Mapping[str, Any]
    settings: tuple[Setting, ...]


@dataclasses.dataclass(frozen=True)
class _Class:
    name: str
    docstring: str
    bases: tuple[str, ...]
    assigned: Mapping[str, ast.expr]
    hints: Mapping[str, str]


@cache
def described_methods() -> dict[str, Described]:
    """Every method of this package by name; plug-ins, which would have to be imported, are not among them.

    >>> described_methods()["mha-esp"].traits["order_invariant"]
    True
    """
    classes = dict(_classes())
    methods: dict[str, Described] = {}
    for name in classes:
        lineage = list(_lineage(name, classes))
        own = classes[name].assigned
        if any(base.name == "Method" for base in lineage) and "name" in own:
            method = _described(lineage, classes)
            methods[method.name] = method
    methods.pop("compose", None)
    return dict(sorted(methods.items()))


def described_method(name: str) -> Described:
    """One of them.

    Raises:
        ConfigError: There is none of this name.
    """
    methods = described_methods()
    if name not in methods:
        raise ConfigError(f"There is no method {name!r}", fix=nearest(name, methods))
    return methods[name]


def _classes() -> Iterator[tuple[str, _Class]]:
    nodes = [
        node
        for path in sorted(Path(__file__).parent.rglob("*.py"))
        for node in ast.parse(path.read_text(encoding="utf-8")).body
    ]
    # Types that have a name of their own are written out.
    named = {
        ast.unparse(node.target): ast.unparse(node.value)
        for node in nodes
        if isinstance(node, ast.AnnAssign) and node.value is not None and "TypeAlias" in ast.unparse(node.annotation)
    }
    for node in nodes:
        if isinstance(node, ast.ClassDef):
            assigned, hints = {}, {}
            for line in node.body:
                if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                    hint = ast.unparse(line.annotation)
                    hints[line.target.id] = named.get(hint, hint)
                    if line.value is not None:
                        assigned[line.target.id] = line.value
                elif isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
                    assigned[line.targets[0].id] = line.value
            bases = tuple(ast.unparse(base) for base in node.bases)
            yield node.name, _Class(node.name, inspect.cleandoc(ast.get_docstring(node) or ""), bases, assigned, hints)


def _lineage(name: str, classes: Mapping[str, _Class]) -> Iterator[_Class]:
    """A class and those that it extends, nearest first."""
    if name in classes:
        yield classes[name]
        for base in classes[name].bases:
            yield from _lineage(base, classes)


def _described(lineage: list[_Class], classes: Mapping[str, _Class]) -> Described:
    traits: dict[str, Any] = {}
    for cls in reversed(lineage):
        traits |= {name: _value(expression) for name, expression in cls.assigned.items()}
    settings: dict[str, Setting] = {}
    meanings: dict[str, str] = {}
    for config in reversed(list(_lineage(str(traits["config_class"]), classes))):
        meanings |= meanings_of(config.docstring)
        for name, hint in config.hints.items():
            if not hint.startswith("ClassVar"):
                settings[name] = Setting(name, _value(config.assigned[name]), hint, "")
    explained = tuple(dataclasses.replace(value, meaning=meanings.get(name, "")) for name, value in settings.items())
    return Described(str(traits["name"]), lineage[0].docstring, traits, explained)


def _value(expression: ast.expr) -> Any:
    """What stands in the source: a constant, or the words of an expression."""
    try:
        value = ast.literal_eval(expression)
    except ValueError:
        return ast.unparse(expression)
    return json.loads(json.dumps(value))  # tuples are lists, as in a file of settings
