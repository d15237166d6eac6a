"""Methods by name. A new method is found because its file is there: nothing central is edited."""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
from collections.abc import Mapping
from functools import cache
from typing import Any

from coldframe import methods
from coldframe.errors import ConfigError, nearest
from coldframe.methods.base import Method, is_concrete
from coldframe.methods.compose import JOIN, Compose


@cache
def all_methods() -> dict[str, type[Method]]:
    """Every method, by name: those in this package, then those of installed plug-ins.

    A plug-in declares an entry point in the group ``coldframe.methods`` whose value is a ``Method`` class.

    >>> "mha-esp" in all_methods()
    True
    """
    for module in pkgutil.walk_packages(methods.__path__, methods.__name__ + "."):
        importlib.import_module(module.name)
    classes = _imported()
    for entry in importlib.metadata.entry_points(group="coldframe.methods"):
        plugged = entry.load()
        if plugged.name in classes and classes[plugged.name] is not plugged:
            raise ConfigError(f"The plug-in {entry.value!r} takes a name that is in use", got=plugged.name)
        classes[plugged.name] = plugged
    return dict(sorted(classes.items()))


def _imported() -> dict[str, type[Method]]:
    """The methods of this package in the modules that are imported."""
    classes: dict[str, type[Method]] = {}
    pending = list(Method.__subclasses__())
    while pending:
        cls = pending.pop()
        pending.extend(cls.__subclasses__())
        if is_concrete(cls) and cls is not Compose and cls.__module__.startswith(f"{methods.__name__}."):
            classes[cls.name] = cls
    return classes


def method_class(name: str) -> type[Method]:
    """The class of a method."""
    # Most stand in a file of their name: the others, and the libraries that they need, are not loaded for it.
    file = name.replace("-", "_")
    for module in pkgutil.walk_packages(methods.__path__, methods.__name__ + "."):
        if module.name.endswith(f".{file}"):
            importlib.import_module(module.name)
            if name in (imported := _imported()):
                return imported[name]
    classes = all_methods()
    if name not in classes:
        raise ConfigError(f"There is no method {name!r}", fix=nearest(name, classes))
    return classes[name]


def create(name: str, settings: Mapping[str, Any] | None = None) -> Method:
    """A method by name; several names joined by ``+`` are composed.

    Args:
        name: As on the command line.
        settings: Its settings. Those of a composition are by the name of its parts: ``{"icl": {"k": 3}}``.

    >>> create("icl+pear", {"icl": {"k": 3}})
    Compose(RetrievedICL(k=3), PEAR())
    """
    settings = dict(settings or {})
    if JOIN not in name:
        cls = method_class(name)
        return cls(cls.config_class.from_dict(settings))
    names = name.split(JOIN)
    for key in settings:
        if key not in names:
            raise ConfigError(
                f"{key!r} is not a part of {name}", fix=f"{nearest(key, names)} Settings are PART.KEY=VALUE."
            )
    return Compose(*(create(part, settings.get(part)) for part in names))
