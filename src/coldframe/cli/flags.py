"""How settings become flags: their groups, their help in plain words, what stands for a value."""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from coldframe.config import Config
from coldframe.docstrings import meanings_of

REGISTRY = ConstructorRegistry()

_VALUES: Mapping[Any, str] = {str: "TEXT", int: "N", float: "X", bool: "True|False"}


class Group:
    """Flags below a heading of their own; one class for each heading."""

    fields: ClassVar[tuple[StructFieldSpec, ...]] = ()


class Grouped(Config):
    """Settings whose flags stand in groups.

    Attributes:
        groups: The settings of each group, by its name; the group without any has all others.
        alone: What a setting that has choices is where its flag stands without one of them.
    """

    groups: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    alone: ClassVar[Mapping[str, str]] = {}


def completed(cls: type, words: Sequence[str]) -> list[str]:
    """The words of a command, with a value after each flag that may stand alone and does."""
    alone: Mapping[str, str] = getattr(cls, "alone", {})
    complete: list[str] = []
    for word, following in zip(words, [*words[1:], ""], strict=False):
        complete.append(word)
        name = word.removeprefix("--")
        if word.startswith("--") and name in alone and following not in get_args(get_type_hints(cls)[name]):
            complete.append(alone[name])
    return complete


def explained(cls: type) -> dict[str, str]:
    """What each setting of a class means, from its docstring and those of the classes it extends."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        texts |= meanings_of(inspect.cleandoc(base.__doc__ or ""))
    return texts


def described(cls: type) -> str:
    """What a command does, in plain words, with its examples as they stand."""
    text = inspect.cleandoc(cls.__doc__ or "").partition("\nArgs:\n")[0]
    return text.replace("`", "").rstrip()


@REGISTRY.struct_rule
def _rule(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Fields of our settings, with groups; of a group, its flags as a mapping."""
    cls = info.type
    if not isinstance(cls, type):
        return None
    if issubclass(cls, Group):
        return StructConstructorSpec(dict, cls.fields)
    if not issubclass(cls, Config):
        return None
    default = info.default if isinstance(info.default, cls) else None
    fields = tuple(_fields(cls, default))
    groups = cls.groups if issubclass(cls, Grouped) else {}
    if not groups:
        return StructConstructorSpec(cls, fields)
    places = {name: title for title, names in groups.items() for name in names}
    others = next((title for title, names in groups.items() if not names), None)
    own = tuple(field for field in fields if places.get(field.name, others) is None or _positional(field))
    shown = []
    for title in groups:
        members = tuple(f for f in fields if f not in own and places.get(f.name, others) == title)
        group = type(title, (Group,), {"fields": members})
        hint: Any = Annotated[group, tyro.conf.arg(name=title, prefix_name=False)]
        shown.append(StructFieldSpec(f"group {title}", hint, tyro.MISSING))

    def instantiate(**values: Any) -> Any:
        settings = {name: value for name, value in values.items() if not name.startswith("group ")}
        for name, value in values.items():
            settings |= value if name.startswith("group ") else {}
        return cls(**settings)

    return StructConstructorSpec(instantiate, (*own, *shown))


def _fields(cls: type[Config], default: Config | None) -> Iterator[StructFieldSpec]:
    hints, texts = get_type_hints(cls, include_extras=True), explained(cls)
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        value = getattr(default, field.name) if default is not None else _default(field)
        if not _nested(hint):
            hint = _presented(hint, value)
        yield StructFieldSpec(field.name, hint, value, texts.get(field.name))


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return tyro.MISSING if field.default is dataclasses.MISSING else field.default


def _presented(hint: Any, value: Any) -> Any:
    """How a flag is shown: under its own name, with a value's kind and its default where there is something to say."""
    bare, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    known = next((extra for extra in extras if hasattr(extra, "metavar")), None)
    unsaid = value is None or isinstance(value, bool) or value in ((), "")
    argument = tyro.conf.arg(
        name=getattr(known, "name", None),
        metavar=getattr(known, "metavar", None) or _metavar(bare),
        prefix_name=False,
        help_behavior_hint=lambda label: "" if unsaid else f"(default: {label})",
    )
    return Annotated[bare, *(extra for extra in extras if extra is not known), argument]


def _metavar(hint: Any) -> str | None:
    """What stands for a value; None leaves it to the parser, which knows choices and switches."""
    if hint is bool or get_origin(hint) is Literal:
        return None
    if get_origin(hint) not in (Union, types.UnionType):
        return _kind(hint)
    options = [option for option in get_args(hint) if option is not types.NoneType]
    return "|".join(dict.fromkeys(map(_kind, options)))


def _kind(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return "{" + ",".join(map(str, get_args(hint))) + "}"
    if get_origin(hint) is dict:
        return "LABEL WORD ..."
    if get_origin(hint) is tuple:
        return " ".join("..." if part is ... else _kind(part) for part in get_args(hint))
    return _VALUES.get(hint, "VALUE")


def _nested(hint: Any) -> bool:
    hint = get_args(hint)[0] if get_origin(hint) is Annotated else hint
    return isinstance(hint, type) and issubclass(hint, Config)


def _positional(field: StructFieldSpec) -> bool:
    # The marker is a class that stands for itself in annotations.
    return tyro.conf.Positional in getattr(field.type, "__metadata__", ())
