"""Methods by name. A new method is found because its file is there: nothing central is edited."""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
from functools import cache

from coldframe.errors import ConfigError, nearest
from coldframe.methods.base import Method


@cache
def all_methods() -> dict[str, type[Method]]:
    """Every method, by name: those in this package, then those of installed plug-ins.

    A plug-in declares an entry point in the group ``coldframe.methods`` whose value is a ``Method`` class.

    >>> "mha-esp" in all_methods()
    True
    """
    package = importlib.import_module("coldframe.methods")
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
    found: dict[str, type[Method]] = {}
    pending = list(Method.__subclasses__())
    while pending:
        cls = pending.pop()
        pending.extend(cls.__subclasses__())
        if "name" in cls.__dict__:
            found[cls.name] = cls
    for entry in importlib.metadata.entry_points(group="coldframe.methods"):
        plugged = entry.load()
        if plugged.name in found and found[plugged.name] is not plugged:
            raise ConfigError(f"The plug-in {entry.value!r} takes a name that is in use", got=plugged.name)
        found[plugged.name] = plugged
    return dict(sorted(found.items()))


def method_class(name: str) -> type[Method]:
    """The class of a method.

    Raises:
        ConfigError: If there is none of this name; suggests the nearest.
    """
    methods = all_methods()
    if name not in methods:
        raise ConfigError(f"There is no method {name!r}", fix=nearest(name, methods))
    return methods[name]
